"""Evaluations over the API: starting, listing and stopping them, results and texts; guests' permissions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from tests.support.downloading import until
from tests.support.echo_models import use_echo
from tests.support.serving import Server, server_of

ENDPOINT = "/internal/evaluations"


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    use_echo(monkeypatch, tmp_path / "models", "good.gguf")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "digits.txt").write_text("1 2 3 " * 40)
    return make_app("--dataset-dir", str(tmp_path / "datasets"))


@pytest.fixture
def server(app: App) -> Iterator[Server]:
    with server_of(app) as running:
        yield running
    app.evaluations.close()


def wait_for_end(server: Server, id: str) -> Any:
    until(lambda: server.http.get(f"{ENDPOINT}/{id}").json()["state"] in ("done", "failed", "stopped"))
    return server.http.get(f"{ENDPOINT}/{id}").json()


def test_a_model_is_evaluated_and_its_result_listed(server: Server) -> None:
    body = {"text": "digits", "models": [{"model": "good.gguf", "options": {"n_batch": 8}}], "max_length": 32}
    started = server.post(ENDPOINT, body)
    assert started.status_code == 200
    state = wait_for_end(server, started.json()["id"])
    (model,) = state["models"]
    assert (state["state"], model["done"], model["total"], model["error"]) == ("done", 4, 4, None)
    result = model["result"]
    assert result["perplexity"] == pytest.approx(math.exp(239 / 119)) and result["tokens"] == 119
    assert {"perplexity", "error", "tokens", "bits_per_byte", "hashes"} <= result.keys()
    assert [run["id"] for run in server.http.get(ENDPOINT).json()["evaluations"]] == [state["id"]]
    (row,) = server.http.get(f"{ENDPOINT}/results").json()["results"]
    assert row["id"] == result["id"] and row["Model"] == "good.gguf"
    assert server.http.get(f"{ENDPOINT}/texts").json() == {"texts": [{"name": "digits.txt", "size": 240}]}


def test_an_evaluation_is_stopped(server: Server) -> None:
    wanted = {"text": "digits.txt", "models": [{"model": "good.gguf"}], "max_length": 64, "stride": 1}
    id = server.post(ENDPOINT, wanted).json()["id"]
    assert server.post(f"{ENDPOINT}/stop", {"id": id}).status_code == 200
    assert wait_for_end(server, id)["state"] == "stopped"
    assert server.http.get(f"{ENDPOINT}/results").json() == {"results": []}


def test_bad_requests_are_refused_in_a_sentence(server: Server, subtests: pytest.Subtests) -> None:
    good = {"text": "digits", "models": [{"model": "good.gguf"}]}
    for changes, status in (
        ({"text": "../digits"}, 404),
        ({"text": 5}, 400),
        ({"models": [{"model": "gone"}]}, 404),
        ({"models": []}, 400),
        ({"models": [{"model": "good.gguf", "loader": "none"}]}, 400),
        ({"models": [{"model": "good.gguf", "options": {"n_ctx": "many"}}]}, 400),
        ({"models": [{"model": "good.gguf", "loras": {"gone": 1}}]}, 404),
        ({"models": None}, 400),
        ({"method": "best"}, 400),
        ({"stride": 0}, 400),
        ({"stride": 9, "max_length": 8}, 400),
        ({"windows": 1.5}, 400),
        ({"unknown": 1}, 400),
    ):
        with subtests.test(changes=ascii(changes)):
            refusal = server.refusal(ENDPOINT, {**good, **changes})
            assert refusal["status"] == status and len(refusal["message"]) > 10
    assert server.http.get(ENDPOINT).json() == {"evaluations": []}
    assert server.refusal(f"{ENDPOINT}/stop", {"id": "gone"})["status"] == 404
    assert server.http.get(f"{ENDPOINT}/gone").status_code == 404


def test_wikitext_that_no_mirror_has_is_an_error_with_its_name(app: App, server: Server) -> None:
    app.mirrors.choose("http://127.0.0.1:9")
    refusal = server.refusal(f"{ENDPOINT}/texts/wikitext", {})
    assert refusal["status"] == 502 and "127.0.0.1" in refusal["message"]


def test_guests_may_not_evaluate(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--multi-user")) as server:
        assert server.post(ENDPOINT, {"text": "digits"}).status_code == 403
        assert server.http.get(ENDPOINT).status_code == 403
