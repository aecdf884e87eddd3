"""Training runs go on from their last checkpoint, unless what it is for has changed."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from modules.core.training_errors import AdapterExists, NotResumable, RunBusy, TrainerDied, TrainingFailed
from modules.engines.training.job import CHECKPOINTS, WHOLE
from modules.training.run import RunFolder
from modules.training.runs import TrainingRuns
from tests.support.echo_trainer import UPDATES
from tests.support.training_runs import SECONDS, Start, reach, request


def test_a_stopped_run_has_a_lora_and_goes_on_from_its_last_checkpoint(runs: TrainingRuns, start: Start) -> None:
    name = start("a", "held")
    reach(runs, name, 5)
    runs.stop(name)
    stopped = runs.wait(name, SECONDS)
    assert (stopped.state, stopped.reason, stopped.adapter, stopped.resumable) == ("stopped", "stopped", "a", True)
    assert stopped.update == 5
    runs.resume(name)
    finished = runs.wait(name, SECONDS)
    assert (finished.state, finished.update) == ("finished", UPDATES)


def test_a_process_that_dies_is_named_and_the_run_can_be_resumed(runs: TrainingRuns, start: Start) -> None:
    name = start("a", "die")
    view = runs.wait(name, SECONDS)
    assert (view.state, view.resumable, view.update) == ("failed", True, 5)
    assert isinstance(view.error, TrainerDied) and "SIGKILL" in str(view.error)
    runs.resume(name)
    assert runs.wait(name, SECONDS).state == "finished"


def test_a_run_that_another_program_has_just_taken_is_not_resumed(
    waiting: TrainingRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.training.runs._LOCK_SECONDS", 0)
    waiting.start(request(tmp_path / "model", "a"))
    waiting.stop("a")
    taken = RunFolder(waiting.folder / "a").lock()
    assert taken is not None
    with pytest.raises(RunBusy):
        waiting.resume("a")
    os.close(taken)
    waiting.resume("a")
    assert waiting.view("a").state == "queued"


def test_a_run_whose_state_cannot_be_written_is_not_resumed_and_not_locked(
    waiting: TrainingRuns, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    waiting.start(request(tmp_path / "model", "a"))
    waiting.stop("a")
    state = waiting.folder / "a" / "state.json"
    state.unlink()
    (state / "taken").mkdir(parents=True)
    for action in (waiting.resume, waiting.discard):
        with subtests.test(action=action.__name__), pytest.raises(TrainingFailed, match="directory"):
            action("a")
    shutil.rmtree(state)
    waiting.resume("a")
    assert waiting.view("a").state == "queued"


def test_a_run_is_resumed_while_others_look_whether_it_goes_on(runs: TrainingRuns, start: Start) -> None:
    name = start("a", "die")
    runs.wait(name, SECONDS)
    looking = RunFolder(runs.folder / name).lock()
    assert looking is not None
    threading.Timer(0.1, os.close, [looking]).start()
    runs.resume(name)
    assert runs.wait(name, SECONDS).state == "finished"


def test_a_checkpoint_that_was_cut_off_is_not_resumed(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    name = start("a", "die")
    runs.wait(name, SECONDS)
    (tmp_path / "runs" / name / CHECKPOINTS / "checkpoint-3" / WHOLE).unlink()
    assert not runs.view(name).resumable


def test_resume_is_refused_if_what_the_checkpoints_are_for_has_changed(
    runs: TrainingRuns, start: Start, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    name = start("a", "die")
    runs.wait(name, SECONDS)
    folder = tmp_path / "runs" / name
    config = folder / CHECKPOINTS / "checkpoint-3" / "adapter_config.json"
    changes = (
        ("rank", config, '{"r": 4}'),
        ("rank", config, "{"),
        ("rank", config, "[]"),
        ("data", folder / "train.jsonl", ""),
        ("data", folder / "train.jsonl", None),
        ("base model", tmp_path / "model" / "config.json", '{"x": 1}'),
    )
    for what, path, text in changes:
        before = path.read_text()
        path.write_text(text) if text is not None else path.unlink()
        with subtests.test(what=what, text=text), pytest.raises(NotResumable, match=f"{what}.* has changed"):
            runs.resume(name)
        path.write_text(before)
    (tmp_path / "model").rename(tmp_path / "renamed")
    with subtests.test(what="the model is gone"), pytest.raises(NotResumable, match="no longer exists"):
        runs.resume(name)


def test_a_run_is_not_resumed_if_another_lora_has_taken_its_name(
    runs: TrainingRuns, start: Start, tmp_path: Path
) -> None:
    name = start("a", "die")
    runs.wait(name, SECONDS)
    (tmp_path / "loras" / "a").mkdir(parents=True)
    with pytest.raises(AdapterExists):
        runs.resume(name)
