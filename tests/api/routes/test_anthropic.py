"""Anthropic's endpoints on a server, with a test engine that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from modules.api import sse
from modules.api.anthropic.conversion import convert
from modules.api.anthropic.message_format import collect
from modules.api.anthropic.schemas import MessagesRequest
from modules.app import App
from modules.config import flags
from tests.api.anthropic import claude_code
from tests.api.anthropic.test_conversion import PIXEL
from tests.support.say import say, say_plan
from tests.support.serving import Server, server_of

FIELDS = {"model": "claude-sonnet-5", "max_tokens": 100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    app = App(flags.parse(["--api", "--model-dir", str(tmp_path_factory.mktemp("models"))]))
    app.models.load(say_plan("qwen-3"))
    with server_of(app) as running:
        yield running
    app.models.unload()


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {**FIELDS, "messages": [{"role": "user", "content": say(text)}], **fields}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_message_is_answered(server: Server) -> None:
    body = server.post("/messages?beta=true", asked("<think>\nHm.\n</think>\n\nYes.")).json()
    thought, text = body["content"]
    assert (thought["type"], thought["thinking"], text) == ("thinking", "Hm.", {"type": "text", "text": "Yes."})
    assert (body["model"], body["stop_reason"], body["stop_sequence"]) == ("qwen-3", "end_turn", None)
    usage = body["usage"]
    assert usage["output_tokens"] == 26 and usage["output_tokens_details"]["thinking_tokens"] > 3
    counted = server.post("/messages/count_tokens", {**asked("<think>\nHm.\n</think>\n\nYes."), "max_tokens": None})
    assert counted.json() == {"input_tokens": usage["input_tokens"]}


def test_a_stream_has_the_same_content(server: Server) -> None:
    found = events(server.post("/messages", asked("<think>\nHm.\n</think>\n\nYes.", stream=True)))
    kinds = [event["type"] for event in found]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert found[0]["message"]["usage"]["input_tokens"] == found[-2]["usage"]["input_tokens"] > 0
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("text", "") for delta in deltas) == "Yes."


def test_the_stop_sequence_that_ended_the_answer_is_told(server: Server) -> None:
    for stream in (False, True):
        response = server.post("/messages", asked("one END two", stop_sequences=["STOP", "END"], stream=stream))
        end = events(response)[-2]["delta"] if stream else response.json()
        assert (end["stop_reason"], end["stop_sequence"]) == ("stop_sequence", "END")
    short = server.post("/messages", asked("one two", max_tokens=3)).json()
    assert (short["stop_reason"], short["content"][0]["text"]) == ("max_tokens", "one")


WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def test_a_tool_is_called_and_its_result_read(server: Server) -> None:
    body = server.post(
        "/messages", asked(f"<think>\nHm.\n</think>\n\nI look.\n{CALL}", tools=[WEATHER], max_tokens=200)
    ).json()
    _, text, call = body["content"]
    assert (text["text"].strip(), call["name"], call["input"]) == ("I look.", "weather", {"city": "Paris"})
    assert body["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "sunny"}
    history = [
        {"role": "user", "content": "The weather in Paris?"},
        {"role": "assistant", "content": body["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": say("It is sunny.")}]},
    ]
    answer = server.post("/messages", {**FIELDS, "messages": history, "tools": [WEATHER]}).json()
    assert answer["content"] == [{"type": "text", "text": "It is sunny."}]


def test_calls_are_streamed_as_they_are_written(server: Server) -> None:
    found = events(server.post("/messages", asked(f"{CALL}\n{CALL}", tools=[WEATHER], max_tokens=200, stream=True)))
    starts = [event["content_block"] for event in found if event["type"] == "content_block_start"]
    assert [(start["type"], start["name"], start["input"]) for start in starts] == [("tool_use", "weather", {})] * 2
    for index in (0, 1):
        deltas = [event for event in found if event["type"] == "content_block_delta" and event["index"] == index]
        assert len(deltas) > 5
        assert json.loads("".join(event["delta"]["partial_json"] for event in deltas)) == {"city": "Paris"}
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_silence_is_bridged_by_pings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SILENCE_SECONDS", 0.1)
    kinds = [event["type"] for event in events(server.post("/messages", asked("a\ab", stream=True)))]
    assert "ping" in kinds[1:-2] and kinds[-1] == "message_stop"


def refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"type", "error"} and set(body["error"]) == {"type", "message"} and body["type"] == "error"
    return response.status_code, body["error"]["type"]


def test_errors_have_anthropics_format(server: Server, subtests: pytest.Subtests) -> None:
    invalid, missing = (400, "invalid_request_error"), (404, "not_found_error")
    for path, body, expected in [
        ("/messages", {**asked("x"), "max_tokens": 0}, invalid),
        ("/messages", {**asked("x"), "temperature": 9}, invalid),
        ("/messages", {**asked("x"), "temperatur": 1}, invalid),
        ("/messages", {**asked("x" * 200_000), "stream": True}, invalid),
        ("/messages", [1], invalid),
        ("/messages/count_tokens", {}, invalid),
        ("/messages/batches", {"requests": []}, missing),
    ]:
        with subtests.test(path=path, body=ascii(body)[:80]):
            assert refusal(server.post(path, body)) == expected
    not_json = server.http.post("/messages", content=b"{", headers={"Content-Type": "application/json"})
    assert refusal(not_json) == invalid
    assert refusal(server.http.get("/messages")) == (405, "invalid_request_error")
    assert refusal(server.http.get("/nothing", headers={"anthropic-version": "2023-06-01"})) == missing


def test_an_error_in_the_middle_of_a_stream_is_an_event(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    found = events(server.post("/messages", asked("one\ftwo", stream=True)))
    assert [event["type"] for event in found][:2] == ["message_start", "content_block_start"]
    assert (found[-1]["type"], found[-1]["error"]["type"]) == ("error", "api_error")
    assert refusal(server.post("/messages", asked("one\ftwo"))) == (500, "api_error")


def test_models_are_listed_for_anthropics_clients(server: Server) -> None:
    version = {"anthropic-version": "2023-06-01"}
    (model,) = server.http.get("/models", headers=version).json()["data"]
    assert (model["type"], model["id"], model["lifecycle"]) == ("model", "qwen-3", "active")
    assert server.http.get("/models/qwen-3", headers=version).json() == model
    assert refusal(server.http.get("/models/none", headers=version)) == (404, "not_found_error")
    assert server.http.get("/models").json()["object"] == "list"


def test_the_key_is_asked_for_in_anthropics_format(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--api", "--api-key", "secret")) as server:
        assert refusal(server.post("/messages", asked("x"))) == (401, "authentication_error")
        with_key = server.post("/messages", asked("x"), x_api_key="secret")
        assert refusal(with_key) == (400, "invalid_request_error")  # no model is loaded


def test_fields_done_without_are_reported_by_anthropics_names(server: Server) -> None:
    body = asked("Yes", mcp_servers=[{}], output_config={"effort": "low"}, thinking={"type": "adaptive"})
    response = server.post("/messages", body)
    assert response.json()["ignored"] == ["mcp_servers", "output_config.effort"]
    assert response.headers["x-ignored-parameters"] == "mcp_servers, output_config.effort"
    assert events(server.post("/messages", {**body, "stream": True}))[-2]["ignored"] == response.json()["ignored"]


def test_a_parameter_of_openais_alone_is_refused_by_a_strict_api(make_app: Callable[..., App]) -> None:
    with server_of(make_app("--api", "--strict-api")) as server:
        for path in ("/messages", "/messages/count_tokens"):
            response = server.post(path, asked("Yes", stop="END"))
            assert refusal(response) == (400, "invalid_request_error")
            assert "'stop'" in response.json()["error"]["message"]


def test_a_picture_for_a_model_that_reads_none_is_refused(server: Server) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    for sent in (source, {"type": "url", "url": "https://example.com/cat.png"}):
        content = [{"type": "image", "source": sent}, {"type": "text", "text": "What is it?"}]
        response = server.post("/messages", {**FIELDS, "messages": [{"role": "user", "content": content}]})
        assert refusal(response) == (400, "invalid_request_error")
        reason = "cannot read images" if sent is source else "messages[0].content[0].source"
        assert reason in response.json()["error"]["message"]


def test_a_picture_that_cannot_be_read_is_named_by_its_path_in_the_request(server: Server) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    body = {**FIELDS, "system": "Be brief.", "messages": [{"role": "user", "content": content}]}
    for path in ("/messages", "/messages/count_tokens"):
        message = server.post(path, body).json()["error"]["message"]
        assert message.startswith("messages[0].content[1]: The image cannot be used")


# -- Claude Code -------------------------------------------------------------------------------------------------------


def test_a_session_of_claude_code_is_answered(server: Server) -> None:
    bash = '<tool_call>\n{"name": "Bash", "arguments": {"command": "ls"}}\n</tool_call>'
    found = events(server.post("/messages?beta=true", claude_code.turn(say(f"<think>\nHm.\n</think>\n\n{bash}"))))
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    assert found[-2]["ignored"] == ["tools[3]", "output_config.effort"]
    content, broken = collect(found)
    assert [block["type"] for block in content] == ["thinking", "tool_use"] and not broken
    assert content[1]["input"] == {"command": "ls"}
    found = events(server.post("/messages?beta=true", claude_code.next_turn(say("Two files."), content)))
    assert collect(found)[0] == [{"type": "text", "text": "Two files."}]
    counted = server.post("/messages/count_tokens?beta=true", claude_code.next_turn("x", content)).json()
    assert counted["input_tokens"] > 500


def test_the_other_requests_of_claude_code_are_answered(server: Server) -> None:
    assert server.post("/messages?beta=true", claude_code.QUOTA).json()["stop_reason"] == "max_tokens"
    found = events(server.post("/messages?beta=true", claude_code.title(say('{"title": "Files"}'))))
    assert collect(found)[0] == [{"type": "text", "text": '{"title": "Files"}'}] and "ignored" not in found[-2]


def test_the_prompt_of_claude_code_begins_alike_in_every_request() -> None:
    first, second = (claude_code.turn("Hello", hash) for hash in ("fa690", "0aaa9"))
    chats = [convert(MessagesRequest.model_validate(body)).chat for body in (first, second)]
    assert chats[0].messages == chats[1].messages
    assert chats[0].messages[0].content == "You are a coding agent.\n\n# Environment\nPlatform: linux"
