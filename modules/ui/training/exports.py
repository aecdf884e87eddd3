"""Export LoRAs from the page: as files that the browser saves, or merged into a model in the background."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

from modules.app import App
from modules.core.errors import InternalError, WebUIError
from modules.core.events import Json
from modules.core.product import LOG_FILE
from modules.lora.catalog import CONVERTED
from modules.training.page_errors import MergeBusy


def zipped(lora: Path) -> Path:
    """Write the files of a LoRA to a temporary ZIP file, whose caller deletes it. Raises OSError."""
    with tempfile.NamedTemporaryFile(prefix="lora-", suffix=".zip", delete=False) as file:
        path = Path(file.name)
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for one in sorted(lora.rglob("*")):
                if one.is_file() and CONVERTED not in one.parts:
                    archive.write(one, f"{lora.name}/{one.relative_to(lora)}")
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path


@dataclass(frozen=True)
class Merge:
    """The merge of a LoRA into the new model `name`.

    `state` is "running", "done" or "failed", `progress` the share of the weights that is loaded, from 0 to 1.
    """

    lora: str
    name: str
    state: str = "running"
    progress: float = 0.0
    error: WebUIError | None = None


class Merges:
    """Merges one LoRA at a time, and remembers how the last merge went. Any thread may call."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._merge: Merge | None = None

    def start(self, lora: str, model: str, name: str) -> None:
        """Begin to merge a LoRA into a copy of `model`. Raises MergeBusy if another merge is going on."""
        with self._lock:
            if self._merge is not None and self._merge.state == "running":
                raise MergeBusy(self._merge.name)
            self._merge = Merge(lora, name)
        threading.Thread(target=self._run, args=(lora, model, name), name="merge", daemon=True).start()

    def to_json(self, language: str) -> Json:
        """Return the last merge for the page; None if there was none."""
        with self._lock:
            merge = self._merge
        if merge is None:
            return None
        return {**vars(merge), "error": merge.error.say(language) if merge.error else ""}

    def _run(self, lora: str, model: str, name: str) -> None:
        error: WebUIError | None = InternalError(LOG_FILE)
        try:
            self._app.training.export_merged(lora, model, name, lambda done: self._change(progress=done))
            error = None
        except WebUIError as known:
            error = known
        finally:
            self._change(state="failed" if error else "done", error=error)

    def _change(self, **changes: Json) -> None:
        with self._lock:
            if self._merge is not None:
                self._merge = replace(self._merge, **changes)
