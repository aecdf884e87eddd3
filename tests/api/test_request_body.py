"""The base class of request bodies: reading JSON, strict types, and errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.testclient import TestClient

from modules.api.anthropic.schemas import MessagesRequest
from modules.api.embeddings import EmbeddingRequest, RerankRequest
from modules.api.errors import json_response, register_handlers
from modules.api.generation_route import generation_route
from modules.api.infill import InfillRequest
from modules.api.internal_schemas import DownloadRequest, LorasRequest, TokensRequest
from modules.api.openai_responses.schemas import ResponsesRequest
from modules.api.request_body import MAX_QUOTED, Expected, Flag, RequestBody, Text, Tokens, expected_in
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.errors import OptionError, UnknownOption, WebUIError


class Message(BaseModel):
    role: str
    content: str = ""


class ExampleRequest(RequestBody):
    """A request with a field of every kind; further fields are parameters."""

    prompt: Annotated[Text | list[Text] | Tokens, Expected("a prompt", "提示词")]
    n: Annotated[int, Field(ge=1, le=16), Expected("a whole number from 1 to 16", " 1 到 16 之间的整数")] = 1
    stream: Flag = False
    messages: Annotated[list[Message], Expected("a list of messages", "消息列表")] = []


class StrictRequest(RequestBody):
    model_config = ConfigDict(extra="forbid")

    model_name: Annotated[Text, Expected("the name of a model", "模型名称")]


def refusal(body: object, schema: type[RequestBody] = ExampleRequest) -> WebUIError:
    with pytest.raises(WebUIError) as refused:
        schema.model_validate(body)
    return refused.value


def refused_value(body: object, schema: type[RequestBody] = ExampleRequest) -> tuple[str, object, str]:
    """Return the field, the quoted value and the expectation of the OptionError for `body`."""
    error = refusal(body, schema)
    assert isinstance(error, OptionError)
    return error.option, error.value, error.expected["en"]


# -- fields ------------------------------------------------------------------------------------------------------------


def test_fields_are_read_and_further_fields_are_kept_as_parameters() -> None:
    request = ExampleRequest.model_validate({"prompt": [1, 2], "n": 3, "stream": True, "temperature": 0.5})
    assert (request.prompt, request.n, request.stream) == ([1, 2], 3, True)
    assert request.model_extra == {"temperature": 0.5}


def test_null_means_that_a_field_is_left_out() -> None:
    request = ExampleRequest.model_validate({"prompt": "Hi", "n": None, "stream": None, "temperature": None})
    assert (request.n, request.stream, request.model_extra) == (1, False, {})
    assert refused_value({"prompt": None}) == ("prompt", None, "a prompt")


def test_a_missing_field_is_refused_by_name() -> None:
    assert refused_value({}) == ("prompt", None, "a prompt")


@pytest.mark.parametrize("value", ["2", 2.5, True, 0, 17])
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused_with_the_expectation(value: object) -> None:
    assert refused_value({"prompt": "Hi", "n": value}) == ("n", value, "a whole number from 1 to 16")


@pytest.mark.parametrize("value", ["true", 1, []])
def test_a_flag_is_true_or_false(value: object) -> None:
    error = refusal({"prompt": "Hi", "stream": value})
    assert "expected true or false" in error.say("en") and "true 或 false" in error.say("zh")


@pytest.mark.parametrize("token", [-1, 2**31, "5", 1.5])
def test_a_token_is_a_whole_number_of_31_bits(token: object) -> None:
    assert ExampleRequest.model_validate({"prompt": [0, 2**31 - 1]}).prompt == [0, 2**31 - 1]
    assert refused_value({"prompt": [3, token]})[0] == "prompt", "the branches of the union are not named"


def test_a_lone_surrogate_is_refused() -> None:
    assert refused_value(json.loads('{"model_name": "half a pair: \\ud800"}'), StrictRequest)[0] == "model_name"


def test_an_unknown_field_of_a_strict_request_is_refused_with_the_nearest_name() -> None:
    error = refusal({"model_name": "m", "modelname": "m"}, StrictRequest)
    assert isinstance(error, UnknownOption) and (error.name, error.nearest) == ("modelname", "model_name")


@pytest.mark.parametrize(
    ("message", "path"),
    [("Hi", "messages[0]"), ({}, "messages[0].role"), ({"role": "user", "content": 5}, "messages[0].content")],
)
def test_an_error_inside_a_list_is_named_by_its_path(message: object, path: str) -> None:
    assert refused_value({"prompt": "Hi", "messages": [message]})[0] == path


def test_a_long_value_is_quoted_in_part() -> None:
    for value in ("x" * 1000, ["x" * 1000]):
        quoted = refused_value({"prompt": "Hi", "n": value})[1]
        assert quoted == str(value)[:MAX_QUOTED] + "…"
    assert refused_value({"prompt": "Hi", "n": "x" * MAX_QUOTED})[1] == "x" * MAX_QUOTED


def test_every_field_declares_what_it_must_be() -> None:
    assert expected_in(ExampleRequest, "prompt") == Expected("a prompt", "提示词")
    assert ExampleRequest.expected(("n",)).words == {"en": "a whole number from 1 to 16", "zh": " 1 到 16 之间的整数"}


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["FastAPI", "generation_route"])
def client(request: pytest.FixtureRequest) -> TestClient:
    """A client of an endpoint that returns its request. Both kinds of routes read it alike."""

    async def echo(body: ExampleRequest, request: Request) -> Response:
        return json_response(body.model_dump())

    api = FastAPI(routes=[generation_route("/", ExampleRequest, echo)] if request.param == "generation_route" else [])
    api.post("/")(echo)
    register_handlers(api)
    return TestClient(api)


JSON = {"Content-Type": "application/json"}
HI = json.dumps({"prompt": "Hi 你好"}, ensure_ascii=False)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "application/x+json"])
def test_json_is_accepted(client: TestClient, content_type: str) -> None:
    response = client.post("/", content=HI.encode(), headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["prompt"]) == (200, "Hi 你好")


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {}])
def test_a_body_of_another_content_type_is_refused(client: TestClient, headers: dict[str, str]) -> None:
    response = client.post("/", content=HI.encode(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (415, "invalid_json")


@pytest.mark.parametrize("content", [b"null", b"[1]", b'"Hi"', b"5"])
def test_json_that_is_not_an_object_is_refused(client: TestClient, content: bytes) -> None:
    response = client.post("/", content=content, headers=JSON)
    assert response.status_code == 400 and "JSON object" in response.json()["error"]["message"]


@pytest.mark.parametrize(("content", "position"), [(b"{", 2), (b'{"prompt": Hi}', 12)])
def test_a_syntax_error_is_refused_with_its_position(client: TestClient, content: bytes, position: int) -> None:
    error = client.post("/", content=content, headers=JSON).json()["error"]
    assert error["code"] == "invalid_json"
    assert error["message"].startswith("The body is not JSON: ") and f"at character {position}." in error["message"]


@pytest.mark.parametrize("content", [b"", b"\xff", HI.encode("gbk"), b'{"prompt": ' + b"9" * 5000 + b"}"])
def test_an_undecodable_or_empty_body_is_refused(client: TestClient, content: bytes) -> None:
    response = client.post("/", content=content, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


def test_an_invalid_field_is_answered_with_its_name(client: TestClient) -> None:
    response = client.post("/", content=b'{"prompt": "Hi", "n": 17}', headers={**JSON, "Accept-Language": "zh-CN"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "n", "invalid_value")
    assert error["message"] == "n：无法接受 17，应为 1 到 16 之间的整数。"


# -- long lists --------------------------------------------------------------------------------------------------------

BODIES = (
    *(ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest, ResponsesRequest, MessagesRequest),
    *(InfillRequest, LorasRequest, DownloadRequest, TokensRequest),
)


def patient_lists(schema: object) -> Iterator[str]:
    """Yield the kinds of items of lists in pydantic's schema that collect an error for each wrong item."""
    if isinstance(schema, dict):
        items = schema.get("items_schema")
        if schema.get("type") == "list" and items and items["type"] != "any" and not schema.get("fail_fast"):
            yield items["type"]
        schema = list(schema.values())
    for child in schema if isinstance(schema, (list, tuple)) else ():
        yield from patient_lists(child)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_checking_a_long_list_ends_at_its_first_wrong_item(body: type[RequestBody]) -> None:
    assert list(patient_lists(body.__pydantic_core_schema__)) == []


