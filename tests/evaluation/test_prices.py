"""Measurements of prices in workers: results, order, stops, failures, and what is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from modules.app import App
from modules.config.model_settings import LORAS
from modules.core.errors import LoaderUnavailable, ModelNotFound, OptionError, UnknownOption, Unsupported
from modules.core.lora_errors import LoraNotFound
from modules.core.worker_errors import LoadCancelled
from modules.evaluation.errors import ResultsUnreadable, TextNotFound
from modules.evaluation.price_errors import NoPrice, PriceNotFound, ResidentsInTheWay
from modules.evaluation.price_loads import FreshLoad, Stop
from modules.evaluation.price_measure import plan_speed_test
from modules.evaluation.price_quality import Quality
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_run import PriceRun, _model_hash
from modules.evaluation.price_state import PriceState
from modules.loaders import registry
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoadPlan
from tests.support.echo_models import use_echo
from tests.support.echo_plans import wait_until
from tests.support.fake_server import FakeServer, Reply
from tests.support.gguf_files import MODEL, Tensor, gguf
from tests.support.lora_files import peft

SECONDS = 30.0
TIMED, SLOW, BROKEN = "timed model.gguf", "brief model.gguf", "fail model.gguf"


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    use_echo(monkeypatch, tmp_path / "models", TIMED, SLOW, BROKEN, "good.gguf")
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "digits.txt").write_text("1 2 3 4 5 6 " * 40)
    app = make_app("--dataset-dir", str(folder), "--lora-dir", str(tmp_path / "loras"))
    yield app
    app.prices.close()
    app.models.close()


def request(*args: object, **options: object) -> PriceRequest:
    parts = args or ("numa", "false", "true", TIMED)
    return PriceRequest.parse(*parts, pairs=2, **options)  # type: ignore[arg-type]


def run(app: App, wanted: PriceRequest) -> PriceState:
    id = app.prices.start(wanted)
    assert app.prices.wait(id, SECONDS)
    return app.prices.find(id)


def test_an_option_that_halves_the_speed_costs_half_of_it(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[object]()
    load = app.prices._loads.load

    def observed(plan: LoadPlan, stop: Stop) -> contextlib.AbstractContextManager[FreshLoad]:
        loaded.append(plan.options["numa"])
        return load(plan, stop)

    monkeypatch.setattr(app.prices._loads, "load", observed)
    state = run(app, request())
    result = state.result
    assert state.phase == "done" and state.error is None and result is not None
    decoding, prompt = result.effect("decode_speed"), result.effect("prompt_speed")
    assert decoding is not None and prompt is not None
    assert (decoding.a, decoding.b) == (pytest.approx(1000), pytest.approx(500))
    assert decoding.percent.mean == pytest.approx(-50) and decoding.is_seen
    assert prompt.percent.mean == pytest.approx(0) and not prompt.is_seen
    perplexity, memory = result.effect("perplexity"), result.effect("memory")
    assert perplexity is not None and perplexity.a == perplexity.b and perplexity.change.mean == 0
    assert perplexity.a == pytest.approx(math.exp(3.5), rel=0.1)
    assert memory is not None and memory.a > 1 << 20
    assert (result.key, result.a, result.b, result.pairs) == ("numa", "false", "true", 2)
    assert result.machine["cores"] and result.packages and len(result.model_hash) == 64
    assert loaded == [False, True, False, True, True, False]  # for the perplexity, then AB BA
    assert state.done == state.total == len(loaded)
    assert [kept.id for kept in app.prices.results.of(TIMED, "numa")] == [result.id]
    assert app.prices.results.path.parent == app.catalog.folder
    assert app.models.status.state == "empty"


def test_two_models_are_compared_like_two_values(app: App) -> None:
    result = run(app, request("model", TIMED, "good.gguf")).result
    assert result is not None
    assert (result.a, result.b, result.model) == (TIMED, "good.gguf", TIMED)
    assert result.effect("memory") is not None
    assert result.effect("decode_speed") is None  # one of them does not say how long it took


def test_models_in_memory_must_be_unloaded_first(app: App) -> None:
    app.loading.load(app.planner.plan(LoadRequest(app.record("good.gguf"))))
    assert app.prices.residents() == ["good.gguf"]
    with pytest.raises(ResidentsInTheWay, match=r"good\.gguf"):
        app.prices.start(request())
    assert app.models.status.state == "ready"
    id = app.prices.start(request("numa", "false", "true", SLOW, may_unload=True))
    wait_until(lambda: app.models.status.state == "empty")
    app.prices.stop(id)
    assert app.prices.wait(id, SECONDS)


def test_a_model_on_a_server_need_not_be_unloaded(app: App) -> None:
    with FakeServer() as server:
        server.add("/v1/models", Reply(json={"data": [{"id": "m", "owned_by": "vllm"}]}))
        (app.catalog.folder / "far.server.yaml").write_text(f"url: {server.url}\n")
        app.loading.load(app.planner.plan(LoadRequest(app.record("far"))))
        assert app.models.status.state == "ready" and app.prices.residents() == []
        app.models.unload()


def test_requests_that_cannot_be_carried_out_are_refused_at_once(app: App) -> None:
    for wanted, error in (
        (("numa", "false", "true", "missing"), ModelNotFound),
        (("nums", "false", "true", TIMED), UnknownOption),
        (("numa", "false", "perhaps", TIMED), OptionError),
        (("gpu_split", "1", "2", TIMED), NoPrice),  # another loader's
    ):
        with pytest.raises(error):
            app.prices.start(request(*wanted))
    with pytest.raises(TextNotFound):
        app.prices.start(request(text="missing"))
    with pytest.raises(PriceNotFound):
        app.prices.find("missing")


def test_a_failed_load_ends_it_with_its_sentence(app: App) -> None:
    state = run(app, request("numa", "false", "true", BROKEN))
    assert state.phase == "failed" and isinstance(state.error, Unsupported)
    assert app.prices.results.all() == []


def test_a_lora_that_cannot_be_applied_ends_it_with_its_sentence(app: App, subtests: pytest.Subtests) -> None:
    heads = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    weights = [Tensor(f"blk.0.attn_{part}.weight", (64, width)) for part, width in (("q", 64), ("v", 32))]
    (app.catalog.folder / "base.gguf").write_bytes(gguf({**MODEL, **heads}, weights))
    peft(app.loras.catalog.folder / "fail")  # the name makes the test engine raise an error
    wanted = request("numa", "false", "true", "base.gguf")
    save_loras(app, "fail")
    with subtests.test(what="the engine refuses it"):
        error = run(app, wanted).error
        assert error is not None and "will not" in error.say("en")
    save_loras(app, "gone")
    with subtests.test(what="there is none of that name"), pytest.raises(LoraNotFound):
        app.prices.start(wanted)


def save_loras(app: App, name: str) -> None:
    app.model_settings.save("base.gguf", "llama.cpp", {LORAS: {name: 1.0}}, (LORAS,))


def test_both_sides_get_the_smaller_of_two_contexts_that_fit_in_memory(app: App) -> None:
    heads = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    (app.catalog.folder / "long.gguf").write_bytes(gguf({**MODEL, **heads, "llama.context_length": 1 << 24}))
    app.memory.available_memory = lambda: 1_000_000_000
    wanted = request("cache_8bit", "false", "true", "long.gguf")
    alone = [
        app.planner.plan(LoadRequest(app.record("long.gguf"), form=variant.options)).settings["n_ctx"]
        for variant in wanted.variants()
    ]
    assert [setting.source for setting in alone] == ["memory", "memory"] and alone[0].value != alone[1].value
    plans = app.prices._loads.plans(wanted)
    assert [plan.options["n_ctx"] for plan in plans] == [min(int(setting.value) for setting in alone)] * 2
    assert [plan.options["cache_8bit"] for plan in plans] == [False, True]


def test_a_model_that_was_deleted_meanwhile_has_no_fingerprint(app: App) -> None:
    plans = app.prices._loads.plans(request())
    assert _model_hash(plans)
    (app.catalog.folder / TIMED).unlink()
    assert _model_hash(plans) == ""


def test_models_that_cut_the_text_differently_show_their_perplexities_alone(app: App, tmp_path: Path) -> None:
    (app.catalog.folder / "bos model.gguf").write_bytes((app.catalog.folder / "good.gguf").read_bytes())
    quality = Quality(app.texts.read("digits"), tmp_path / "distributions")
    for name in ("good.gguf", "bos model.gguf"):
        app.loading.load(app.planner.plan(LoadRequest(app.record(name))))
        quality.add(app.models.current)
    effect = quality.effect()
    assert effect is not None and effect.a > 1 and effect.b > 1 and math.isnan(effect.change.mean)
    assert quality.divergence() == {} and "same tokens" in quality.problem["en"]
    assert not (tmp_path / "distributions").exists()


def test_a_load_under_way_is_ended_by_a_stop(app: App) -> None:
    plan, _ = app.prices._loads.plans(request("numa", "false", "true", SLOW))
    stop, outcome = Stop(), list[BaseException]()

    def load() -> None:
        try:
            with app.prices._loads.load(plan, stop):
                pass
        except LoadCancelled as cancelled:
            outcome.append(cancelled)

    loading = threading.Thread(target=load)
    loading.start()
    wait_until(lambda: stop._load is not None)
    stop.request()
    loading.join(SECONDS)
    assert len(outcome) == 1
    with pytest.raises(LoadCancelled), app.prices._loads.load(plan, stop):
        pass


def test_a_loader_that_is_not_installed_is_refused_at_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(registry.LOADERS["llama.cpp"], packages=("no_such_package",))
    monkeypatch.setitem(cast("dict[str, registry.Loader]", registry.LOADERS), "llama.cpp", absent)
    with pytest.raises(LoaderUnavailable, match="no_such_package"):
        app.prices.start(request("numa", "false", "true", TIMED, "llama.cpp"))


def test_what_was_stopped_before_its_turn_does_nothing_in_it(app: App, tmp_path: Path) -> None:
    prices = app.prices
    stopped = PriceRun(request(), app.texts.read("digits"), prices._loads, prices.results, tmp_path)
    stopped.stop()
    stopped.run()
    assert stopped.state.phase == "stopped" and stopped.state.seconds == 0


def test_a_stop_ends_the_load_and_keeps_nothing(app: App) -> None:
    running, queued = (app.prices.start(request("numa", "false", "true", SLOW)) for _ in range(2))
    wait_until(lambda: app.prices.find(running).phase == "quality")
    for id in (queued, running):
        app.prices.stop(id)
        assert app.prices.wait(id, 5)
        assert app.prices.find(id).phase == "stopped"
    assert app.prices.results.all() == []


def test_a_result_is_shown_without_perplexity_and_even_if_it_cannot_be_kept(app: App) -> None:
    (app.texts.folder / "short.txt").write_text("1 2 3")
    app.prices.results.path.write_text("damaged")
    state = run(app, request(text="short"))
    assert state.phase == "done" and state.result is not None and isinstance(state.error, ResultsUnreadable)
    assert state.result.effect("perplexity") is None and "too short" in state.result.quality_problem["en"]
    assert state.result.effect("decode_speed") is not None
    assert app.prices.results.path.read_text() == "damaged"


def test_prompts_have_512_tokens_or_what_the_context_holds() -> None:
    ids = list(range(2000))
    full = plan_speed_test(ids, 8192)
    periodic = plan_speed_test(ids[:512], 8192)
    assert periodic.rehearsal[0] != periodic.prompt[0]  # the KV cache could answer the test
    assert (len(full.prompt), len(full.rehearsal), full.decoded) == (512, 512, 128)
    assert not set(full.prompt) & set(full.rehearsal)
    small = plan_speed_test([5, 6, 7], 64)
    assert (len(small.prompt), small.decoded) == (47, 16)
    assert small.rehearsal[0] != small.prompt[0]
    for faulty in (([], 512), (ids, 4)):
        with pytest.raises(Unsupported):
            plan_speed_test(*faulty)
