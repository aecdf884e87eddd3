"""Jobs of the real training process with small data, run in a forked process that has torch imported already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.core.events import Json
from modules.engines.training.job import JOB, TrainingJob
from modules.engines.training.samples import Sample
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.training.parameters import parse_parameters

CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Kyoto", "Quito", "Dakar", "Hanoi", "Sofia")
SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 4, "micro_batch_size": 2, "lora_rank": 4, "lora_name": "a"}


def samples(count: int, first: int = 1) -> list[Sample]:
    """Return rows of a question and an answer of different lengths; only the answer is trained."""
    rows = range(first, first + count)
    return [Sample(row, _segments(row), eos=True) for row in rows]


def _segments(row: int) -> tuple[tuple[str, bool], ...]:
    city = CITIES[row % len(CITIES)]
    return (f"Question {row}: what is {city} like?\n", False), (f"{city} is " + "very " * (row % 5) + "old.", True)


def make_job(
    folder: Path,
    base: Path,
    rows: Sequence[Sample],
    validation: Sequence[Sample] = (),
    adapter: Path | None = None,
    **parameters: Any,
) -> Path:
    """Write a job into `folder` and return the folder."""
    folder.mkdir(parents=True)
    files = {"train.jsonl": rows, "validation.jsonl": validation}
    for name, content in files.items():
        (folder / name).write_bytes(b"".join(sample.to_line() for sample in content))
    options = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={}))
    job = TrainingJob(
        folder=folder,
        base=base,
        name="base",
        options=options,
        parameters=parse_parameters({**SMALL, **parameters}),
        train=folder / "train.jsonl",
        validation=folder / "validation.jsonl" if validation else None,
        adapter=adapter,
    )
    (folder / JOB).write_text(json.dumps(job.to_json()))
    return folder


class Crash(Exception):
    """Stands for the end of the process."""


def train(folder: Path, crash_at: int = 0, stop_at: int | None = None, threads: int = 1) -> list[Json]:
    """Train the job in `folder` here, and return what it reports; an error is the last event.

    It crashes right after it has reported update `crash_at`, and is asked to stop once it has reported `stop_at`; 0 is
    the beginning.
    """
    import torch

    from modules.engines.training.session import train as train_job
    from modules.trainer import as_error

    torch.set_num_threads(threads)
    events: list[Json] = []
    job = TrainingJob.read(folder)

    def emit(event: Json) -> None:
        events.append(event)
        if crash_at and event["event"] == "update" and event["update"] == crash_at:
            raise Crash

    def stop() -> bool:
        return stop_at is not None and any(event.get("update", -1) >= stop_at for event in events)

    try:
        train_job(job, emit, stop)
    except Crash:
        pass
    except Exception as error:
        events.append({"event": "failed", **as_error(error, folder).to_json()})
    return events


def losses(events: Sequence[Json], kind: str = "update") -> dict[int, float]:
    """Return the loss of each update or evaluation."""
    return {event["update"]: event["loss"] for event in events if event["event"] == kind}
