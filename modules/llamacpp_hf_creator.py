"""A GGUF file and its tokenizer in one folder, as the loader llamacpp_HF wants them.

The tokenizer's files come from the repository of the unquantised model. The GGUF file is moved last, so whatever goes
wrong before leaves it where it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from modules.catalog.catalog import Catalog, ModelRecord
from modules.config.model_settings import ModelSettings
from modules.core.errors import InternalError, ModelInUse, SettingsError, Unsupported, WebUIError
from modules.core.product import LOG_FILE
from modules.downloads.install_files import METADATA
from modules.downloads.manager import Downloads
from modules.downloads.partial_file import disk_faults
from modules.downloads.record import Wanted
from modules.downloads.view import JobView
from modules.formats.tokenizer_files import VOCABULARIES
from modules.formats.weight_files import set_name
from modules.hub.errors import Stopped, TargetExists, TokenizerMissing
from modules.hub.mirrors import Hubs
from modules.hub.repo_id import Address
from modules.hub.repository import Repository
from modules.runtime.model_manager import ModelManager

LOADER = "llamacpp_HF"
ABOUT = {
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "vocab.txt"),
    *("chat_template.jinja", "chat_template.json", "config.json", "generation_config.json"),
}
"""What is taken of a repository: never weights, never code."""

_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Created:
    """The model's new `name` and `folder`. `problem` is why its saved settings did not come along."""

    name: str
    folder: Path
    problem: WebUIError | None = None


class Creation:
    """One on its way. Any thread may look at it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.outcome: Future[Created] = Future()
        self.download: JobView | None = None


class Creator:
    def __init__(
        self,
        catalog: Catalog,
        remembered: ModelSettings,
        models: ModelManager,
        downloads: Downloads,
        hubs: Hubs,
    ) -> None:
        self._catalog, self._remembered, self._models = catalog, remembered, models
        self._downloads, self._hubs = downloads, hubs
        self._busy: set[Path] = set()
        self._lock = threading.Lock()  # guards the above

    def models(self) -> list[str]:
        """The names of the GGUF models that are whole."""
        return [each.name for each in self._catalog.models() if each.format == "gguf" and each.problem is None]

    def begin(self, model: str, address: str) -> Creation:
        """Start it, in a thread that outlives the page. What is wrong with the wish is raised at once; the outcome
        has the rest: DownloadError, ModelInUse."""
        record, wish = self._catalog.find(model), self._hubs.address(address)
        self._check(record)
        creation = Creation(record.name)
        with self._lock:
            if self._folder(record) in self._busy:
                raise ModelInUse(record.name)
            self._busy.add(self._folder(record))
        threading.Thread(
            target=self._work, args=(creation, record, wish), name="llamacpp_HF creator", daemon=True
        ).start()
        return creation

    def _work(self, creation: Creation, record: ModelRecord, wish: Address) -> None:
        try:
            creation.outcome.set_result(self._create(creation, record, wish))
        except WebUIError as error:
            creation.outcome.set_exception(error)
        finally:
            with self._lock:
                self._busy.discard(self._folder(record))
            if not creation.outcome.done():  # a fault of ours: nobody shall wait for it
                creation.outcome.set_exception(InternalError(LOG_FILE))

    def _check(self, record: ModelRecord) -> None:
        """That nothing stands in the way, now."""
        if record.problem is not None:
            raise record.problem
        if record.format != "gguf":
            raise Unsupported(
                {"en": f"{record.name} is not a GGUF file.", "zh": f"{record.name} 不是 GGUF 文件。"},
            )
        status = self._models.status
        if status.name == record.name and status.state in ("loading", "ready"):
            raise ModelInUse(record.name)
        folder = self._folder(record)
        if os.path.lexists(folder) and not _left_over(folder):
            raise TargetExists(str(folder))

    def _folder(self, record: ModelRecord) -> Path:
        return self._catalog.folder / f"{set_name(record.path)}-HF"

    def _create(self, creation: Creation, record: ModelRecord, wish: Address) -> Created:
        folder = self._folder(record)
        files = tokenizer_files(self._hubs.repository(wish), wish.folder)
        wanted = Wanted(wish.repo, wish.revision, folder.name, files, flat=True)
        self._await(creation, self._downloads.start(wanted), folder)
        try:
            self._check(record)
            _move(sorted(record.files), folder)
        except WebUIError:
            _remove(folder)
            raise
        name = f"{folder.name}/{record.path.name}"
        return Created(name, folder, self._carry_over(record.name, name))

    def _await(self, creation: Creation, job: str, folder: Path) -> None:
        """Until it is done. One that is paused may be resumed, where downloads are looked after; and forgotten."""
        while True:
            view = creation.download = next((each for each in self._downloads.snapshot() if each.id == job), None)
            if (view is None and not _left_over(folder)) or (view and view.state == "cancelled"):
                raise Stopped
            if view is None or view.state == "done":
                return
            if view.error:
                self._downloads.cancel(job)
                self._downloads.forget(job)
                raise view.error
            time.sleep(_TICK_SECONDS)

    def _carry_over(self, old: str, new: str) -> SettingsError | None:
        """What was saved for the model, to its new name, and that it is for llamacpp_HF now."""
        try:
            self._remembered.rename(old, new)
            self._remembered.save(new, LOADER, {}, ())
        except SettingsError as error:
            return error
        return None


def tokenizer_files(repository: Repository, folder: str = "") -> tuple[str, ...]:
    """The paths of the files to take, directly in `folder` of the repository. TokenizerMissing."""
    start = f"{folder}/" if folder else ""
    names = {file.path.removeprefix(start) for file in repository.files}
    found = sorted(name for name in names if _is_about(name))
    if "tokenizer_config.json" not in found or not set(VOCABULARIES).intersection(found):
        raise TokenizerMissing(repository.name)
    return tuple(start + name for name in found)


def _left_over(folder: Path) -> bool:
    """Whether it holds what an earlier, interrupted go has downloaded, and nothing else."""
    if folder.is_symlink() or not folder.is_dir() or not (folder / METADATA).is_file():
        return False
    return all(each.is_file() and (each.name == METADATA or _is_about(each.name)) for each in folder.iterdir())


def _is_about(name: str) -> bool:
    return name in ABOUT or (name.endswith(".tiktoken") and "/" not in name)


def _remove(folder: Path) -> None:
    """What was downloaded, if that is all there is."""
    if _left_over(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _move(files: Iterable[Path], folder: Path) -> None:
    """All of them or none. DiskRefused, DiskFull."""
    with disk_faults(folder, 0), contextlib.ExitStack() as undo:
        for file in files:
            _move_one(file, folder / file.name)
            undo.callback(_move_one, folder / file.name, file)
        undo.pop_all()


def _move_one(file: Path, to: Path) -> None:
    if not file.is_symlink():
        os.rename(file, to)
        return
    os.symlink(file.parent / os.readlink(file), to)  # one that is relative leads elsewhere from another folder
    file.unlink()
