"""Training over the API: start, list, follow, stop, resume, delete, and who may."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from tests.support.serving import Server, server_of
from tests.support.training_app import PARAMETERS, training_app

ENDPOINT = "/internal/training"
SECONDS = 20


@pytest.fixture
def server(make_app: Callable[..., App], tmp_path: Path) -> Iterator[Server]:
    with server_of(training_app(make_app, tmp_path, model="slow model")) as running:
        yield running


def wait_for(server: Server, name: str, state: str, update: int = 0) -> dict[str, object]:
    until = time.monotonic() + SECONDS
    while True:
        (run,) = [run for run in server.http.get(ENDPOINT).json()["runs"] if run["name"] == name]
        if run["state"] == state and run["update"] >= update:
            return dict(run)
        assert time.monotonic() < until, run
        time.sleep(0.02)


def test_a_run_is_started_stopped_resumed_and_deleted(server: Server, tmp_path: Path) -> None:
    response = server.post(ENDPOINT, {"parameters": {**PARAMETERS, "model": "slow model"}})
    assert response.status_code == 200, response.text
    assert response.json()["name"] == "a" and response.json()["parameters"]["dataset"] == "facts"
    assert wait_for(server, "a", "running", 3)["loss"] is not None
    assert server.post(f"{ENDPOINT}/delete", {"name": "a"}).status_code == 409
    server.post(f"{ENDPOINT}/stop", {"name": "a"})
    assert wait_for(server, "a", "stopped")["adapter"] == "a"
    server.post(f"{ENDPOINT}/resume", {"name": "a"})
    wait_for(server, "a", "finished", 12)
    log = server.post(f"{ENDPOINT}/log", {"name": "a"}).json()["log"]
    assert [entry["update"] for entry in log] == list(range(1, 13))
    assert server.post(f"{ENDPOINT}/delete", {"name": "a"}).json() == {"name": "a"}
    assert server.http.get(ENDPOINT).json() == {"runs": []}


def test_invalid_requests_are_answered_with_a_sentence(server: Server, subtests: pytest.Subtests) -> None:
    cases: list[tuple[str, object, int]] = [
        ("", {"parameters": {"model": "slow model", "lora_name": "a"}}, 400),
        ("", {"parameters": {**PARAMETERS, "nonsense": 1}}, 400),
        ("", {"parameters": []}, 400),
        ("", {}, 400),
        ("", {"parameters": PARAMETERS}, 404),
        ("", {"parameters": {**PARAMETERS, "model": "slow model"}, "continue_from": "nothing"}, 404),
        ("/stop", {"name": "nothing"}, 404),
        ("/resume", {"name": "../models"}, 404),
        ("/discard", {"name": ""}, 400),
        ("/delete", {"name": ["a"]}, 400),
        ("/log", {"name": "\0"}, 404),
    ]
    for path, body, status in cases:
        with subtests.test(path=path, body=ascii(body)):
            response = server.post(ENDPOINT + path, body)
            assert response.status_code == status, response.text
            assert response.json()["error"]["message"]


def test_guests_may_not_train(make_app: Callable[..., App], tmp_path: Path) -> None:
    with server_of(training_app(make_app, tmp_path, "--multi-user")) as server:
        assert server.post(ENDPOINT, {"parameters": PARAMETERS}).status_code == 403
        assert server.http.get(ENDPOINT).status_code == 403
