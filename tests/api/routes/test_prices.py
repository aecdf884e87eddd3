"""Prices of options over the API: starting, listing and stopping measurements, results, and guests' permissions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from tests.support.downloading import until
from tests.support.echo_models import use_echo
from tests.support.serving import Server, server_of

ENDPOINT = "/internal/prices"
TIMED, SLOW = "timed model.gguf", "brief model.gguf"
WANTED = {"key": "numa", "a": False, "b": True, "model": TIMED, "pairs": 2}


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    use_echo(monkeypatch, tmp_path / "models", TIMED, SLOW)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "digits.txt").write_text("1 2 3 " * 40)
    return make_app("--dataset-dir", str(tmp_path / "datasets"))


@pytest.fixture
def server(app: App) -> Iterator[Server]:
    with server_of(app) as running:
        yield running
    app.prices.close()


def wait_for_end(server: Server, id: str) -> Any:
    until(lambda: server.http.get(f"{ENDPOINT}/{id}").json()["state"] in ("done", "failed", "stopped"))
    return server.http.get(f"{ENDPOINT}/{id}").json()


def test_an_option_is_priced_and_its_result_listed(server: Server) -> None:
    started = server.post(ENDPOINT, WANTED)
    assert started.status_code == 200
    state = wait_for_end(server, started.json()["id"])
    assert (state["state"], state["done"], state["total"], state["error"]) == ("done", 6, 6, None)
    result = state["result"]
    assert result["effects"]["decode_speed"]["percent"]["mean"] == pytest.approx(-50)
    assert server.http.get(ENDPOINT).json()["prices"] == [state]
    assert server.http.get(f"{ENDPOINT}/results?key=numa").json()["results"] == [result]
    assert server.http.get(f"{ENDPOINT}/results?model=other").json() == {"results": []}


def test_a_measurement_is_stopped(server: Server) -> None:
    id = server.post(ENDPOINT, {**WANTED, "model": SLOW}).json()["id"]
    assert server.post(f"{ENDPOINT}/stop", {"id": id}).status_code == 200
    assert wait_for_end(server, id)["state"] == "stopped"
    assert server.http.get(f"{ENDPOINT}/results").json() == {"results": []}


def test_requests_that_make_no_sense_are_refused(server: Server) -> None:
    for changes, status in (
        ({"key": "nums"}, 400),
        ({"a": "perhaps"}, 400),
        ({"a": [1]}, 400),
        ({"a": None}, 400),
        ({"model": "missing"}, 404),
        ({"model": ""}, 400),
        ({"pairs": 1}, 400),
        ({"pairs": 10**9}, 400),
        ({"options": {"n_ctx": "many"}}, 400),
        ({"options": {"no_such": 1}}, 400),
        ({"text": "../secrets"}, 404),
        ({"surplus": 1}, 400),
        ({"key": "model", "a": 1, "b": 2}, 400),
    ):
        answer = server.post(ENDPOINT, {**WANTED, **changes})
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (status, True), changes
    assert server.post(f"{ENDPOINT}/stop", {"id": "missing"}).status_code == 404
    assert server.http.get(f"{ENDPOINT}/missing").status_code == 404
    assert server.http.get(ENDPOINT).json() == {"prices": []}


def test_guests_may_not_measure_prices(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--multi-user")) as server:
        assert server.post(ENDPOINT, WANTED).status_code == 403
        for path in ("", "/results"):
            assert server.http.get(ENDPOINT + path).status_code == 403
