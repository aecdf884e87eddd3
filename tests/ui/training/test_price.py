"""The routes of prices, and how the page shows one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_result import Effect, Measurement, PriceResult
from modules.evaluation.price_state import PriceState
from modules.evaluation.statistics import Interval
from modules.ui.locales import translator
from modules.ui.training import price
from modules.ui.training.price_view import progress_html, result_html, run_json, short_text
from tests.support.echo_models import use_echo

RESULT = PriceResult(
    id="one",
    key="cache_8bit",
    a="false",
    b="true",
    model="<m>",
    loader="llama.cpp",
    effects=(
        Effect("perplexity", 18.0, 18.1, Interval(0.005, -0.001, 0.011)),
        Effect("memory", 400 * 2.0**20, 380 * 2.0**20, Interval(math.log(0.95), math.log(0.94), math.log(0.96))),
        Effect("decode_speed", 50.0, 51.0, Interval(0.02, 0.01, 0.03)),
    ),
    kl=Interval(0.002, 0.001, 0.003),
    same_top=Interval(0.98, 0.97, 0.99),
    pairs=5,
)


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def client_of(app: App) -> TestClient:
    server = FastAPI()
    price.add_routes(server, app)
    return TestClient(server)


def test_a_price_says_what_was_seen_and_what_was_not() -> None:
    html = result_html(RESULT, "en")
    assert "<li>Peak memory: 5 % less</li><li>Decoding speed: 2.02 % more</li>" in html
    assert "No difference seen: Perplexity" in html and "419 MB" in html and "398 MB" in html
    assert "the same at 98 %" in html and "<m>" not in html and "&lt;m&gt;" in html


def test_the_line_at_an_option_names_the_changes_that_were_seen() -> None:
    assert short_text(RESULT, translator("zh")) == "false → true：内存峰值 −5 % · 解码速度 +2.02 %"
    unseen = dataclasses.replace(RESULT, effects=RESULT.effects[:1])
    assert short_text(unseen, translator("en")) == "false → true: no difference seen"


def test_figures_that_cannot_be_compared_are_in_the_table_alone() -> None:
    effect = Effect("perplexity", 18.0, 9.0, Interval(math.nan, math.nan, math.nan))
    html = result_html(dataclasses.replace(RESULT, effects=(effect,)), "en")
    assert "<svg" not in html and "18" in html and "—" in html and "No difference" not in html


def test_why_there_is_no_perplexity_is_said() -> None:
    unscored = dataclasses.replace(RESULT, quality_problem={"en": "<short>", "zh": "过短"})
    assert "&lt;short&gt;" in result_html(unscored, "en") and "过短" in result_html(unscored, "zh")


def test_disturbed_measurements_carry_a_warning() -> None:
    assert "25 % of the processors" in result_html(dataclasses.replace(RESULT, foreign_load=0.25), "en")


def test_progress_is_drawn_from_the_second_pair_on() -> None:
    pair = (Measurement(memory=100.0, decode_speed=10.0), Measurement(memory=90.0, decode_speed=11.0))
    state = PriceState("x", PriceRequest("cache_8bit", "false", "true", "m"), "measuring", 4, 12, "true", 8.0)
    assert progress_html(dataclasses.replace(state, pairs=(pair,)), "en") == ""
    assert "<svg" in progress_html(dataclasses.replace(state, pairs=(pair, pair)), "en")
    assert run_json(state, "en")["left"] == 16.0


def test_the_newest_price_of_each_option_is_kept_for_its_field(app: App, http: TestClient) -> None:
    newer = dataclasses.replace(RESULT, id="two", effects=RESULT.effects[:1])
    for result in (RESULT, newer, dataclasses.replace(RESULT, id="three", key="mlock", loader="Transformers")):
        app.prices.results.add(result)
    kept = http.get("/price/kept?model=<m>&loader=llama.cpp&lang=en").json()["kept"]
    assert kept == {"cache_8bit": {"id": "two", "text": "false → true: no difference seen"}}
    assert [one["id"] for one in http.get("/price/results?model=<m>").json()["results"]] == ["three", "two", "one"]
    assert http.get("/price/results?model=other").json()["results"] == []
    assert "<svg" in http.get("/price/result?id=one").json()["html"]
    assert http.get("/price/result?id=four").status_code == 404


def test_a_measurement_is_followed_and_what_it_shows_is_sent_once(
    make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_echo(monkeypatch, tmp_path / "models", "good.gguf")
    (tmp_path / "digits.txt").write_text("1 2 3 4 5 6 " * 40)
    app = make_app("--dataset-dir", str(tmp_path))
    http = client_of(app)
    at_work = app.turns.queue({"en": "an evaluation", "zh": "评估"})
    body = {"key": "numa", "a": "false", "b": "true", "model": "good.gguf", "text": "digits"}
    id = http.post("/price/start", json=body).json()["id"]
    shown = http.get("/price/runs?lang=zh", params={"run": id}).json()
    ((run,), drawn) = shown["runs"], shown["drawn"]
    assert run["waiting"] == "正在等待评估结束。" and shown["html"] == "" and drawn == "0 queued"
    assert "html" not in http.get("/price/runs", params={"run": id, "drawn": drawn}).json()
    assert http.post("/price/stop", json={"id": id}).json() == {}
    stopped = http.get("/price/runs", params={"run": id, "drawn": drawn}).json()
    assert (stopped["runs"][0]["state"], stopped["drawn"]) == ("stopped", "0 stopped")
    at_work.end()


def test_the_form_lists_the_options_of_each_loader(http: TestClient) -> None:
    form = http.get("/price/form").json()
    keys = [option["key"] for option in form["options"]]
    assert "cache_8bit" in keys and "trust_remote_code" not in keys
    assert "n_ctx" in form["loaders"]["llama.cpp"] and form["pairs"] == {"full": 5, "quick": 3}


def test_bad_requests_are_refused_with_a_sentence(http: TestClient, subtests: pytest.Subtests) -> None:
    good = {"key": "mlock", "a": "false", "b": "true", "model": "gone"}
    cases = (
        (good, 404, "gone"),
        ({**good, "key": "depth"}, 400, "depth"),
        ({**good, "b": "perhaps"}, 400, "mlock"),
        ({**good, "pairs": 1}, 400, "pairs"),
        ({**good, "extra": 1}, 400, ""),
    )
    for number, (body, status, text) in enumerate(cases):
        with subtests.test(number):
            answer = http.post("/price/start?lang=en", json=body)
            assert answer.status_code == status and text in answer.json()["error"]
    assert http.post("/price/stop", json={"id": "x"}).status_code == 404


def test_guests_are_refused(make_app: Callable[..., App]) -> None:
    assert client_of(make_app("--multi-user", "--listen")).get("/price/results").status_code == 403
