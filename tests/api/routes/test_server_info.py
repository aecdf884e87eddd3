"""llama-server's endpoints, with a test engine whose tokens are characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from modules.api.root_paths import ROOT_PATHS, is_api_path
from modules.api.routes.server_info import root_routes
from modules.api.state import ApiState
from modules.app import App
from modules.core.prompt import Prompt
from modules.loaders import generation_settings
from tests.support.echo_plans import plan, wait_until
from tests.support.say import CONTEXT, say, say_plan
from tests.support.serving import api_of, client_of


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app("--api")


@pytest.fixture
def http(app: App) -> Iterator[httpx.Client]:
    """A client of the server's root, with a loaded model."""
    app.models.load(say_plan())
    with api_of(app) as address, client_of(address) as client:
        yield client


def test_a_text_becomes_tokens_and_back(http: httpx.Client) -> None:
    assert http.post("/tokenize", json={"content": "né"}).json() == {"tokens": [110, 233]}
    pieces = http.post("/tokenize", json={"content": "né", "with_pieces": True}).json()["tokens"]
    assert pieces == [{"id": 110, "piece": "n"}, {"id": 233, "piece": "é"}]
    assert http.post("/detokenize", json={"tokens": [110, 233]}).json() == {"content": "né"}


def test_bad_bodies_are_refused_by_name(http: httpx.Client, subtests: pytest.Subtests) -> None:
    for path, body, param in [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "x" * 2_000_001}, "content"),
        ("/tokenize", {"content": "x", "with_pieces": 1}, "with_pieces"),
        ("/tokenize", {"content": "x", "parse_special": False}, None),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/tokenize", "[" * 100_000, "body"),
    ]:
        with subtests.test(path=path, body=ascii(body)[:60]):
            content = body if isinstance(body, str) else json.dumps(body)
            response = http.post(path, content=content, headers={"Content-Type": "application/json"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_the_state_of_the_model_is_told(http: httpx.Client) -> None:
    props = http.get("/props").json()
    assert (props["model_alias"], props["total_slots"], props["is_sleeping"]) == ("say", 1, False)
    settings = props["default_generation_settings"]
    assert (settings["n_ctx"], settings["params"]["n_predict"]) == (CONTEXT, 512)
    idle = {"id": 0, "id_task": -1, "n_ctx": CONTEXT, "speculative": False, "is_processing": False}
    assert http.get("/slots", params={"fail_on_no_slot": 1}).json() == [idle]


def test_a_client_that_needs_a_free_slot_is_told_that_there_is_none(app: App, http: httpx.Client) -> None:
    stop = app.models.current.start(Prompt(say("\a" * 9)), generation_settings.resolve({}), lambda event: None)
    wait_until(lambda: http.get("/slots").json()[0]["is_processing"])
    refused = http.get("/slots", params={"fail_on_no_slot": 1})
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable_error")
    assert http.get("/slots").status_code == 200
    stop()
    wait_until(lambda: http.get("/slots", params={"fail_on_no_slot": 1}).status_code == 200)


def test_without_a_model_of_the_page_the_one_used_last_answers(app: App, http: httpx.Client) -> None:
    app.models.request("fim", lambda: say_plan("fim")).result().release()
    assert http.get("/props").json()["model_alias"] == "say"
    app.models.unload("say")
    assert http.get("/props").json()["model_alias"] == "fim"


def test_a_chat_becomes_the_prompt_of_its_template(http: httpx.Client) -> None:
    prompt = http.post("/apply-template", json={"messages": [{"role": "user", "content": "Hello"}]}).json()["prompt"]
    assert "### Instruction:\nHello" in prompt and prompt.endswith("### Response:\n")


def test_a_model_that_is_asleep_is_not_woken(app: App, http: httpx.Client) -> None:
    app.models.request("say", keep_alive=0).result().release()
    wait_until(lambda: app.models.residents()[0].state == "asleep")
    assert http.get("/props").json()["is_sleeping"] is True
    for name in ("say", "gpt-4"):
        refused = http.post("/tokenize", json={"content": "x", "model": name})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_asleep")
    assert http.get("/health").json() == {"status": "ok"}
    assert 'text_studio_model_state{model="say",state="asleep"} 1' in http.get("/metrics").text
    assert app.models.residents()[0].state == "asleep"


def test_answers_are_counted(http: httpx.Client) -> None:
    def metric(name: str) -> float:
        response = http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        (line,) = [line for line in response.text.splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])

    assert (metric("text_studio_generations_total"), metric("llamacpp:tokens_predicted_total")) == (0, 0)
    assert http.post("/v1/completions", json={"prompt": say("four"), "max_tokens": 9}).status_code == 200
    assert (metric("text_studio_generations_total"), metric("llamacpp:tokens_predicted_total")) == (1, 4)
    assert (metric("llamacpp:requests_processing"), metric("llamacpp:requests_deferred")) == (0, 0)


def test_without_a_model_only_its_facts_are_missing(app: App) -> None:
    with api_of(app) as address, client_of(address) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/v1/internal/health").json() == {"status": "ok"}
        for path in ("/props", "/slots"):
            response = client.get(path)
            assert (response.status_code, response.json()["error"]["code"]) == (400, "no_model_loaded")


def test_health_waits_for_the_first_model(app: App) -> None:
    loading = app.models.begin(plan("brief"))
    with api_of(app) as address, client_of(address) as client:
        response = client.get("/health")
        assert (response.status_code, response.json()["error"]["type"]) == (503, "unavailable_error")
        loading.result()
        assert client.get("/health").status_code == 200


def test_a_model_that_is_about_to_be_loaded_is_loading_already(app: App) -> None:
    app.models.expect("brief")
    with api_of(app) as address, client_of(address) as client:
        assert client.get("/health").status_code == 503
        answer = client.post("/v1/completions", json={"prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
        assert (app.models.status.state, app.models.status.name) == ("loading", "brief")
        app.models.expect("")
        assert client.get("/health").json() == {"status": "ok"}


def test_all_but_the_health_needs_the_key(make_app: Callable[..., App]) -> None:
    with api_of(make_app("--api", "--api-key", "secret")) as address, client_of(address) as client:
        for path in sorted({*ROOT_PATHS, "/api/tags"} - {"/health"}):
            assert client.get(path).status_code == 401, path
        assert client.get("/health").status_code == 200
        assert client.get("/props", headers={"x-api-key": "secret"}).status_code == 400
        unknown = client.get("/api/tags", headers={"x-api-key": "secret"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
        wrong = client.get("/tokenize", headers={"x-api-key": "secret"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_the_health_can_be_asked_for_by_its_head_and_by_pages_of_allowed_origins(make_app: Callable[..., App]) -> None:
    app = make_app("--nowebui", "--cors-origins", "https://app.example")
    with api_of(app) as address, client_of(address) as client:
        assert client.head("/health").status_code == 200
        wrong = client.post("/health")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
        answer = client.get("/health", headers={"Origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_what_does_not_exist_is_answered_in_the_format_of_the_api(make_app: Callable[..., App]) -> None:
    for flag, paths in (("--api", ("/completion", "/api/tags")), ("--nowebui", ("/", "/nothing/at/all"))):
        with api_of(make_app(flag)) as address, client_of(address) as client:
            for path in paths:
                unknown = client.post(path, json={})
                assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found"), path
            assert client.get("/health").status_code == 200


def test_the_page_leaves_the_endpoints_at_the_root_to_the_api(app: App) -> None:
    for route in root_routes(ApiState(app)).routes:
        assert is_api_path(getattr(route, "path")), route  # noqa: B009
    assert all(map(is_api_path, ("/v1", "/v1/models", "/api/tags", "/props/")))
    assert not any(map(is_api_path, ("/", "/zh", "/v1x", "/props/x", "/apix", "/models/list")))
