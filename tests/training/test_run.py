"""The files of a training run: what is read of them, damaged ones too."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from modules.core.training_errors import RunBusy
from modules.training.run import RunView
from modules.training.runs import TrainingRuns
from tests.support.echo_trainer import UPDATES
from tests.support.training_runs import SECONDS, Start, reach, request


def test_runs_of_a_server_that_has_ended_are_interrupted(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    running, queued = start("a", "held"), start("b")
    reach(runs, running, 5)
    runs.close()
    later = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.echo_trainer")
    assert [(view.name, view.state) for view in later.snapshot()] == [("b", "interrupted"), ("a", "interrupted")]
    later.resume(running)
    later.resume(queued)
    assert [later.wait(name, SECONDS).state for name in (running, queued)] == ["finished", "finished"]
    later.close()


def test_a_run_whose_server_was_killed_is_interrupted_with_its_figures(tmp_path: Path, runs: TrainingRuns) -> None:
    model = tmp_path / "model"
    model.mkdir()
    child = os.fork()
    if child == 0:
        other = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.echo_trainer")
        other.start(request(model, "a", "held"))
        time.sleep(SECONDS)
        os._exit(1)
    until = time.monotonic() + SECONDS
    while not any(view.update >= 3 and view.state == "running" for view in runs.snapshot()):
        assert time.monotonic() < until
        time.sleep(0.02)
    with pytest.raises(RunBusy):
        runs.resume("a")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    view = runs.view("a")
    assert (view.state, view.resumable) == ("interrupted", True) and view.update >= 3 and view.loss is not None


def test_a_damaged_log_ends_where_it_is_damaged(runs: TrainingRuns, start: Start, subtests: pytest.Subtests) -> None:
    name = start("a")
    runs.wait(name, SECONDS)
    path = runs.folder / name / "log.jsonl"
    first = path.read_bytes().splitlines(keepends=True)[0]
    lines = (b"\xff\xfe", b"[]", b"5", b"null", b"[" * 100_000, b'{"event": "update"}', b'{"event": []}')
    wrong = first.replace(b'"update": 1', b'"update": "nan"'), first.replace(b"0.0001", b"null")
    for line in (*lines, *wrong):
        path.write_bytes(first + line + b"\n" + first)
        with subtests.test(line=ascii(line[:30])):
            assert [entry["update"] for entry in runs.log(name)] == [1]
            assert runs.view(name).state == "finished"


def test_a_log_is_read_again_only_once_it_has_changed(runs: TrainingRuns, start: Start) -> None:
    name = start("a")
    runs.wait(name, SECONDS)
    assert runs.view(name).update == UPDATES
    log = runs.folder / name / "log.jsonl"
    before, text = log.stat(), log.read_text()
    log.write_text("x" * len(text))
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [view.update for view in runs.snapshot()] == [UPDATES]
    log.write_text("".join(text.splitlines(keepends=True)[:3]))
    assert [(view.update, view.loss) for view in runs.snapshot()] == [(3, 7.0)]


def test_an_evaluation_that_is_no_number_is_not_the_best(runs: TrainingRuns, start: Start) -> None:
    name = start("a")
    runs.wait(name, SECONDS)
    entries = [{"event": "evaluation", "update": update, "loss": loss} for update, loss in ((1, "nan"), (2, 1.5))]
    (runs.folder / name / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (view,) = runs.snapshot()
    assert view.best == (2, 1.5)
    json.dumps(view.to_json(), allow_nan=False)


def test_a_damaged_state_counts_as_interrupted(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    name = start("a")
    runs.wait(name, SECONDS)
    for text in ("", "[]", '{"state": 1, "unknown": 2}'):
        (tmp_path / "runs" / name / "state.json").write_text(text)
        view: RunView = runs.view(name)
        assert view.state == "interrupted" and view.update == UPDATES
