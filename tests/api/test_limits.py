"""Bounds on requests."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import Message

from modules.api.internal_schemas import TextRequest
from modules.api.limits import BodyLimit, check_request
from modules.api.schemas import ChatRequest
from modules.core.errors import OptionError
from modules.training.dataset.rows import MAX_BYTES


def nested(levels: int) -> dict[str, object]:
    """Return an object in which lists and objects lie within each other, `levels` of them."""
    value: object = 1
    for number in range(levels - 1):
        value = {"a": value} if number % 2 else [value]
    return {"x": value}


def refusal(body: dict[str, object]) -> str:
    with pytest.raises(OptionError) as refused:
        check_request(body)
    return refused.value.say("en")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{}] * 4096},
        {"prompt": ["x"] * 128},
        {"prompt": [[1, 2]] * 8, "n": 16},
        {"prompt": list(range(100_000)), "n": 16},
        {"prompt": 7, "n": "many", "messages": "text"},
        {"text": "x" * 2_000_000},
        {"tokens": [7] * 262_144},
        {"text": 7, "tokens": "x"},
        {"x": [[1] * 998] * 1000},
        nested(64),
    ],
)
def test_requests_up_to_the_bounds_pass(body: dict[str, object]) -> None:
    check_request(body)


def test_a_refusal_names_the_bound() -> None:
    assert "at most 4096 messages" in refusal({"messages": [{}] * 4097})
    assert "at most 128 answers" in refusal({"prompt": ["x"] * 129})
    assert "at most 128 answers" in refusal({"prompt": [[1]] * 65, "n": 2})
    assert "at most 2000000 characters" in refusal({"text": "x" * 2_000_001})
    assert "at most 262144 token" in refusal({"tokens": [7] * 262_145})
    assert "at most 64 levels" in refusal(nested(65))
    assert "at most 1000000 values" in refusal({"x": [[1] * 1000] * 1000})


def test_every_body_of_the_api_is_checked() -> None:
    with pytest.raises(OptionError, match="4096"):
        ChatRequest.model_validate({"messages": [{"role": "user", "content": "x"}] * 5000})
    with pytest.raises(OptionError, match="64 levels"):
        TextRequest.model_validate({"text": "x", **nested(300)})


JSON = {"Content-Type": "application/json"}
OTHER_JSON = {"Content-Type": "Application/Problem+JSON"}
"""Parsed as JSON, too: names of types may be in capitals."""

# -- the size of the body ----------------------------------------------------------------------------------------------


async def count_body(scope: object, receive: object, send: object) -> None:
    request = Request(scope, receive)
    response: Response = PlainTextResponse(str(len(await request.body())))
    await response(scope, receive, send)


@pytest.fixture
def http() -> TestClient:
    return TestClient(BodyLimit(count_body, 1000), raise_server_exceptions=False)


def test_a_body_up_to_the_limit_is_passed_on(http: TestClient) -> None:
    assert http.post("/", content=b"x" * 1000).text == "1000"
    assert http.post("/", content=iter([b"x" * 500] * 2)).text == "1000"


def test_a_larger_body_is_answered_413_whether_or_not_its_length_is_announced(http: TestClient) -> None:
    for content in (b"x" * 1001, iter([b"x" * 501] * 2)):
        refused = http.post("/", content=content)
        assert (refused.status_code, refused.headers["connection"]) == (413, "close")
        assert "at most 0.001 MB" in refused.json()["error"]["message"]


def test_the_page_is_told_in_its_own_language_what_is_too_large(http: TestClient) -> None:
    english = {"Accept-Language": "en"}
    refused = http.post("/chat/attachments?id=&lang=zh", content=b"x" * 1001, headers=english)
    assert refused.json()["error"]["message"].startswith("发送的内容过大")


def test_large_json_with_too_many_values_is_refused_before_it_is_parsed() -> None:
    http = TestClient(BodyLimit(count_body), raise_server_exceptions=False)
    lists, text = b"[" + b"[]," * 1_400_000 + b"0]", b'["' + b"2 words, " * 500_000 + b'"]'
    for content, kind in ((lists, JSON), (iter([lists[:2_000_000], lists[2_000_000:]]), OTHER_JSON)):
        refused = http.post("/v1/completions", content=content, headers=kind)
        assert (refused.status_code, refused.headers["connection"]) == (400, "close")
        assert "more than 1000000 values" in refused.json()["error"]["message"]
    assert http.post("/v1/completions", content=text, headers=JSON).text == str(len(text))
    assert http.post("/chat/import", content=lists, headers=JSON).text == str(len(lists)), "a file is read elsewhere"
    assert http.post("/v1/completions", content=lists[:999_999], headers=JSON).text == "999999"


def pieces_taken(sent: list[Message], *pieces: Message) -> int:
    """Send a request in pieces; return how many of these were taken. The answer is added to `sent`."""
    waiting = list(pieces)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(BodyLimit(count_body, 1000)(scope, receive, send))
    return len(pieces) - len(waiting)


def test_the_rest_of_a_body_that_is_too_large_is_read_before_the_answer() -> None:
    """Else the connection is reset before the client, which is still sending, reads the answer."""
    half: Message = {"type": "http.request", "body": b"x" * 501, "more_body": True}
    sent: list[Message] = []
    taken = pieces_taken(sent, half, half, half, {"type": "http.request", "body": b"x"})
    assert (taken, sent[0]["status"]) == (4, 413)


def test_a_client_that_leaves_within_its_body_gets_no_answer() -> None:
    sent: list[Message] = []
    with pytest.raises(ClientDisconnect):
        pieces_taken(sent, {"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"})
    assert sent == []


def test_a_length_that_is_no_number_is_refused(http: TestClient) -> None:
    assert http.get("/", headers={"Content-Length": "-1"}).status_code == 413


def test_a_dataset_of_any_size_that_can_be_trained_is_passed_on() -> None:
    http = TestClient(BodyLimit(count_body), raise_server_exceptions=False)
    assert http.post("/training/upload?name=a.jsonl", content=b"x" * MAX_BYTES).text == str(MAX_BYTES)


def test_a_list_of_tokens_has_a_smaller_limit_than_other_bodies() -> None:
    http = TestClient(BodyLimit(count_body), raise_server_exceptions=False)
    tokens = b"262143," * 430_000
    assert http.post("/v1/internal/encode", content=tokens).text == str(len(tokens))
    refused = http.post("/v1/internal/decode", content=tokens)
    assert refused.status_code == 413
    assert "at most 3 MB" in refused.json()["error"]["message"]