def test_wrong_values_of_a_large_object_are_one_error() -> None:
    for body, name in ((CompletionRequest, "logit_bias"), (ResponsesRequest, "metadata")):
        field = body.model_fields[name]
        with pytest.raises(ValidationError) as refused:
            arguments = (field.annotation, *field.metadata)
            TypeAdapter(Annotated[arguments]).validate_python(dict.fromkeys(map(str, range(100)), "x"))
        assert refused.value.error_count() == 1, name


def test_an_error_in_a_list_names_the_item_alone() -> None:
    with pytest.raises(OptionError) as refused:
        RerankRequest.model_validate({"query": "x", "documents": ["a", 7]})
    assert refused.value.option == "documents[1]"


def test_only_some_unknown_fields_are_compared_with_the_known_ones() -> None:
    """It takes up to a millisecond each, and a body may have a million."""
    few = {f"zz{number}": 1 for number in range(31)}
    for schema, body in ((EmbeddingRequest, {"input": "x"}), (ResponsesRequest, {"input": "x"})):
        with pytest.raises(UnknownOption):
            fields_done_without(schema, {**body, **few, "modell": 1})
        assert "modell" in fields_done_without(schema, {**body, **few, "zz31": 1, "modell": 1})


def fields_done_without(schema: type[RequestBody], body: dict[str, object]) -> Sequence[str]:
    request = schema.model_validate(body)
    return request.ignored(False) if isinstance(request, EmbeddingRequest) else list(request.model_extra or {})
