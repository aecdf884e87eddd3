"""Responses that end with an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modules.api.openai_responses.builder import ResponsesBuilder
from modules.api.openai_responses.conversion import convert
from modules.api.openai_responses.schemas import ResponsesRequest
from modules.core.errors import NoModelLoaded, Unsupported, WebUIError, both
from modules.core.events import Done, Logprob, Text, TokenLogprobs
from modules.core.reasoning import KNOWN_MARKERS, ReasoningParser
from modules.core.worker_errors import PromptTooLong


def events_of(error: WebUIError) -> list[dict[str, Any]]:
    """Return the events of a stream that ends with `error` before an answer has begun."""
    body = ResponsesRequest.model_validate({"input": "Hi", "model": "m"})
    text = ResponsesBuilder(body, convert(body)).sse_error(error, "en").decode()
    return [json.loads(frame.partition("data: ")[2]) for frame in text.removesuffix("\n\n").split("\n\n")]


def test_a_stream_begins_with_the_response_even_if_there_is_none() -> None:
    created, error, failed = events_of(NoModelLoaded())
    assert [event["type"] for event in (created, error, failed)] == ["response.created", "error", "response.failed"]
    assert [event["sequence_number"] for event in (created, error, failed)] == [0, 1, 2]
    assert (created["response"]["status"], failed["response"]["status"]) == ("in_progress", "failed")
    assert created["response"]["id"] == failed["response"]["id"]
    assert (error["code"], error["message"]) == ("no_model_loaded", NoModelLoaded().say_elsewhere("en"))


def test_the_code_of_a_failed_response_is_one_of_openais(subtests: pytest.Subtests) -> None:
    cases: list[tuple[WebUIError, str]] = [
        (PromptTooLong(9, 5), "context_length_exceeded"),
        (Unsupported(both("no")), "invalid_prompt"),
        (WebUIError(), "server_error"),
    ]
    for error, code in cases:
        with subtests.test(code):
            assert events_of(error)[-1]["response"]["error"]["code"] == code


def test_each_token_has_its_log_probability_and_those_of_its_candidates() -> None:
    body = ResponsesRequest.model_validate({"input": "Hi", "model": "m", "top_logprobs": 2})
    builder = ResponsesBuilder(body, convert(body))
    builder._parser = ReasoningParser(KNOWN_MARKERS)
    cut = Logprob("\ufffd", -2.0, 8)
    token = TokenLogprobs(Logprob("雁", -0.5, 7), (Logprob("雁", -0.5, 7), cut), "雁".encode().hex())
    (message,) = builder.whole([[Text("雁", 1, (token,))]], {0: Done("stop")})["output"]
    (shown,) = message["content"][0]["logprobs"]
    best = {"token": "雁", "logprob": -0.5, "bytes": [233, 155, 129], "id": 7}
    assert shown == {**best, "top_logprobs": [best, {"token": "\ufffd", "logprob": -2.0, "bytes": [], "id": 8}]}
