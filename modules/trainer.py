"""The training process: trains one LoRA, or merges one. Run as `python -m modules.trainer FOLDER`, that of the run.

The parent reads one JSON object a line from stdout: see `engines.training`. A line "stop" on stdin ends the run after
the present update. The process ends with its parent; the run can then be resumed from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from modules.core.errors import WebUIError, Words
from modules.core.events import Json
from modules.core.training_errors import TrainingDiskFull, TrainingFailed, TrainingOutOfMemory
from modules.core.worker_errors import UNNAMED
from modules.engines.failure_causes import cause
from modules.engines.training.job import JOB, MERGE, TrainingJob
from modules.system import child_process

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory", re.I)
_NOT_WRITTEN = re.compile(r"Error while serializing")
_DISK: Words = {
    "en": "a file could not be written. Check the disk, then resume the run.",
    "zh": "无法写入文件。请检查磁盘，然后继续训练。",
}
_DISK_FULL = re.compile(
    r"No space left|Disk quota exceeded|PytorchStreamWriter failed|file write failed|unexpected pos \d", re.I
)


def main() -> None:
    commands, channel = child_process.take_stdin(), child_process.take_stdout()
    child_process.end_with_parent(commands.fileno())
    stop = threading.Event()
    threading.Thread(target=_read_commands, args=(commands, stop), daemon=True).start()
    folder = Path(sys.argv[1])
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nothing needs here

    def emit(event: Json) -> None:
        try:
            channel.write(json.dumps(event).encode() + b"\n")
        except OSError:  # the parent has ended
            child_process.end()

    try:
        _merge(folder, emit) if (folder / MERGE).is_file() else _train(folder, emit, stop.is_set)
    except Exception as error:  # the error edge of this process
        if not isinstance(error, WebUIError):
            traceback.print_exception(error)
        emit({"event": "failed", **as_error(error, folder).to_json()})
    channel.flush()
    os._exit(0)  # libraries leave threads behind


def _train(folder: Path, emit: Callable[[Json], None], stop: Callable[[], bool]) -> None:
    from modules.engines.training.session import train  # imports torch, which takes seconds

    train(TrainingJob.read(folder), emit, stop)


def _merge(folder: Path, emit: Callable[[Json], None]) -> None:
    from modules.engines.training.merge import MergeJob, merge

    merge(MergeJob.read(folder), lambda done: emit({"event": "weights", "done": done}))
    emit({"event": "done"})


def _read_commands(pipe: BinaryIO, stop: threading.Event) -> None:
    for line in pipe:
        if line.strip() == b"stop":
            stop.set()
    child_process.end()


def as_error(error: Exception, folder: Path) -> WebUIError:
    """Translate what a run in `folder` raised: lack of memory or disk space, a known cause, or the backend's words."""
    if isinstance(error, WebUIError):
        return error
    words = f"{type(error).__name__}: {error}"
    first_line = words.splitlines()[0][:300]
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(words):
        if not (folder / JOB).is_file():
            return TrainingFailed(first_line)
        parameters = TrainingJob.read(folder).parameters
        return TrainingOutOfMemory(int(parameters["micro_batch_size"]), int(parameters["cutoff_len"]), first_line)
    if _DISK_FULL.search(words):
        space = os.statvfs(folder)
        return TrainingDiskFull(str(folder), space.f_bavail * space.f_frsize)
    if _NOT_WRITTEN.search(words):
        return TrainingFailed(first_line, _DISK)
    known = cause(words)
    return TrainingFailed(words) if known == UNNAMED else TrainingFailed(first_line, known)


if __name__ == "__main__":
    main()
