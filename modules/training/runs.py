"""All training runs, which take turns with other long work; each is a folder from which it can be resumed."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.errors import InternalError, WebUIError
from modules.core.events import Json
from modules.core.product import LOG_FILE
from modules.core.training_errors import AdapterExists, RunBusy, TrainerDied, TrainingRunNotFound
from modules.engines.training.job import CHECKPOINTS, RESULT
from modules.engines.training.samples import Sample, samples_hash
from modules.options.option import Value, nearest
from modules.runtime.turns import Turn, Turns
from modules.training.process import PROGRAM, TrainingProcess
from modules.training.progress import TrainingProgress
from modules.training.publish import publish, sweep, take_checkpoint
from modules.training.run import DISCARDED, ENDED, RunFacts, RunFolder, RunView, SavedRuns
from modules.training.start import (
    check_base,
    check_resumable,
    disk_problem,
    disk_problems,
    fingerprint,
    overlay_for,
    write_job,
)

log = logging.getLogger(__name__)

_LOCK_SECONDS = 0.5
"""How long a start waits for those who look whether a run is going on, which lock its folder for a moment."""


@dataclass(frozen=True)
class RunRequest:
    """A run to be made. `options` are the load options of the model, `continues` a LoRA to start from, with its path.

    `prompt` describes how the rows became text, for training_prompt.json.
    """

    record: ModelRecord
    options: Mapping[str, Value]
    parameters: Mapping[str, Value]
    train: Sequence[Sample]
    validation: Sequence[Sample] = ()
    prompt: Mapping[str, Json] | None = None
    continues: tuple[str, Path] | None = None


class TrainingRuns:
    """The runs in `folder`; their LoRAs are put into the folder `loras`. Any thread may call.

    `program` is the module that trains a run, in a process of its own. `turns` are shared with what may not run beside
    it.
    """

    def __init__(self, folder: Path, loras: Path, program: str = PROGRAM, turns: Turns | None = None) -> None:
        self.folder, self._loras, self._program = folder, loras, program
        self._saved = SavedRuns(folder)
        self._lock = threading.RLock()
        self._queue: list[str] = []
        self._turns_of_all, self._turns = turns or Turns(), dict[str, Turn]()
        self._locks: dict[str, int] = {}  # of the folders of runs that are queued or running
        self._live: dict[str, RunView] = {}  # the same runs
        self._unsaved: dict[str, RunView] = {}  # runs that have ended, of which a full disk could not take the state
        self._process: TrainingProcess | None = None
        self._progress: TrainingProgress | None = None  # of the same process
        self._ending: dict[str, str] = {}  # "stopped" or DISCARDED, for runs that were asked to end
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- reading ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> list[RunView]:
        """Return all runs, the newest first."""
        names = {path.parent.name for path in self.folder.glob("*/run.json")}
        with self._lock:
            names |= self._live.keys()  # also if somebody has deleted their folders
        views = [view for name in names if (view := self._view(name)) is not None]
        return sorted(views, key=lambda view: view.run.created, reverse=True)

    def view(self, name: str) -> RunView:
        """Return one run. Raises TrainingRunNotFound."""
        view = self._view(name)
        if view is None:
            raise TrainingRunNotFound(name[:80], nearest(name, [view.name for view in self.snapshot()]))
        return view

    def log(self, name: str) -> list[Json]:
        """Return an entry for each update and evaluation of a run. Raises TrainingRunNotFound."""
        return self._folder(self.view(name).name).log()

    def _view(self, name: str) -> RunView | None:
        with self._lock:
            live = self._live.get(name)
            if live is not None:
                turn = self._turns[name]
                return replace(live, position=turn.ahead, waiting=turn.waiting_for)
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            return None
        view, unsaved = self._saved.view(name), self._unsaved.get(name)
        return self._folder(name).present(unsaved) if view and unsaved else view

    def _folder(self, name: str) -> RunFolder:
        return RunFolder(self.folder / name)

    def sweep(self) -> None:
        """Delete what killed deletions and starts have left behind. Called once, at start."""
        for path in self.folder.glob(".deleted-*"):
            shutil.rmtree(path, ignore_errors=True)
        sweep(self._loras)

    # -- starting and ending ------------------------------------------------------------------------------------------

    def start(self, request: RunRequest) -> str:
        """Make a run and queue it; return its name. Raises AdapterExists, RunBusy or TrainingDiskFull."""
        parameters = request.parameters
        lora = str(parameters["lora_name"])
        self._refuse_taken(parameters)
        with self._lock:
            if any(view.run.parameters["lora_name"] == lora for view in self._live.values()):
                raise RunBusy(lora)
            with disk_problems(self.folder):
                facts = self._create(lora, request)
                self._enqueue(facts)
        return facts.name

    def _refuse_taken(self, parameters: Mapping[str, Value], own: str = "") -> None:
        """Raise AdapterExists if there is a LoRA of that name, unless it may be replaced or is the run's `own`."""
        lora = str(parameters["lora_name"])
        if (self._loras / lora).exists() and not parameters["always_override"] and lora != own:
            raise AdapterExists(lora)

    def _create(self, lora: str, request: RunRequest) -> RunFacts:
        """Make the folder of a run and return its facts. Raises OSError; then there is no folder."""
        folder = self._new_folder(lora)
        try:
            return self._write(folder, request)
        except OSError:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise

    def _new_folder(self, lora: str) -> RunFolder:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = (lora, *(f"{lora} ({number})" for number in range(2, 10_000)))
        name = next(name for name in names if not (self.folder / name).exists())
        (self.folder / name).mkdir()
        return self._folder(name)

    def _write(self, folder: RunFolder, request: RunRequest) -> RunFacts:
        folder.write_data(request.train, request.validation)
        facts = RunFacts(
            name=folder.path.name,
            model=request.record.name,
            path=str(request.record.path),
            format=request.record.format,
            base=fingerprint(request.record.path),
            data=samples_hash(request.train),
            rows=len(request.train),
            parameters=dict(request.parameters),
            options=dict(request.options),
            created=time.time(),
            continues=request.continues[0] if request.continues else "",
        )
        write_job(folder.path, facts, request.continues[1] if request.continues else None, request.prompt or {})
        folder.create(facts)
        return facts

    def resume(self, name: str) -> None:
        """Queue a run that did not finish; it goes on from its last checkpoint, or begins again if there is none.

        Raises TrainingRunNotFound, RunBusy, NotResumable or AdapterExists.
        """
        with self._lock:
            view = self.view(name)
            if view.state not in ENDED:
                raise RunBusy(name)
            check_resumable(self.folder / name, view)
            self._refuse_taken(view.run.parameters, own=view.adapter)
            with disk_problems(self.folder):
                self._enqueue(view.run)

    def _enqueue(self, facts: RunFacts) -> None:
        folder = self._folder(facts.name)
        descriptor = folder.lock(_LOCK_SECONDS)
        if descriptor is None:
            raise RunBusy(facts.name)
        earlier = folder.view(facts)
        live = replace(earlier, state="queued", phase="", error=None, reason="", ended=0.0, resumable=False)
        try:
            folder.save(live)
        except OSError:
            os.close(descriptor)
            raise
        self._turns[facts.name] = self._turns_of_all.queue(
            {"en": f"the training run {facts.name}", "zh": f"训练“{facts.name}”"}
        )
        self._locks[facts.name] = descriptor
        self._unsaved.pop(facts.name, None)
        self._live[facts.name] = live
        self._queue.append(facts.name)
        self._start_thread()

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="training", daemon=True)
            self._thread.start()

    def stop(self, name: str) -> None:
        """End a run after its present update, and save its adapter. A queued one is taken out of the queue.

        One that has not come to its first update ends at once, with the adapter of the checkpoint from which it was
        resumed, if it was.
        """
        self._end(name, "stopped")

    def discard(self, name: str) -> None:
        """End a run at once, or one that has ended already, and delete its checkpoints."""
        with self._lock:
            view = self.view(name)
            if view.state in ENDED:
                if view.state != "finished":
                    self._drop_checkpoints(name)
                    with disk_problems(self.folder):
                        self._folder(name).save(replace(view, state=DISCARDED))
                    self._unsaved.pop(name, None)
                return
        self._end(name, DISCARDED)

    def _end(self, name: str, how: str) -> None:
        with self._lock:
            view = self.view(name)
            if name not in self._live:
                if view.state not in ENDED:  # of another process
                    raise RunBusy(name)
                return
            if name in self._queue:
                self._queue.remove(name)
                self._finish(replace(self._live[name], state=how if how == DISCARDED else "interrupted"))
                return
            self._ending[name] = how
            if self._process is not None and self._progress is not None:
                may_save = how != DISCARDED and self._progress.has_begun
                self._process.stop() if may_save else self._process.kill()

    def delete(self, name: str) -> None:
        """Delete the folder of a run that has ended; its LoRA stays. Raises TrainingRunNotFound or RunBusy."""
        with self._lock:
            if self.view(name).state not in ENDED:
                raise RunBusy(name)
            with disk_problems(self.folder):
                hidden = self.folder / f".deleted-{time.time_ns()}"
                os.rename(self.folder / name, hidden)
                shutil.rmtree(hidden, ignore_errors=True)

    def close(self) -> None:
        """End the training process at once. Its run, and those that wait, can be resumed."""
        with self._lock:
            self._closed = True
            queued, self._queue = self._queue, []
            for name in queued:
                self._finish(replace(self._live[name], state="interrupted"))
            if self._process is not None:
                self._process.kill()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)

    def wait(self, name: str, seconds: float | None = None) -> RunView:
        """Wait until a run of this process has ended, at most for so long, and return it."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while name in self._live and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.05)
        return self.view(name)

    # -- training, in a thread of its own -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while name := self._next():
                self._train(name)
        finally:
            with self._lock:
                self._thread = None
                if self._queue:  # a run was queued just now, or a defect has ended this thread
                    self._start_thread()

    def _next(self) -> str:
        """Wait for the turn of the first run, and take it out of the queue; return "" if there is none."""
        while True:
            with self._lock:
                if not self._queue:
                    return ""
                turn = self._turns[self._queue[0]]
            if turn.wait():
                with self._lock:
                    if self._queue and self._turns[self._queue[0]] is turn:
                        return self._queue.pop(0)

    def _train(self, name: str) -> None:
        error: WebUIError | None = InternalError(LOG_FILE)
        process = None
        progress = TrainingProgress(self._folder(name))
        try:
            self._update(name, state="running", phase="starting", started=time.time())
            facts = self._live[name].run
            check_base(facts)  # it may have been deleted while the run was waiting
            with self._lock:
                if not self._closed and name not in self._ending:
                    process = TrainingProcess(self.folder / name, overlay_for(facts.format), self._program)
                    self._process, self._progress = process, progress
            if process is not None:
                self._follow(name, process, progress)
            error = None
        except OSError as failed:
            error = disk_problem(self.folder, failed)
        except WebUIError as known:
            error = known
        finally:
            with self._lock:
                self._process = self._progress = None
            if process is not None:
                process.kill()  # of no effect unless following it has failed
                process.close()
            stopped_early = not progress.has_begun and self._ending.get(name) == "stopped"
            if stopped_early and (error is None or isinstance(error, TrainerDied)):
                error = self._save_checkpoint(name)
            self._conclude(name, error, has_trained=process is not None or stopped_early)

    def _save_checkpoint(self, name: str) -> WebUIError | None:
        """Publish the adapter of the checkpoint of a run that was stopped before it went on; return why that failed."""
        view, folder = replace(self._live[name], reason="stopped"), self.folder / name
        try:
            adapter = publish(folder, view, self._loras) if take_checkpoint(folder, view) else ""
            self._update(name, adapter=adapter or view.adapter, reason=view.reason)
        except OSError as error:
            return disk_problem(self.folder, error)
        return None

    def _follow(self, name: str, process: TrainingProcess, progress: TrainingProgress) -> None:
        """Take in what the process reports until it has ended. Raises the error of a run that failed."""
        for event in process.events():
            kind = event["event"]
            if kind == "failed":
                raise WebUIError.from_json(event)
            if kind == "done":
                whole = (self.folder / name / RESULT).is_dir()  # a run that was stopped at once has none
                adapter = publish(self.folder / name, self._live[name], self._loras) if whole else ""
                self._update(name, adapter=adapter, reason=event["reason"], update=event["update"])
            else:
                self._update(name, **progress.changes(self._live[name], event))

    def _conclude(self, name: str, error: WebUIError | None, has_trained: bool) -> None:
        """Decide how the run has ended, and write that. One that `has_trained` without an error has come to its end."""
        with self._lock:
            how = self._ending.pop(name, "")
            view = self._live[name]
            if how == DISCARDED:
                self._drop_checkpoints(name)
                state, error = DISCARDED, None
            elif has_trained and error is None:
                state = "stopped" if view.reason == "stopped" else "finished"
                if state == "finished":
                    self._drop_checkpoints(name)
            elif self._closed or error is None:
                state, error = "interrupted", None
            else:
                state = "failed"
            if error is not None:
                log.warning("%s", error)
            self._finish(replace(view, state=state, error=error))

    def _finish(self, view: RunView) -> None:
        """Write the last state of a run and let go of its folder."""
        name = view.name
        ended = replace(view, phase="", position=0, seconds_left=None, ended=time.time())
        try:
            self._folder(name).save(ended)
        except OSError as error:
            self._unsaved[name] = ended
            log.warning("%s: %s", self.folder / name, error)
        del self._live[name]
        self._turns.pop(name).end()
        os.close(self._locks.pop(name))

    def _update(self, name: str, **changes: Json) -> None:
        with self._lock:
            before = self._live[name]
            self._live[name] = replace(before, **changes)
            if {"state", "facts", "updates", "checkpoint"} & changes.keys():
                self._folder(name).save(self._live[name])

    def _drop_checkpoints(self, name: str) -> None:
        for part in (CHECKPOINTS, RESULT):
            shutil.rmtree(self.folder / name / part, ignore_errors=True)
