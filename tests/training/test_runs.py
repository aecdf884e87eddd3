"""Training runs: the queue, their states on disk, stop, resume and delete, with a stand-in for the training process."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.record import ModelRecord
from modules.core.errors import both
from modules.core.training_errors import (
    AdapterExists,
    NotResumable,
    RunBusy,
    TrainerDied,
    TrainingFailed,
    TrainingRunNotFound,
)
from modules.engines.training.job import CHECKPOINTS, WHOLE
from modules.engines.training.samples import Sample
from modules.runtime.turns import Turns
from modules.training.parameters import parse_parameters
from modules.training.run import RunFolder, RunView
from modules.training.runs import RunRequest, TrainingRuns
from tests.support.echo_trainer import UPDATES

SECONDS = 20
SAMPLES = [Sample(row, (("Question?", False), (" Answer.", True)), eos=True) for row in range(1, 6)]

Start = Callable[..., str]


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[TrainingRuns]:
    made = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.echo_trainer")
    yield made
    made.close()


@pytest.fixture
def start(runs: TrainingRuns, tmp_path: Path) -> Start:
    """Start a run with a LoRA of that name, for a model whose name controls the stand-in."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def begin(lora: str, model_name: str = "model", **parameters: Any) -> str:
        return runs.start(request(model, lora, model_name, **parameters))

    return begin


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[TrainingRuns]:
    """Runs that wait for their turn, which does not come, so that no process is started."""
    turns = Turns()
    at_work = turns.queue(both("x"))
    made = TrainingRuns(tmp_path / "runs", tmp_path / "loras", "tests.support.no_such_module", turns)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    yield made
    made.close()
    at_work.end()


def request(model: Path, lora: str, model_name: str = "model", **parameters: Any) -> RunRequest:
    record = ModelRecord(model_name, model, "safetensors", 1)
    return RunRequest(record, {}, parse_parameters({"lora_name": lora, **parameters}), SAMPLES)


