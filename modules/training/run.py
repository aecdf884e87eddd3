"""One training run on disk: its folder holds the data, the parameters, the state, the log and the checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.core.errors import WebUIError, Words
from modules.core.events import Json
from modules.engines.training.job import CHECKPOINTS, LOG, newest_checkpoint, read_log
from modules.engines.training.samples import Sample
from modules.options.option import Value
from modules.system import file_lock
from modules.system.atomic_write import replace_file
from modules.training.smoothing import MovingAverage

RUN, STATE, LOCK = "run.json", "state.json", ".lock"
TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
DISCARDED = "discarded"
ENDED = ("finished", "stopped", "failed", "interrupted", DISCARDED)
RESUMABLE = ("stopped", "failed", "interrupted")
_RETRY_SECONDS = 0.02


@dataclass(frozen=True)
class RunFacts:
    """What does not change after a run was made.

    `model` is the name of the base model, `base` what identifies its files; `data` is the SHA-256 of the samples.
    `continues` is the name of the LoRA whose weights the run starts from. `created` is in seconds of Unix time.
    """

    name: str
    model: str
    path: str
    format: str
    base: str
    data: str
    rows: int
    parameters: Mapping[str, Value]
    options: Mapping[str, Value]
    created: float
    continues: str = ""


@dataclass(frozen=True)
class RunView:
    """A run as it is now.

    `state` is "queued" (at `position`, from 1; `waiting` says what for), "running", or one of ENDED. While it runs,
    `phase` is "starting", "weights" (of which `progress` is loaded, 0 to 1), "data", "training", "evaluating" or
    "saving". `reason` is why it ended early: "stopped", "loss" or "patience". `seconds` are those of training,
    `seconds_left` an estimate. `memory` and `gpu_memory` are bytes. `average` is the moving average of the loss,
    `smoothed` its value. `best` is the best evaluation, as update and loss. `facts` are those of the tokenized data.
    `adapter` is the name of the finished LoRA, `resumable` whether there is a checkpoint to go on from.
    """

    run: RunFacts
    state: str
    phase: str = ""
    progress: float = 0.0
    position: int = 0
    waiting: Words | None = None
    reason: str = ""
    error: WebUIError | None = None
    update: int = 0
    updates: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    memory: int = 0
    gpu_memory: int = 0
    loss: float | None = None
    average: MovingAverage = field(default_factory=MovingAverage)
    eval_loss: float | None = None
    best: tuple[int, float] | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    checkpoint: int = 0
    facts: Mapping[str, Json] = field(default_factory=dict)
    started: float = 0.0
    ended: float = 0.0
    adapter: str = ""
    resumable: bool = False

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def smoothed(self) -> float | None:
        return self.average.value

    def to_json(self, language: str = "en") -> dict[str, Json]:
        """Return all of it for the page and the API, the error as a sentence in `language`."""
        values: dict[str, Any] = {key: value for key, value in vars(self).items() if key not in _WRITTEN_OTHERWISE}
        run = {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self.run).items()}
        finite = {key: value for key, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
        values = {key: finite.get(key) for key in values}  # JSON has no NaN
        said = {
            "error": self.error.say(language) if self.error else None,
            "waiting": self.waiting[language] if self.waiting else "",
        }
        return {**run, **values, "smoothed": self.smoothed, "facts": dict(self.facts), **said}


_WRITTEN_OTHERWISE = ("run", "error", "average", "waiting")


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, facts: RunFacts) -> None:
        """Write the facts. The data is written by the caller."""
        replace_file(self.path / RUN, _dumped(asdict(facts)))

    def write_data(self, train: Sequence[Sample], validation: Sequence[Sample]) -> None:
        """Write the samples to train and, if there are any, those of the evaluation. Raises OSError."""
        for name, samples in ((TRAIN, train), (VALIDATION, validation)):
            if samples:
                replace_file(self.path / name, b"".join(sample.to_line() for sample in samples))

    def facts(self) -> RunFacts | None:
        """Return the facts; None if the folder is not that of a run, or was not completed."""
        try:
            return RunFacts(**json.loads((self.path / RUN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, view: RunView) -> None:
        """Write the state. Raises OSError."""
        kept = {key: getattr(view, key) for key in _SAVED}
        replace_file(self.path / STATE, _dumped({**kept, "error": view.error.to_json() if view.error else None}))

    def view(self, facts: RunFacts) -> RunView:
        """Return the present state, with the figures of the log."""
        return self.present(self.saved(facts))

    def saved(self, facts: RunFacts) -> RunView:
        """Return the state as it was written last, with the figures of the log."""
        try:
            saved = json.loads((self.path / STATE).read_text(encoding="utf-8"))
            error = WebUIError.from_json(saved.pop("error")) if saved.get("error") else None
            saved.pop("error", None)
            best = saved.pop("best", None)
            view = RunView(facts, **saved, error=error, best=tuple(best) if best else None)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            view = RunView(facts, "interrupted")
        return with_log(view, self.log())

    def present(self, view: RunView) -> RunView:
        """Return a saved state as it is now.

        A run that should be going on, but whose process holds no lock on the folder any more, was interrupted.
        """
        if view.state not in ENDED and not self._is_locked():
            view = replace(view, state="interrupted", phase="", position=0)
        checkpoint = newest_checkpoint(self.path / CHECKPOINTS)
        return replace(view, resumable=view.state in RESUMABLE and checkpoint is not None)

    def stamps(self) -> tuple[tuple[int, int], ...]:
        """Return what differs once the facts, the state or the log have changed."""
        found = []
        for name in (RUN, STATE, LOG):
            try:
                status = os.stat(self.path / name)
                found.append((status.st_mtime_ns, status.st_size))
            except (OSError, ValueError):
                found.append((0, 0))
        return tuple(found)

    def log(self) -> list[Json]:
        """Return an entry for each update and each evaluation."""
        return read_log(self.path / LOG)

    def lock(self, seconds: float = 0.0) -> int | None:
        """Lock the folder for this process and return the descriptor to close; None if another one holds it so long."""
        deadline = time.monotonic() + seconds
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        while not file_lock.try_acquire(descriptor):
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(_RETRY_SECONDS)
        return descriptor

    def _is_locked(self) -> bool:
        descriptor = self.lock()
        if descriptor is None:
            return True
        os.close(descriptor)
        return False


class SavedRuns:
    """Reads the runs in `folder`, each again only once its files have changed. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[Json, RunView]] = {}

    def view(self, name: str) -> RunView | None:
        """Return a run; None if the folder of that name is none."""
        folder = RunFolder(self._folder / name)
        stamps = folder.stamps()
        stamps_before, view = self._known.get(name, (None, None))
        if view is None or stamps != stamps_before:
            facts = folder.facts()
            if facts is None:
                self._known.pop(name, None)
                return None
            view = folder.saved(facts)
            self._known[name] = (stamps, view)
        return folder.present(view)


