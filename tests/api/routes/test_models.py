"""Models over the API in the original web UI's format: loading, unloading, crashes of the worker, authentication."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from modules.app import App
from modules.core.worker_errors import LoadCancelled
from tests.support.echo_plans import plan
from tests.support.serving import Server, server_of

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
LOAD = {"model_name": NAME, "args": {"n_ctx": 1024}}
LISTED = {"loaded": True, "status": {"value": "loaded"}, "context_length": 1024, "input_modalities": ["text"]}


@pytest.fixture
def server(make_app: Callable[..., App], models_folder: Path) -> Iterator[Server]:
    """Serve an app without a loaded model."""
    with server_of(make_app("--model-dir", str(models_folder))) as running:
        yield running


def test_models_in_the_folder_are_listed(server: Server) -> None:
    assert server.http.get("/internal/model/list").json() == {"model_names": [NAME]}


def test_a_model_is_loaded_with_the_requested_options_and_unloaded(server: Server) -> None:
    response = server.post(
        "/internal/model/load", {**LOAD, "args": {"loader": "llama.cpp", "n_ctx": 1024, "threads": 1}}
    )
    loaded = response.json()
    assert response.status_code == 200
    assert (loaded["model_name"], loaded["loader"], loaded["context_length"]) == (NAME, "llama.cpp", 1024)
    assert (loaded["options"]["n_ctx"], loaded["options"]["threads"]) == (1024, 1)
    assert server.http.get("/internal/model/info").json() == {
        "model_name": NAME,
        "lora_names": [],
        "loader": "llama.cpp",
    }
    assert server.openai.models.list().data[0].model_extra == LISTED
    assert server.post("/internal/model/unload", None).json()["freed"] > 50_000_000
    assert server.http.get("/internal/model/info").json() == {"model_name": "None", "lora_names": [], "loader": None}


def test_args_and_settings_may_be_null(server: Server) -> None:
    response = server.post("/internal/model/load", {"model_name": NAME, "args": None, "settings": None})
    assert (response.status_code, response.json()["context_length"]) == (200, 8192)


def test_settings_of_a_load_are_the_defaults_while_its_model_is_loaded(server: Server) -> None:
    fields = {"prompt": "The capital of France is", "temperature": 0, "stop": ["."]}

    def tokens(**extra: object) -> object:
        return server.post("/completions", {**fields, **extra}).json()["usage"]["completion_tokens"]

    server.post("/internal/model/load", {**LOAD, "settings": {"max_new_tokens": 1}})
    assert (tokens(), tokens(max_tokens=2)) == (1, 2)
    server.post("/internal/model/load", LOAD)
    assert tokens() == 2


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"model_name": "SmolLM2-135M-Instruct.Q4_2"}, 404, "model_not_found", f"Did you mean '{NAME}'"),
        ({"model_name": "../models/" + NAME}, 404, "model_not_found", NAME),
        ({**LOAD, "args": {"n_ctz": 1024}}, 400, "unknown_parameter", "Did you mean 'n_ctx'"),
        ({**LOAD, "args": {"n_ctx": "long"}}, 400, "invalid_value", "n_ctx: 'long' is not acceptable"),
        ({**LOAD, "args": {"loader": "llama.cqp"}}, 400, "unknown_loader", "Did you mean 'llama.cpp'"),
        ({**LOAD, "args": {"loader": "AutoAWQ"}}, 400, "unsupported", "AutoAWQ"),
        ({**LOAD, "args": {"loader": 5}}, 400, "invalid_value", "loader"),
        ({**LOAD, "args": [1]}, 400, "invalid_value", "args"),
        ({**LOAD, "settings": {"temperature": 99}}, 400, "invalid_value", "temperature"),
        ({**LOAD, "settings": {"mode": "chat"}}, 400, "unknown_parameter", "mode"),
        ({**LOAD, "settings": {"truncation_length": -1}}, 400, "invalid_value", "truncation_length"),
        ({**LOAD, "arguments": {}}, 400, "unknown_parameter", "Did you mean 'args'"),
        ({"args": {}}, 400, "invalid_value", "model_name"),
    ],
)
def test_a_refused_load_states_its_reason_and_keeps_the_loaded_model(
    server: Server, body: object, status: int, code: str, message: str
) -> None:
    server.post("/internal/model/load", LOAD)
    error = server.refusal("/internal/model/load", body)
    assert (error["status"], error["code"]) == (status, code)
    assert message in error["message"]
    assert server.http.get("/internal/model/info").json()["model_name"] == NAME


def test_a_damaged_model_is_listed_but_refused(make_app: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF and nothing more")
    with server_of(make_app()) as server:
        error = server.refusal("/internal/model/load", {"model_name": "broken.gguf"})
        assert (error["status"], error["code"]) == (422, "damaged_model")
        assert [model.id for model in server.openai.models.list()] == ["broken.gguf"]


def test_text_is_encoded_and_decoded(server: Server) -> None:
    server.post("/internal/model/load", LOAD)
    text = "Grüße, 世界!"
    encoded = server.post("/internal/encode", {"text": text}).json()
    assert encoded["length"] == len(encoded["tokens"]) > 3
    assert server.post("/internal/decode", {"tokens": encoded["tokens"]}).json() == {"text": text}
    assert server.post("/internal/token-count", {"text": text}).json() == {"length": encoded["length"]}


# -- crashes of the worker --------------------------------------------------------------------------------------------


def kill_worker(server: Server) -> None:
    os.kill(server.app.models.current._worker.pid, signal.SIGKILL)


def test_a_worker_killed_during_a_stream_is_reported_and_the_next_load_works(server: Server) -> None:
    server.post("/internal/model/load", LOAD)
    fields = {"prompt": "Count: 1 2 3 4 5 6 7 8", "temperature": 0, "max_tokens": 900, "stream": True}
    with server.http.stream("POST", "/completions", json=fields) as response:
        lines = (line for line in response.iter_lines() if line)
        received = [next(lines) for _ in range(3)]
        kill_worker(server)
        received += lines
    assert response.status_code == 200
    assert received[-1] != "data: [DONE]"
    error = json.loads(received[-1].removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "worker_died")
    assert "SIGKILL" in error["message"]
    assert server.refusal("/completions", {"prompt": "Hi"})["status"] == 500
    assert server.post("/internal/model/load", LOAD).status_code == 200
    assert server.post("/completions", {"prompt": "Hi", "max_tokens": 1}).status_code == 200


def test_openais_client_raises_the_error_that_ended_a_stream(server: Server) -> None:
    server.post("/internal/model/load", LOAD)
    fields = {"model": "", "prompt": "Count: 1 2 3 4 5 6 7 8", "temperature": 0, "max_tokens": 900}
    chunks = server.openai.completions.create(stream=True, **fields)  # type: ignore[call-overload]
    next(chunks)
    kill_worker(server)
    with pytest.raises(openai.APIError, match="SIGKILL"):
        list(chunks)


def test_a_worker_killed_before_the_answer_gives_status_500(server: Server) -> None:
    server.post("/internal/model/load", LOAD)
    model = server.app.models.current
    kill_worker(server)
    while model.death is None:
        pass
    for stream in (False, True):
        error = server.refusal("/completions", {"prompt": "Hi", "stream": stream})
        assert (error["status"], error["code"]) == (500, "worker_died")


def test_models_are_listed_and_described_while_one_loads(make_app: Callable[..., App]) -> None:
    app = make_app()
    loading = app.models.begin(plan("slow"))
    try:
        with server_of(app) as server:
            while app.models.status.state != "loading":
                time.sleep(0.01)
            (listed,) = server.http.get("/models").json()["data"]
            assert (listed["id"], listed["loaded"], listed["status"]) == ("slow", False, {"value": "loading"})
            info = server.http.get("/internal/model/info").json()
            assert info == {"model_name": "None", "lora_names": [], "loader": None, "loading": "slow"}
            assert server.http.get("/models/slow").json() == listed
            assert server.http.get("/models/slower").status_code == 404
    finally:
        app.models.unload()
    assert isinstance(loading.exception(5), LoadCancelled)


# -- authentication --------------------------------------------------------------------------------------------------


def basic_auth(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def test_with_a_key_only_requests_that_carry_it_are_answered(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--api-key", "geheim-密钥", "--gradio-auth", "me:secret")) as server:
        wrong = [{}, {"Authorization": "Bearer geheim"}, {"Authorization": "geheim-密钥"}, basic_auth("me:secret")]
        for headers in wrong:
            response = get(server, "/models", headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert get(server, "/no/such/address", {}).status_code == 401
        assert server.post("/completions", {"prompt": "Hi"}).status_code == 401
        assert get(server, "/models", {"Authorization": "bearer geheim-密钥"}).status_code == 200


def test_a_key_for_using_models_may_not_load_or_download_any(make_app: Callable[..., App], tmp_path: Path) -> None:
    (keys := tmp_path / "keys").write_text("alice:owner:hers\nbob:use:his\n")
    with server_of(make_app("--api-key-file", str(keys))) as server:
        for path in ("/internal/model/unload", "/internal/model/load", "/internal/lora/unload", "/internal/download"):
            refused = server.http.post(path, json={}, headers={"x-api-key": "his"})
            assert refused.status_code == 403 and "'bob'" in refused.json()["error"]["message"]
        assert get(server, "/internal/model/list", {"x-api-key": "his"}).status_code == 200
        assert server.http.post("/internal/model/unload", headers={"x-api-key": "hers"}).status_code == 200


def test_a_page_of_an_allowed_origin_is_told_that_it_may_read_the_answer(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--api-key", "key", "--cors-origins", "https://app.example")) as server:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        allowed = server.http.options("/chat/completions", headers={"Origin": "https://app.example", **asks})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        refused = server.http.options("/chat/completions", headers={"Origin": "https://other.example", **asks})
        assert "access-control-allow-origin" not in refused.headers
        answer = get(server, "/models", {"Origin": "https://app.example", "Authorization": "Bearer key"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_openais_client_sends_the_key(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--api-key", "key")) as server:
        assert server.openai.with_options(api_key="key").models.list().data == []
        with pytest.raises(openai.AuthenticationError):
            server.openai.with_options(api_key="other").models.list()


def test_without_a_key_the_uis_logins_protect_the_api(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--gradio-auth", "me:secret,you:päss")) as server:
        for headers in ({}, basic_auth("me:päss"), basic_auth("you:"), {"Authorization": "Bearer me:secret"}):
            response = get(server, "/models", headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_login")
            assert response.headers["www-authenticate"].startswith("Basic ")
        for login in ("me:secret", "you:päss"):
            assert get(server, "/models", basic_auth(login)).status_code == 200


def get(server: Server, path: str, headers: dict[str, str]) -> httpx.Response:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return server.http.get(path, headers=encoded)