def reach(runs: TrainingRuns, name: str, update: int) -> None:
    until = time.monotonic() + SECONDS
    while runs.view(name).update < update:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_run_trains_and_puts_its_lora_into_the_folder(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    name = start("海 cat")
    view = runs.wait(name, SECONDS)
    assert (view.state, view.error, view.update, view.adapter) == ("finished", None, UPDATES, "海 cat")
    lora = tmp_path / "loras" / "海 cat"
    files = {"adapter_model.safetensors", "log.jsonl", "training_log.json", "training_parameters.json"}
    assert {path.name for path in lora.iterdir()} == files | {"training_prompt.json"}
    assert json.loads((lora / "training_parameters.json").read_text())["lora_rank"] == 32
    assert [entry["update"] for entry in runs.log(name)] == list(range(1, UPDATES + 1))
    assert view.loss == 10 - UPDATES and view.memory == 1000 + UPDATES
    assert not (tmp_path / "runs" / name / CHECKPOINTS).exists()


def test_runs_wait_for_each_other_in_order(runs: TrainingRuns, start: Start) -> None:
    first = start("a", "held")
    reach(runs, first, 5)
    second, third = start("b"), start("c")
    assert [runs.view(name).position for name in (second, third)] == [1, 2]
    (runs.folder / first / "go").touch()
    ended = [runs.wait(name, SECONDS) for name in (first, second, third)]
    assert [view.state for view in ended] == ["finished"] * 3
    assert ended[0].ended <= ended[1].started and ended[1].ended <= ended[2].started
    assert [view.name for view in runs.snapshot()] == ["c", "b", "a"]


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


def test_a_run_is_stopped_at_once_while_its_data_is_tokenized(
    runs: TrainingRuns, start: Start, subtests: pytest.Subtests
) -> None:
    """A tokenizer hears of no stop until it has read a whole text, which takes minutes for a long one."""
    name = start("a", "die deaf")
    reach_phase(runs, name, "data")
    with subtests.test(what="a new run"):
        assert stopped_at_once(runs, name) == ("stopped", "stopped", None, "")
    (runs.folder / name / "go").touch()
    runs.resume(name)
    assert runs.wait(name, SECONDS).update == 5  # it died
    (runs.folder / name / "go").unlink()
    runs.resume(name)
    reach_phase(runs, name, "data")
    with subtests.test(what="a run that was resumed keeps what it has learned"):
        assert stopped_at_once(runs, name) == ("stopped", "stopped", None, "a")
        loras = runs.folder.parent / "loras"
        weights = loras / "a" / "adapter_model.safetensors"
        assert weights.read_bytes() == b"weights of 3" and runs.view(name).resumable
    shutil.rmtree(loras)
    loras.touch()  # no folder can be made of that name
    runs.resume(name)
    reach_phase(runs, name, "data")
    with subtests.test(what="a disk that refuses what it has learned"):
        state, _, error, _ = stopped_at_once(runs, name)
        assert state == "failed" and "File exists" in str(error) and runs.view(name).resumable


def stopped_at_once(runs: TrainingRuns, name: str) -> tuple[str, str, object, str]:
    began = time.monotonic()
    runs.stop(name)
    view = runs.wait(name, SECONDS)
    assert time.monotonic() - began < 5  # some hundredths of a second, but on a busy machine
    return view.state, view.reason, view.error, view.adapter


def reach_phase(runs: TrainingRuns, name: str, phase: str) -> None:
    until = time.monotonic() + SECONDS
    while runs.view(name).phase != phase:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_discarded_run_leaves_no_lora_and_no_checkpoints(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    name = start("a", "held")
    reach(runs, name, 5)
    runs.discard(name)
    assert runs.wait(name, SECONDS).state == "discarded"
    assert not (tmp_path / "loras" / "a").exists() and not (tmp_path / "runs" / name / CHECKPOINTS).exists()
    with pytest.raises(NotResumable):
        runs.resume(name)


def test_a_process_that_dies_is_named_and_the_run_can_be_resumed(runs: TrainingRuns, start: Start) -> None:
    name = start("a", "die")
    view = runs.wait(name, SECONDS)
    assert (view.state, view.resumable, view.update) == ("failed", True, 5)
    assert isinstance(view.error, TrainerDied) and "SIGKILL" in str(view.error)
    runs.resume(name)
    assert runs.wait(name, SECONDS).state == "finished"


def test_a_failed_run_says_why_and_the_next_one_trains(runs: TrainingRuns, start: Start) -> None:
    failing, following = start("a", "fail"), start("b", "junk")
    view = runs.wait(failing, SECONDS)
    assert view.state == "failed" and isinstance(view.error, TrainingFailed) and "as told" in str(view.error)
    assert runs.wait(following, SECONDS).state == "finished"


def test_a_run_whose_state_cannot_be_written_fails_and_the_next_one_trains(
    runs: TrainingRuns, start: Start, subtests: pytest.Subtests
) -> None:
    running, queued, last = start("a", "held slow"), start("b"), start("c")
    reach(runs, running, 5)
    for name in (running, queued):
        state = runs.folder / name / "state.json"
        state.unlink()
        (state / "taken").mkdir(parents=True)
    (runs.folder / running / "go").touch()
    with subtests.test(what="the next run"):
        assert runs.wait(last, SECONDS).state == "finished"
    with subtests.test(what="the process of the failed run has ended"):
        assert len(runs.log(running)) < UPDATES
    assert {runs.wait(name, SECONDS).adapter for name in (running, queued)} == {""}
    with subtests.test(what="why, and that it can be resumed"):
        view = runs.view(running)
        assert (view.state, view.resumable) == ("failed", True) and "directory" in str(view.error)
        shutil.rmtree(runs.folder / running / "state.json")
        runs.resume(running)
        assert runs.wait(running, SECONDS).state == "finished"


def test_a_run_that_cannot_be_written_leaves_no_folder(runs: TrainingRuns, start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(TrainingFailed):
            start("a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(runs.folder.iterdir()) == []


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


def test_a_run_that_waits_is_taken_out_of_the_queue(waiting: TrainingRuns, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        waiting.start(request(tmp_path / "model", name))
    waiting.stop("a")
    waiting.discard("b")
    found = [(view.name, view.state, view.position) for view in waiting.snapshot()]
    assert found == [("c", "queued", 1), ("b", "discarded", 0), ("a", "interrupted", 0)]
    waiting.stop("a")  # of no effect
    assert waiting.view("a").state == "interrupted"


def test_two_runs_for_a_lora_of_one_name_do_not_wait_at_a_time(waiting: TrainingRuns, tmp_path: Path) -> None:
    waiting.start(request(tmp_path / "model", "a"))
    with pytest.raises(RunBusy):
        waiting.start(request(tmp_path / "model", "a", always_override=True))
    assert [view.name for view in waiting.snapshot()] == ["a"]
    waiting.stop("a")
    assert waiting.start(request(tmp_path / "model", "a")) == "a (2)"


def test_a_run_of_another_program_is_left_alone(waiting: TrainingRuns, tmp_path: Path) -> None:
    waiting.start(request(tmp_path / "model", "a"))
    other = TrainingRuns(waiting.folder, tmp_path / "loras", "tests.support.echo_trainer")
    for action in (other.stop, other.discard, other.resume, other.delete):
        with pytest.raises(RunBusy):
            action("a")
    assert waiting.view("a").state == other.view("a").state == "queued"


def test_a_run_that_has_ended_is_discarded_unless_it_has_finished(
    waiting: TrainingRuns, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    waiting.start(request(tmp_path / "model", "a"))
    waiting.stop("a")
    folder = RunFolder(waiting.folder / "a")
    for state, left in (("finished", "finished"), ("stopped", "discarded")):
        (folder.path / CHECKPOINTS / "checkpoint-3").mkdir(parents=True, exist_ok=True)
        folder.save(replace(waiting.view("a"), state=state))
        waiting.discard("a")
        with subtests.test(state=state):
            assert waiting.view("a").state == left
            assert (folder.path / CHECKPOINTS).exists() == (left == "finished")


def test_what_killed_deletions_have_left_behind_is_deleted_at_start(waiting: TrainingRuns, tmp_path: Path) -> None:
    waiting.start(request(tmp_path / "model", "a"))
    (waiting.folder / ".deleted-1" / "part").mkdir(parents=True)
    waiting.sweep()
    assert [path.name for path in waiting.folder.iterdir()] == ["a"]


def test_a_run_is_resumed_while_others_look_whether_it_goes_on(runs: TrainingRuns, start: Start) -> None:
    name = start("a", "die")
    runs.wait(name, SECONDS)
    looking = RunFolder(runs.folder / name).lock()
    assert looking is not None
    threading.Timer(0.1, os.close, [looking]).start()
    runs.resume(name)
    assert runs.wait(name, SECONDS).state == "finished"


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


def test_a_lora_of_that_name_is_replaced_only_if_that_was_asked_for(
    runs: TrainingRuns, start: Start, tmp_path: Path
) -> None:
    lora = tmp_path / "loras" / "a"
    lora.mkdir(parents=True)
    (lora / "old").touch()
    with pytest.raises(AdapterExists):
        start("a")
    name = start("a", always_override=True)
    assert runs.wait(name, SECONDS).state == "finished"
    assert [path.name for path in lora.parent.iterdir()] == ["a"] and not (lora / "old").exists()


def test_a_run_is_not_resumed_if_another_lora_has_taken_its_name(
    runs: TrainingRuns, start: Start, tmp_path: Path
) -> None:
    name = start("a", "die")
    runs.wait(name, SECONDS)
    (tmp_path / "loras" / "a").mkdir(parents=True)
    with pytest.raises(AdapterExists):
        runs.resume(name)


def test_a_disk_that_fails_ends_the_run_and_its_process(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    name = start("a", "slow")
    reach(runs, name, 1)
    state = tmp_path / "runs" / name / "state.json"
    state.unlink()
    state.mkdir()  # cannot be replaced by a file
    view = runs.wait(name, 2)
    assert view.state in ("failed", "interrupted") and view.update < UPDATES


def test_a_run_is_deleted_once_it_has_ended_and_its_lora_stays(
    runs: TrainingRuns, start: Start, tmp_path: Path
) -> None:
    name = start("a", "held")
    with pytest.raises(RunBusy):
        runs.delete(name)
    reach(runs, name, 5)
    runs.stop(name)
    runs.wait(name, SECONDS)
    runs.delete(name)
    assert runs.snapshot() == [] and (tmp_path / "loras" / "a").is_dir()


def test_a_run_whose_folder_is_deleted_while_it_trains_is_listed_and_can_be_stopped(
    runs: TrainingRuns, start: Start
) -> None:
    name = start("a", "held")
    reach(runs, name, 5)
    shutil.rmtree(runs.folder / name)
    assert [view.name for view in runs.snapshot()] == [name]
    runs.stop(name)
    with pytest.raises(TrainingRunNotFound):
        runs.wait(name, SECONDS)
    assert runs.snapshot() == []
    assert runs.wait(start("b"), SECONDS).state == "finished"


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


def test_names_that_are_no_runs_are_refused(runs: TrainingRuns, subtests: pytest.Subtests) -> None:
    for name in ("", ".", "..", "../loras", "nothing", "a\0b", "/etc"):
        with subtests.test(name=ascii(name)), pytest.raises(TrainingRunNotFound):
            runs.view(name)


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
