"""Errors of a training process become sentences in both languages."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from modules.core.errors import WebUIError
from modules.core.training_errors import TrainingDiskFull, TrainingFailed, TrainingOutOfMemory
from modules.engines.training.job import JOB, TrainingJob
from modules.trainer import _read_commands, as_error
from modules.training.parameters import parse_parameters

CASES: list[tuple[str, type[WebUIError], str, str]] = [
    ("Error while serializing: I/O error: No space left on device (os error 28)", TrainingDiskFull, "full", "磁盘已满"),
    ("[enforce fail at inline_container.cc:672] . unexpected pos 32384 vs 32272", TrainingDiskFull, "full", "磁盘已满"),
    ("Error while serializing: I/O error: File too large (os error 27)", TrainingFailed, "be written", "无法写入"),
    (
        "SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        TrainingFailed,
        "damaged or inc",
        "权重文件",
    ),
    ("CUDA out of memory. Tried to allocate 2 GiB", TrainingFailed, "out of memory", "out of memory"),
    ("something else", TrainingFailed, "something else", "something else"),
]


def test_a_stop_is_heard_and_the_process_ends_with_its_parent() -> None:
    (commands, sent), (answers, answered) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(sent)
            _say_if_stopped(commands, answered)
        finally:
            os._exit(1)
    os.close(answered)
    os.write(sent, b"go on\nstop\n")
    assert os.read(answers, 99) == b"stopped"  # nothing, if the child has ended
    os.close(sent)
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (commands, answers):
        os.close(descriptor)


def _say_if_stopped(commands: int, answered: int) -> None:
    """Read commands until this process ends, and write once a stop was among them."""
    stop = threading.Event()
    threading.Thread(target=lambda: stop.wait() and os.write(answered, b"stopped"), daemon=True).start()
    with open(commands, "rb") as pipe:
        _read_commands(pipe, stop)


def test_errors_of_libraries_are_said_in_both_languages(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for words, kind, english, chinese in CASES:
        with subtests.test(words=words):
            error = as_error(RuntimeError(words), tmp_path)
            assert type(error) is kind
            again = WebUIError.from_json(error.to_json())
            assert english in again.say("en") and chinese in again.say("zh")


def test_a_lack_of_memory_names_the_parameters_to_reduce(tmp_path: Path) -> None:
    parameters = parse_parameters({"lora_name": "a", "micro_batch_size": 2, "cutoff_len": 512})
    job = TrainingJob(tmp_path, tmp_path, "m", {}, parameters, tmp_path / "train.jsonl")
    (tmp_path / JOB).write_text(json.dumps(job.to_json()))
    for lack in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")):
        error = as_error(lack, tmp_path)
        assert isinstance(error, TrainingOutOfMemory)
        assert (error.micro, error.tokens) == (2, 512)
        assert "512" in error.say("en") and "512" in error.say("zh")
