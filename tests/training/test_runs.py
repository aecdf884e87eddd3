"""Training runs: the queue, stop, discard and delete, with a stand-in for the training process."""

from __future__ import annotations

import json
import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from modules.core.training_errors import AdapterExists, NotResumable, RunBusy, TrainingFailed, TrainingRunNotFound
from modules.engines.training.job import CHECKPOINTS
from modules.training.run import RunFolder
from modules.training.runs import TrainingRuns
from tests.support.echo_trainer import UPDATES
from tests.support.training_runs import SECONDS, Start, reach, request


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


def test_a_run_whose_base_is_deleted_while_it_waits_says_so(runs: TrainingRuns, start: Start, tmp_path: Path) -> None:
    first = start("a", "held")
    reach(runs, first, 5)
    second = start("b")
    (tmp_path / "model").rename(tmp_path / "moved")
    (runs.folder / first / "go").touch()
    view = runs.wait(second, SECONDS)
    assert view.state == "failed" and isinstance(view.error, NotResumable)
    assert f"base model {tmp_path / 'model'} no longer exists" in view.error.say("en")
    (tmp_path / "moved").rename(tmp_path / "model")
    runs.resume(second)
    assert runs.wait(second, SECONDS).state == "finished"


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


def test_names_that_are_no_runs_are_refused(runs: TrainingRuns, subtests: pytest.Subtests) -> None:
    for name in ("", ".", "..", "../loras", "nothing", "a\0b", "/etc"):
        with subtests.test(name=ascii(name)), pytest.raises(TrainingRunNotFound):
            runs.view(name)
