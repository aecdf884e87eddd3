"""Which model answers a request: one by its name, loaded on demand, or the current one instead."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modules.api import keep_alive
from modules.api.model_use import SUBSTITUTED
from modules.app import App
from tests.conftest import worker_pids
from tests.support.echo_models import limit_models, use_echo
from tests.support.echo_plans import wait_until
from tests.support.serving import api_of, client_of

MakeApp = Callable[..., App]
Serve = Callable[..., httpx.Client]


@pytest.fixture
def make_echo(make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeApp:
    """Return a function as `make_app`, with models that the test engine loads, one of which fits into memory."""
    use_echo(monkeypatch, tmp_path / "models", "a.gguf", "b.gguf", "brief c.gguf", "fail d.gguf")
    monkeypatch.setattr("modules.runtime.eviction._RECHECK_SECONDS", 0.05)

    def make(*arguments: str) -> App:
        app = make_app(*arguments)
        limit_models(app, 1)
        return app

    return make


@pytest.fixture
def app(make_echo: MakeApp) -> App:
    return make_echo()


@pytest.fixture
def http(app: App) -> Iterator[httpx.Client]:
    """A client of the server's root."""
    with api_of(app) as address, client_of(address, timeout=30) as client:
        yield client


def ask(http: httpx.Client, model: str, **fields: object) -> httpx.Response:
    return http.post("/v1/completions", json={"model": model, "prompt": "hello", **fields})


def states(app: App) -> dict[str, str]:
    return {resident.name: resident.state for resident in app.models.residents()}


def test_a_model_is_loaded_by_its_name_with_its_saved_settings(app: App, http: httpx.Client) -> None:
    app.model_settings.save("a.gguf", "llama.cpp", {"n_ctx": 99}, ["n_ctx"])
    for name in ("a.gguf", "a"):
        response = ask(http, name)
        assert (response.status_code, response.json()["model"]) == (200, "a.gguf")
        assert response.json()["choices"][0]["text"] == "hello " and SUBSTITUTED not in response.headers
    with app.models.lease("a.gguf") as model:
        assert model.ask("options")["n_ctx"] == 99
    assert ask(http, "b").json()["model"] == "b.gguf"
    assert states(app) == {"a.gguf": "asleep", "b.gguf": "ready"}


def test_for_an_unknown_model_the_current_one_answers_and_says_so(app: App, http: httpx.Client) -> None:
    error = ask(http, "gpt-9").json()["error"]
    assert error["code"] == "no_model_loaded" and "GET /v1/models" in error["message"]
    ask(http, "a")
    for stream in (False, True):
        response = ask(http, "模型 gpt-9", stream=stream)
        assert response.status_code == 200
        assert response.headers[SUBSTITUTED] == "%E6%A8%A1%E5%9E%8B gpt-9"
    assert SUBSTITUTED not in ask(http, "").headers


def test_with_strict_model_an_unknown_one_is_refused(make_echo: MakeApp) -> None:
    app = make_echo("--strict-model")
    with api_of(app) as address, client_of(address, timeout=30) as http:
        ask(http, "a")
        response = ask(http, "gpt-9")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        assert ask(http, "").status_code == 200


def test_a_key_for_using_models_wakes_but_does_not_load(make_echo: MakeApp, tmp_path: Path) -> None:
    (keys := tmp_path / "keys").write_text("alice:owner:hers\nbob:use:his\n")
    app = make_echo("--api-key-file", str(keys))
    with api_of(app) as address, client_of(address, timeout=30) as http:
        http.headers["Authorization"] = "Bearer his"
        response = ask(http, "a")
        assert (response.status_code, response.json()["error"]["code"]) == (403, "owners_key_needed")
        for response in (ask(http, "gpt-9"), http.get("/props")):
            assert (response.status_code, response.json()["error"]["code"]) == (400, "owner_must_load")
        for path in ("/models/load", "/models/unload"):
            assert http.post(path, json={"model": "a"}).status_code == 403
        http.headers["Authorization"] = "Bearer hers"
        assert ask(http, "a", keep_alive=0).status_code == 200
        wait_until(lambda: states(app) == {"a.gguf": "asleep"})
        http.headers["Authorization"] = "Bearer his"
        assert ask(http, "a", keep_alive=0).json()["model"] == "a.gguf"
        assert ask(http, "b").status_code == 403
        time.sleep(0.1)
        assert states(app) == {"a.gguf": "ready"}, "how long it stays is the owner's to say"


