"""Errors of the API in OpenAI's format; no parameter is silently ignored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from tests.support.pictures import data_uri, picture
from tests.support.serving import CONTEXT, Server, server_of, smollm2_server

QUESTION = [{"role": "user", "content": "Name the capital of France in one English sentence."}]


@pytest.fixture(scope="module")
def server(models_folder: Path) -> Iterator[Server]:
    """Serve SmolLM2 for tests that leave it loaded."""
    with smollm2_server(models_folder) as running:
        yield running


INVALID: list[tuple[dict[str, object], str | None, str]] = [
    ({"temperatur": 1}, "temperatur", "unknown_parameter"),
    ({"temperature": 9}, "temperature", "invalid_value"),
    ({"sampler_priority": ["top_q"]}, "sampler_priority", "invalid_value"),
    ({"custom_stopping_strings": '"'}, "custom_stopping_strings", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_completion_tokens": "many"}, "max_completion_tokens", "invalid_value"),
    ({"n": 17}, "n", "invalid_value"),
    ({"n": "2"}, "n", "invalid_value"),
    ({"stop": 5}, "stop", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream_options": {"include_usage": 1}}, "stream_options", "invalid_value"),
    ({"logprobs": 21}, "logprobs", "invalid_value"),
    ({"prompt": None}, "prompt", "invalid_value"),
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [1, -1]}, "prompt", "invalid_value"),
    ({"prompt": "half a character: \ud800"}, "prompt", "invalid_value"),
    ({"prompt": "again " * CONTEXT}, None, "context_length_exceeded"),
]


def test_an_invalid_parameter_is_refused_by_name(server: Server, subtests: pytest.Subtests) -> None:
    for fields, param, code in INVALID:
        with subtests.test(fields=str(fields)[:80]):
            body = {"prompt": "Hi", "max_tokens": 1, **fields}  # type: ignore[dict-item]
            error = server.refusal("/completions", body)
            assert error["status"] == 400
            assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
            assert error["message"]
            assert server.refusal("/completions", {**body, "stream": body.get("stream", True)})["status"] == 400


def test_fields_done_without_are_listed_in_the_header_and_the_answer(server: Server) -> None:
    """Their names are the client's, so that they could be anything."""
    messages = [{**QUESTION[0], "opts": 1}]
    body = {"messages": messages, "max_tokens": 2, "n": 2, "x\r\nSet-Cookie": 1, "名": 2}
    ignored = ["x\r\nSet-Cookie", "名", "messages[0].opts"]
    whole = server.post("/chat/completions", body)
    assert whole.json()["ignored"] == ignored
    assert whole.headers["x-ignored-parameters"] == "x%0D%0ASet-Cookie, %E5%90%8D, messages[0].opts"
    for usage in (False, True):
        stream = server.post("/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": usage}})
        assert stream.headers["x-ignored-parameters"] == whole.headers["x-ignored-parameters"]
        events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
        assert [event.get("ignored") for event in events if "ignored" in event] == [ignored]
        assert events[-1]["ignored"] == ignored
    assert "x-ignored-parameters" not in server.post("/completions", {"prompt": "Hi", "max_tokens": 1}).headers


UNSUPPORTED: list[tuple[str, object]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("best_of", 2),
    ("suffix", "the end"),
    ("audio", {"voice": "alloy"}),
    ("num_beams", 4),
    ("penalty_alpha", 0.6),
    ("smoothing_factor", 0.3),  # llama.cpp has no such sampler
]


def test_an_unsupported_parameter_is_refused_by_name(server: Server, subtests: pytest.Subtests) -> None:
    for name, value in UNSUPPORTED:
        with subtests.test(name=name, value=value):
            error = server.refusal("/completions", {"prompt": "Hi", name: value})
            assert (error["status"], error["code"]) == (400, "unsupported")
            assert name in error["message"]


def test_unsupported_parameters_at_neutral_values_are_accepted(server: Server) -> None:
    no_effect = {"logit_bias": {}, "response_format": {"type": "text"}, "tools": None, "best_of": 1, "user": "me"}
    neutral = {"num_beams": 1, "early_stopping": False, "penalty_alpha": 0, "smoothing_factor": 0, "tfs": 1, "top_a": 0}
    body = {"prompt": "Hi", "max_tokens": 1, **no_effect, **neutral, "custom_stopping_strings": ["x"]}
    assert server.post("/completions", body).status_code == 200


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "Hi"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"content": "Hi"}, "messages[0].role"),
        ("Hi", "messages[0]"),
    ],
)
def test_an_invalid_message_is_named(server: Server, message: object, param: str) -> None:
    error = server.refusal("/chat/completions", {"messages": [message]})
    assert (error["status"], error["param"]) == (400, param)


def test_an_image_for_a_model_that_reads_text_is_refused_by_name(server: Server) -> None:
    parts = [{"type": "image_url", "image_url": {"url": data_uri(picture())}}]
    error = server.refusal("/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert (error["status"], error["code"]) == (400, "images_unsupported")
    assert "cannot read images" in error["message"]


def test_parts_of_other_types_are_refused_by_name(server: Server) -> None:
    parts = [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]
    error = server.refusal("/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert (error["status"], error["code"]) == (400, "unsupported")
    assert "messages[0].content[0]" in error["message"] and "'input_audio'" in error["message"]


def test_errors_are_in_the_clients_language(server: Server) -> None:
    body = {"prompt": "Hi", "temperature": 9}
    assert "无法接受 9" in server.refusal("/completions", body, Accept_Language="zh-CN,zh;q=0.9")["message"]
    assert "not acceptable" in server.refusal("/completions", body, Accept_Language="fr")["message"]


def test_an_unknown_endpoint_is_answered_in_openais_format(server: Server) -> None:
    unknown, wrong_method = server.http.get("/moderations"), server.http.get("/completions")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"


def test_a_completion_without_a_loaded_model_is_refused(make_app: Callable[..., App]) -> None:
    with server_of(make_app()) as server:
        for path, body in (("/completions", {"prompt": "Hi"}), ("/chat/completions", {"messages": QUESTION})):
            error = server.refusal(path, body)
            assert (error["status"], error["code"]) == (400, "no_model_loaded")


class BrokenCatalog:
    def models(self, *_: object) -> list[object]:
        raise ZeroDivisionError("a secret detail")


def test_an_internal_error_is_logged_and_not_shown(
    make_app: Callable[..., App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.catalog = BrokenCatalog()  # type: ignore[assignment]
    with server_of(app) as server:
        response = server.http.get("/models")
    assert response.status_code == 500
    assert response.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert "secret" not in response.text
    assert "a secret detail" in caplog.text
