"""A stand-in for `modules.trainer` that computes nothing: a run of twelve updates.

It saves a checkpoint at every third, and where it is stopped. Words in the name of the base model control it: `slow`
makes every update take 60 ms, `held` waits at update 5 for a stop or for a file `go` in the run's folder, `die` ends
the process by a signal there, `fail` reports an error there, all three unless it was resumed; `deaf` hears nothing for
a minute before it begins, unless there is a file `go`; `junk` writes a line that is no JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from modules.core.training_errors import TrainingFailed
from modules.engines.training.job import CHECKPOINTS, LOG, RESULT, WHOLE, TrainingJob, newest_checkpoint, update_of
from modules.system import child_process

UPDATES, INTERVAL, CRITICAL = 12, 3, 5


def main() -> None:
    commands, channel = child_process.take_stdin(), child_process.take_stdout()
    child_process.end_with_parent(commands.fileno())
    stop = threading.Event()
    threading.Thread(target=lambda: [stop.set() for line in commands if line == b"stop\n"], daemon=True).start()
    job = TrainingJob.read(Path(sys.argv[1]))
    words = job.name.split()

    def emit(event: dict[str, object]) -> None:
        channel.write(json.dumps(event).encode() + b"\n")

    checkpoint = newest_checkpoint(job.folder / CHECKPOINTS)
    first = update_of(checkpoint) if checkpoint else 0
    if "deaf" in words and not (job.folder / "go").exists():
        emit({"event": "phase", "phase": "data"})
        time.sleep(60)
    emit({"event": "phase", "phase": "training"})
    emit({"event": "facts", "rows": sum(1 for _ in job.train.open()), "updates": UPDATES})
    emit({"event": "begin", "update": first, "updates": UPDATES, "seconds": float(first)})
    if "junk" in words:
        channel.write(b"no JSON\n")
    update = first
    while update < UPDATES and not stop.is_set():
        update += 1
        _train(job, update, emit)
        if update == CRITICAL and not first:
            if "die" in words:
                os.kill(os.getpid(), signal.SIGKILL)
            if "fail" in words:
                emit({"event": "failed", **TrainingFailed("as told").to_json()})
                return
            if "held" in words:
                _wait(lambda: stop.is_set() or (job.folder / "go").exists())
        time.sleep(0.06 if "slow" in words else 0)
    if update < UPDATES and update % INTERVAL:
        _save(job, update, emit)
    result = job.folder / RESULT
    result.mkdir(exist_ok=True)
    (result / "adapter_model.safetensors").write_bytes(b"weights")
    emit({"event": "done", "reason": "stopped" if update < UPDATES else "", "update": update, "best": None})


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


def _train(job: TrainingJob, update: int, emit: Callable[[dict[str, object]], None]) -> None:
    entry = {"event": "update", "update": update, "loss": 10.0 - update, "grad_norm": 1.0, "learning_rate": 1e-4}
    entry |= {"seconds": float(update), "memory": 1000 + update, "gpu_memory": 0}
    with (job.folder / LOG).open("a") as file:
        file.write(json.dumps(entry) + "\n")
    emit(entry)
    if update % INTERVAL == 0:
        _save(job, update, emit)


def _save(job: TrainingJob, update: int, emit: Callable[[dict[str, object]], None]) -> None:
    folder = job.folder / CHECKPOINTS / f"checkpoint-{update}"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": job.parameters["lora_rank"]}))
    (folder / "adapter_model.safetensors").write_bytes(f"weights of {update}".encode())
    (folder / WHOLE).touch()
    emit({"event": "checkpoint", "update": update})


if __name__ == "__main__":
    main()