def test_keep_alive_and_ttl_are_read_as_other_servers_read_them(
    app: App, http: httpx.Client, subtests: pytest.Subtests
) -> None:
    for raw, seconds in [(5, 5), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), ("90", 90), (0, 0), ("500ms", 0.5)]:
        with subtests.test(raw=raw):
            assert keep_alive.seconds(raw) == seconds
    for raw in (-1, "-1", "-1m"):
        with subtests.test(raw=raw):
            assert keep_alive.seconds(raw) == float("inf")
    for field in ("keep_alive", "ttl"):
        for raw in ("soon", True, [], {}, "5 m", "m", "9" * 50):
            with subtests.test(field=field, raw=str(raw)[:10]):
                error = ask(http, "a", **{field: raw}).json()["error"]
                assert (error["code"], error["param"]) == ("invalid_value", field)
    assert ask(http, "a", ttl=1000).status_code == 200
    (resident,) = app.models.residents()
    assert resident.sleeps_in is not None and 990 < resident.sleeps_in <= 1000
    ask(http, "a", keep_alive=-1)
    assert app.models.residents()[0].sleeps_in is None


def test_a_failed_load_and_missing_room_are_answered_by_name(app: App, http: httpx.Client) -> None:
    response = ask(http, "fail d")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")
    ask(http, "a")
    app.models.pin("a.gguf")
    response = ask(http, "b")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "insufficient_memory")
    assert "a.gguf" in response.json()["error"]["message"] and int(response.headers["Retry-After"]) > 0


def test_models_are_listed_with_what_they_are_doing(app: App, http: httpx.Client) -> None:
    ask(http, "a")
    ask(http, "b")
    ask(http, "fail d")
    listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert {name: model["status"] for name, model in listed.items()} == {
        "a.gguf": {"value": "sleeping"},
        "b.gguf": {"value": "sleeping"},
        "brief c.gguf": {"value": "unloaded"},
        "fail d.gguf": {"value": "unloaded", "failed": True},
    }
    ask(http, "b")
    model = http.get("/v1/models/b").json()
    assert (model["status"]["value"], model["loaded"], model["context_length"]) == ("loaded", True, 64)
    assert model["input_modalities"] == ["text"]
    assert http.get("/v1/models/none").status_code == 404
    assert http.get("/models").json()["data"] == http.get("/v1/models").json()["data"]
    assert states(app)["a.gguf"] == "asleep", "lists wake nothing"


def test_models_are_loaded_and_unloaded_as_by_llama_servers_router(app: App, http: httpx.Client) -> None:
    assert http.post("/models/load", json={"model": "brief c"}).json() == {"success": True}
    assert http.get("/v1/models/brief c").json()["status"]["value"] in ("loading", "unloaded")
    assert ask(http, "brief c").json()["model"] == "brief c.gguf"
    assert app.models.residents()[0].sleeps_in is None, "it was loaded by hand"
    assert http.post("/models/unload", json={"model": "brief c"}).json() == {"success": True}
    assert states(app) == {} and not worker_pids()
    for path, body, status in [
        ("/models/load", {"model": "none"}, 404),
        ("/models/load", {}, 400),
        ("/models/unload", {"model": 5}, 400),
        ("/models/unload", {"model": "a"}, 400),
        ("/models/unload", {"model": "none"}, 404),
    ]:
        assert http.post(path, json=body).status_code == status


