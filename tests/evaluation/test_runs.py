"""Evaluations of models in workers: results, progress, stops, failures, and what is kept of them."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.core.embedding_errors import CannotGenerate
from modules.core.errors import ModelNotFound, NoModelLoaded, OptionError, Unsupported
from modules.core.prompt import Prompt
from modules.core.worker_errors import WorkerDied
from modules.evaluation.errors import (
    EvaluationNotFound,
    KlImpossible,
    LorasChanged,
    ModelsInTheWay,
    ResultsUnreadable,
    TextNotFound,
    TextTooShort,
    WindowTooLong,
)
from modules.evaluation.prepared import PreparedText
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.run import EvaluationRun, hashes
from modules.evaluation.runs import EvaluationRuns
from modules.evaluation.state import RunState, SubjectState
from modules.loaders import registry
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoraAdapter
from tests.support.echo_models import limit_models
from tests.support.echo_plans import texts, wait_until
from tests.support.gguf_files import MODEL, Tensor, gguf
from tests.support.lora_files import peft

SECONDS = 20.0
WITH_BOS, SLOW = "bos model.gguf", "brief model.gguf"


@pytest.fixture
def app(echo_app: App) -> Iterator[App]:
    yield echo_app
    echo_app.evaluations.close()


def load(app: App, name: str = "good.gguf") -> None:
    app.loading.load(app.planner.plan(LoadRequest(app.record(name))))


def request(*models: str, text: str = "digits", may_unload: bool = False, **options: object) -> EvaluationRequest:
    return EvaluationRequest.parse(text, tuple(map(Subject, models or ("",))), options, may_unload)


def run(app: App, wanted: EvaluationRequest) -> RunState:
    id = app.evaluations.start(wanted)
    assert app.evaluations.wait(id, SECONDS)
    return app.evaluations.find(id)


def only(state: RunState) -> SubjectState:
    (subject,) = state.subjects
    return subject


def test_the_loaded_model_is_evaluated_without_a_reload(app: App) -> None:
    load(app)
    before = app.models.current
    state = run(app, request(max_length=32, stride=16))
    result = only(state).result
    assert state.phase == "done" and result is not None and app.models.current is before
    digits = [1, 2, 3, 4, 5, 6] * 20
    assert result.perplexity.value == pytest.approx(math.exp(sum(digits[1:]) / 119)) and result.perplexity.tokens == 119
    assert result.bits_per_byte == pytest.approx(sum(digits[1:]) / math.log(2) / (119 * 2))
    assert (result.model, result.loader, result.bos, result.stride, result.length) == (
        "good.gguf",
        "llama.cpp",
        "",
        16,
        32,
    )
    (row,) = app.evaluations.results.rows()
    assert (row["Model"], row["Dataset"], row["LoRAs"], row["method"]) == ("good.gguf", "digits", "None", "rolling")
    assert row["Perplexity"] == f"{result.perplexity.value:.9g}" and row["tokens"] == "119"


def test_progress_is_told_by_windows_and_the_curve_ends_at_the_result(app: App) -> None:
    load(app)
    subject = only(run(app, request(max_length=32, stride=16)))
    assert subject.done == subject.total == len(subject.curve) == 7
    assert subject.result is not None and subject.curve[-1] == subject.perplexity == subject.result.perplexity.value


def test_models_of_a_queue_are_loaded_and_compared_with_the_first(app: App) -> None:
    state = run(app, request("good.gguf", SLOW, max_length=32))
    first, second = (subject.result for subject in state.subjects)
    assert first is not None and second is not None and first.difference is None
    assert second.reference == "good.gguf" and second.difference is not None
    assert second.difference.mean == 0 and second.difference.includes_zero
    assert [row["Model"] for row in app.evaluations.results.rows()] == ["good.gguf", SLOW]
    assert app.evaluations.results.rows()[1]["reference"] == "good.gguf"


def test_models_whose_windows_differ_are_not_compared(app: App) -> None:
    state = run(app, request("good.gguf", WITH_BOS, max_length=32))
    first, second = (subject.result for subject in state.subjects)
    assert first is not None and second is not None and second.difference is None and second.reference == ""
    assert second.not_compared is not None and "BOS" in second.not_compared["en"]
    assert (first.bos, second.bos, first.perplexity.tokens, second.perplexity.tokens) == ("", "0", 119, 120)


def test_bos_follows_the_model_unless_it_is_chosen(app: App, subtests: pytest.Subtests) -> None:
    load(app)
    for choice, tokens in (("auto", 119), ("always", 120), ("first", 120), ("never", 119)):
        with subtests.test(choice=choice):
            result = only(run(app, request(bos=choice))).result
            assert result is not None and result.perplexity.tokens == tokens


def test_only_the_first_windows_are_scored_if_so_many_are_wanted(app: App) -> None:
    load(app)
    result = only(run(app, request(max_length=32, stride=8, windows=2))).result
    assert result is not None and (result.perplexity.windows, result.perplexity.tokens) == (2, 31 + 8)


def test_chunks_are_those_of_llama_perplexity(app: App) -> None:
    load(app)
    result = only(run(app, request(method="chunks", max_length=32))).result
    assert result is not None and (result.perplexity.windows, result.perplexity.tokens) == (3, 3 * 15)
    assert app.evaluations.results.rows()[0]["stride"] == ""


def test_a_stop_is_immediate_and_leaves_no_row(app: App) -> None:
    load(app)
    id = app.evaluations.start(request(max_length=64, stride=1))
    wait_until(lambda: app.evaluations.find(id).subjects[0].done > 0)
    app.evaluations.stop(id)
    assert app.evaluations.wait(id, 1.0)
    state = app.evaluations.find(id)
    assert state.phase == only(state).phase == "stopped" and only(state).result is None
    assert app.evaluations.results.rows() == []
    assert texts(app.models.current, "still here") == "still here "


def test_generations_go_on_between_windows(app: App) -> None:
    load(app)
    id = app.evaluations.start(request(max_length=64, stride=1))
    wait_until(lambda: app.evaluations.find(id).subjects[0].done > 0)
    list(app.models.current.generate(Prompt("some words"), {}))
    assert not app.evaluations.find(id).has_ended
    app.evaluations.stop(id)


def test_a_load_is_stopped_as_well(app: App) -> None:
    id = app.evaluations.start(request(SLOW, "good.gguf"))
    wait_until(lambda: app.models.status.state == "loading")
    app.evaluations.stop(id)
    assert app.evaluations.wait(id, 5.0) and app.evaluations.find(id).phase == "stopped"
    assert [subject.phase for subject in app.evaluations.find(id).subjects] == ["stopped", "stopped"]


def test_a_queued_evaluation_is_stopped_before_it_begins(app: App) -> None:
    load(app)
    first = app.evaluations.start(request(max_length=64, stride=1))
    second = app.evaluations.start(request())
    app.evaluations.stop(second)
    assert app.evaluations.find(second).phase == "stopped" and not app.evaluations.find(first).has_ended
    app.evaluations.stop(first)
    assert [state.id for state in app.evaluations.state] == [first, second]


def test_what_was_stopped_before_its_turn_does_nothing_in_it(app: App, tmp_path: Path) -> None:
    runs = app.evaluations
    text = runs.texts.read("digits")
    stopped = EvaluationRun(request("good.gguf"), text, runs._loader, runs.results, runs.tokens, tmp_path)
    stopped.stop()
    stopped.run()
    assert stopped.state.phase == only(stopped.state).phase == "stopped" and app.models.status.state == "empty"


def test_distributions_of_a_single_model_are_compared_with_nothing(app: App) -> None:
    error = only(run(app, request("good.gguf", kl=True))).error
    assert isinstance(error, KlImpossible) and "second model" in error.say("en")


def test_a_lora_that_the_model_refuses_fails_its_evaluation(app: App) -> None:
    heads = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    weights = [Tensor(f"blk.0.attn_{part}.weight", (64, width)) for part, width in (("q", 64), ("v", 32))]
    (app.catalog.folder / "base.gguf").write_bytes(gguf({**MODEL, **heads}, weights))
    peft(app.loras.catalog.folder / "fail")  # the name makes the test engine raise an error
    wanted = EvaluationRequest.parse("digits", (Subject("base.gguf", loras={"fail": 1.0}),), {})
    evaluated = only(run(app, wanted))
    assert evaluated.phase == "failed" and app.evaluations.results.rows() == []
    assert evaluated.error is not None and "will not" in evaluated.error.say("en")


def test_an_evaluation_during_which_loras_come_and_go_has_no_result(app: App, tmp_path: Path) -> None:
    load(app)
    id = app.evaluations.start(request(max_length=64, stride=1))
    wait_until(lambda: app.evaluations.find(id).subjects[0].done > 0)
    for adapters in [LoraAdapter("x", tmp_path, 1.0)], []:
        app.models.current.apply_loras(adapters)
    assert app.evaluations.wait(id, SECONDS)
    assert isinstance(only(app.evaluations.find(id)).error, LorasChanged) and app.evaluations.results.rows() == []
    assert only(run(app, request(max_length=64))).phase == "done"


def test_a_model_that_was_deleted_meanwhile_has_no_fingerprint(app: App) -> None:
    load(app)
    text = app.evaluations.texts.read("digits")
    before = hashes(app.models.current, text)
    (app.catalog.folder / "good.gguf").unlink()
    after = hashes(app.models.current, text)
    assert (after["model_hash"], after["loras_hash"]) == ("", "") != (before["model_hash"], before["loras_hash"])
    assert (after["text_hash"], after["options_hash"]) == (before["text_hash"], before["options_hash"])


def test_what_killed_evaluations_have_left_behind_is_deleted_after_a_day(app: App, tmp_path: Path) -> None:
    folder, started = tmp_path / "kl", app.evaluations
    runs = EvaluationRuns(started.texts, started._loader, started.results, folder, app.turns)
    runs.sweep()  # there is no such folder yet
    old, young = folder / "old", folder / "young"
    for part in (old, young):
        part.mkdir(parents=True)
    day_ago = time.time() - 86_410
    os.utime(old, (day_ago, day_ago))
    runs.sweep()
    assert not old.exists() and young.exists()


def test_one_failure_does_not_end_the_others(app: App) -> None:
    (app.texts.folder / "digits.txt").write_text("1 2 3 " * 20)
    (app.catalog.folder / "refuse it.gguf").write_bytes((app.catalog.folder / "good.gguf").read_bytes())
    state = run(app, request("refuse it.gguf", "good.gguf"))
    assert [subject.phase for subject in state.subjects] == ["failed", "done"] and state.phase == "done"
    assert state.subjects[0].error is not None


def test_a_worker_that_breaks_fails_the_evaluation_without_a_row(app: App) -> None:
    load(app)
    (app.texts.folder / "digits.txt").write_text("1 2 3 7 ")
    state = run(app, request())
    assert state.phase == only(state).phase == "failed" and only(state).error is not None
    assert app.evaluations.results.rows() == []


def test_a_worker_that_is_killed_fails_the_evaluation(app: App) -> None:
    load(app)
    pid = app.models.current.ask("where")["pid"]
    id = app.evaluations.start(request(max_length=64, stride=1))
    wait_until(lambda: app.evaluations.find(id).subjects[0].done > 0)
    os.kill(pid, signal.SIGKILL)
    assert app.evaluations.wait(id, SECONDS)
    assert isinstance(only(app.evaluations.find(id)).error, WorkerDied) and app.evaluations.results.rows() == []


def test_a_table_that_is_damaged_keeps_neither_the_result_from_being_shown_nor_is_overwritten(app: App) -> None:
    load(app)
    app.evaluations.results.path.parent.mkdir(exist_ok=True)
    app.evaluations.results.path.write_bytes(b"\xff")
    subject = only(run(app, request()))
    assert subject.phase == "done" and subject.result is not None and isinstance(subject.error, ResultsUnreadable)
    assert app.evaluations.results.path.read_bytes() == b"\xff"


def test_an_embedding_model_is_refused_before_it_is_loaded(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    record = dataclasses.replace(app.record("good.gguf"), task="embed")
    monkeypatch.setattr(app.evaluations._loader, "_find_record", lambda name: record)
    monkeypatch.setitem(registry.LOADERS, "llama.cpp", _with_task(registry.LOADERS["llama.cpp"]))
    with pytest.raises(CannotGenerate):
        app.evaluations.start(request("good.gguf"))


def _with_task(loader: registry.Loader) -> registry.Loader:
    return dataclasses.replace(loader, abilities=loader.abilities | {"embed"})


def test_bad_requests_are_refused_before_anything_is_loaded(app: App) -> None:
    with pytest.raises(NoModelLoaded):
        app.evaluations.start(request())
    with pytest.raises(ModelNotFound):
        app.evaluations.start(request("gone"))
    with pytest.raises(TextNotFound):
        app.evaluations.start(request("good.gguf", text="gone"))
    for options in (
        {"stride": 0},
        {"stride": 33, "max_length": 32},
        {"method": "best"},
        {"max_length": 3},
        {"bos": "maybe"},
    ):
        with pytest.raises(OptionError):
            request("good.gguf", **options)
    with pytest.raises(EvaluationNotFound):
        app.evaluations.stop("gone")


def test_texts_and_windows_that_do_not_fit_are_said(app: App, subtests: pytest.Subtests) -> None:
    load(app)
    for wanted, error in (
        (request(text="short"), TextTooShort),
        (request(max_length=65), WindowTooLong),
        (request(method="chunks"), WindowTooLong),
    ):
        with subtests.test(error=error.__name__):
            assert isinstance(only(run(app, wanted)).error, error)


def test_a_loader_that_cannot_score_tokens_names_those_that_can(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    load(app)
    model = app.models.current
    without = {name: getattr(model.loader, name) for name in ("name", "abilities")}
    for elsewhere, able in ((False, "llama.cpp"), (True, "servers of vLLM")):
        row = type("Row", (), {**without, "abilities": frozenset(), "elsewhere": elsewhere})
        monkeypatch.setattr(model, "loader", row())
        error = only(run(app, request())).error
        assert isinstance(error, Unsupported) and able in error.say("en")


def test_models_that_do_not_fit_together_are_unloaded_only_with_consent(app: App) -> None:
    load(app)
    limit_models(app, 1)
    with pytest.raises(ModelsInTheWay, match=r"good\.gguf"):
        app.evaluations.start(request(WITH_BOS))
    assert app.models.current.record.name == "good.gguf"
    assert run(app, request(WITH_BOS, may_unload=True)).phase == "done"


def test_the_same_model_is_not_loaded_twice(app: App) -> None:
    run(app, request("good.gguf"))
    loaded = app.models.current
    run(app, request("good.gguf"))
    assert app.models.current is loaded


def test_a_model_that_was_tested_alike_is_skipped_if_that_is_wanted(app: App) -> None:
    alike = EvaluationRequest("digits", (Subject("good.gguf"),), stride=8, skip_tested=True)
    (first,) = run(app, alike).subjects
    (second,) = run(app, alike).subjects
    assert first.result is not None and second.result is None and second.phase == "done"
    assert second.tested is not None and second.tested.id == first.result.id
    changed = (
        dataclasses.replace(alike, stride=9),
        dataclasses.replace(alike, bos="always"),
        dataclasses.replace(alike, windows=1),
        dataclasses.replace(alike, subjects=(Subject("good.gguf", options={"n_batch": 7}),)),
        dataclasses.replace(alike, skip_tested=False),
    )
    for other in changed:
        assert only(run(app, other)).tested is None
    assert len(app.evaluations.results.rows()) == 6


def test_models_are_compared_with_the_first_one_also_if_that_was_tested_before(app: App) -> None:
    first, others = Subject("good.gguf"), [Subject("good.gguf", options={"n_batch": size}) for size in (7, 9)]
    tested = only(run(app, EvaluationRequest("digits", (first,), stride=8))).result
    again = EvaluationRequest("digits", (first, *others), stride=8, skip_tested=True)
    skipped, *compared = run(app, again).subjects
    assert tested is not None and skipped.tested is not None and skipped.tested.id == tested.id
    for one in compared:
        assert one.result is not None and one.result.reference == "good.gguf" and one.result.difference is not None
    for file in app.evaluations.tokens._folder.iterdir():
        file.unlink()
    more = dataclasses.replace(again, subjects=(first, Subject("good.gguf", options={"n_batch": 11})))
    result = run(app, more).subjects[1].result
    assert result is not None and (result.reference, result.difference) == ("", None)
    assert result.not_compared is not None and "no longer kept" in result.not_compared["en"]


def test_options_decide_the_hashes_but_not_the_windows(app: App) -> None:
    wanted = EvaluationRequest("digits", (Subject("good.gguf"), Subject("good.gguf", options={"n_batch": 7})))
    first, second = (subject.result for subject in run(app, wanted).subjects)
    assert first is not None and second is not None and second.difference is not None
    changed = [key for key in first.hashes if first.hashes[key] != second.hashes[key]]
    assert changed == ["options_hash"] and first.windows_hash == second.windows_hash


def test_nothing_of_the_tokens_is_kept_of_a_run_that_has_ended(app: App) -> None:
    assert run(app, request("good.gguf")).phase == "done"
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, PreparedText)]