_SAVED = (
    *("state", "phase", "reason", "update", "updates", "seconds", "memory", "gpu_memory", "best", "checkpoint"),
    *("facts", "started", "ended", "adapter"),
)


def with_log(view: RunView, entries: list[Json]) -> RunView:
    """Return the view with the figures of all entries of its log, and none of entries that are no longer there."""
    view = replace(view, loss=None, average=MovingAverage(), eval_loss=None)
    for entry in entries:
        view = with_entry(view, entry)
    return view


def with_entry(view: RunView, entry: Mapping[str, Json]) -> RunView:
    """Return the view after an update or an evaluation."""
    if entry["event"] == "evaluation":
        loss = float(entry["loss"])
        best = view.best
        if math.isfinite(loss) and (best is None or loss < best[1]):
            best = (int(entry["update"]), loss)
        return replace(view, eval_loss=loss, best=best)
    update, loss = int(entry["update"]), float(entry["loss"])
    return replace(
        view,
        update=update,
        loss=loss,
        average=view.average.add(loss),
        learning_rate=float(entry["learning_rate"]),
        grad_norm=float(entry["grad_norm"]),
        seconds=float(entry["seconds"]),
        memory=max(view.memory, int(entry["memory"])),
        gpu_memory=max(view.gpu_memory, int(entry["gpu_memory"])),
    )


def _dumped(content: Json) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()