def test_the_tokenizer_is_that_of_the_model_that_was_named(app: App, http: httpx.Client) -> None:
    ask(http, "a")
    for path, name, status, code in [
        ("/tokenize", "a", 200, ""),
        ("/tokenize", "gpt-9", 200, ""),
        ("/tokenize", "b", 400, "not_in_memory"),
        ("/apply-template", "b.gguf", 400, "not_in_memory"),
    ]:
        content = {"messages": [{"role": "user", "content": "x"}]} if path == "/apply-template" else {"content": "x"}
        response = http.post(path, json={"model": name, **content})
        assert (response.status_code, response.json().get("error", {"code": ""})["code"]) == (status, code), name
        assert response.headers.get("X-Model-Substituted") == ("gpt-9" if name == "gpt-9" else None)
    assert http.get("/props", params={"model": "gpt-9"}).headers["X-Model-Substituted"] == "gpt-9"
    ask(http, "a", keep_alive=0)
    wait_until(lambda: states(app)["a.gguf"] == "asleep")
    assert http.post("/tokenize", json={"model": "a", "content": "x"}).json()["error"]["code"] == "model_asleep"
    assert http.get("/props", params={"model": "a"}).json()["is_sleeping"] is True


def test_changes_of_models_are_streamed(app: App, http: httpx.Client) -> None:
    ask(http, "a")
    seen = []
    with http.stream("GET", "/models/sse") as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                seen.append((event["model"], event["event"], event["data"]["status"]))
            if len(seen) == 1:
                threading.Thread(target=app.models.unload).start()
            if len(seen) == 2:
                break
    assert seen == [("a.gguf", "model_status", "loaded"), ("a.gguf", "status_change", "unloaded")]


def test_interleaved_requests_hang_ups_and_kills_are_all_answered_or_told(app: App, http: httpx.Client) -> None:
    source = random.Random(3)
    outcomes: list[int] = []

    def work(number: int) -> None:
        model = source.choice(("a", "b"))
        try:
            outcomes.append(ask(http, model).status_code if number % 4 else hang_up(http, model))
        except httpx.HTTPError:
            outcomes.append(0)

    with ThreadPoolExecutor(12) as pool:
        for number in range(40):
            pool.submit(work, number)
            if number % 15 == 14:
                wait_until(lambda: 200 in outcomes, seconds=20)
                for pid in worker_pids():
                    with contextlib.suppress(ProcessLookupError):  # it has just been ended for another model
                        os.kill(pid, signal.SIGKILL)
    assert len(outcomes) == 40 and set(outcomes) <= {0, 200, 500}
    assert outcomes.count(0) <= 10, "only those who hung up have no answer"
    wait_until(lambda: not any(one.generations for one in app.models.residents()))
    for name in ("a", "b"):  # a failed load is remembered for a while, but not against a load by hand
        assert http.post("/v1/internal/model/load", json={"model_name": name}).status_code == 200
        assert ask(http, name).status_code == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/embeddings", {"input": "hello"}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/responses/input_tokens", {"input": "hello"}),
        ("/v1/internal/chat-prompt", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/internal/logits", {"prompt": "hello"}),
    ],
)
def test_a_client_that_hangs_up_no_longer_waits_for_its_model(
    app: App, http: httpx.Client, path: str, fields: dict[str, object]
) -> None:
    assert ask(http, "a.gguf").status_code == 200
    body = json.dumps({"model": "b.gguf", **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {http.base_url.host}\r\nContent-Type: application/json\r\n"
    with app.models.lease("a.gguf"):
        with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: app.models.waiting_requests == 1)
        wait_until(lambda: app.models.waiting_requests == 0)


def hang_up(http: httpx.Client, model: str) -> int:
    try:
        return http.post("/v1/completions", json={"model": model, "prompt": "x"}, timeout=0.05).status_code
    except httpx.TimeoutException:
        return 0
