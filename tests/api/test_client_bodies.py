"""Recorded requests of SillyTavern and continue.dev are answered, and what they are answered without is reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from modules.app import App
from tests.support.client_bodies import continue_agent, continue_chat, sillytavern, sillytavern_chat
from tests.support.say import say, say_plan
from tests.support.serving import Server, server_of

CALL = '<tool_call>\n{"name": "builtin_read_file", "arguments": {"filepath": "b.py"}}\n</tool_call>'


@pytest.fixture
def server(make_app: Callable[..., App]) -> Iterator[Server]:
    app = make_app("--api")
    app.models.load(say_plan("qwen-3"))
    with server_of(app) as running:
        yield running


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


def reported(response: httpx.Response) -> list[str]:
    """Return what the header lists, which the last chunk must list as well."""
    names = [name for name in response.headers.get("x-ignored-parameters", "").split(", ") if name]
    assert chunks_of(response)[-1].get("ignored", []) == names
    return names


def test_sillytavern_gets_its_completions(server: Server, subtests: pytest.Subtests) -> None:
    expected = {
        "ooba": {"include_reasoning", "sampler_priority", "temperature_last"},
        "llamacpp": {"include_reasoning", "samplers"},
        "tabby": {"include_reasoning"},
        "koboldcpp": {"include_reasoning", "sampler_order"},
    }
    for tavern, names in expected.items():
        with subtests.test(tavern):
            response = server.post("/completions", {**sillytavern(tavern), "prompt": say("Hello")})
            assert "".join(chunk["choices"][0]["text"] for chunk in chunks_of(response)) == "Hello"
            assert set(reported(response)) == names


def test_sillytavern_chats_with_tools(server: Server) -> None:
    response = server.post("/chat/completions", sillytavern_chat(say("Hello")))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(response)) == "Hello"
    assert reported(response) == ["include_reasoning", "reasoning_effort"]


def test_continue_gets_an_answer_with_fields_of_its_own_in_the_messages(server: Server) -> None:
    response = server.post("/chat/completions", continue_chat(say("Hello")))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(response)) == "Hello"
    assert reported(response) == ["messages[1].id", "messages[2].isSummary", "messages[3].id"]


def test_the_agent_of_continue_gets_its_next_call(server: Server) -> None:
    response = server.post("/chat/completions", continue_agent(say(CALL)))
    calls = [
        call
        for chunk in chunks_of(response)
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert calls[0]["function"]["name"] == "builtin_read_file"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"filepath": "b.py"}'
    assert reported(response) == []
    shown = server.post("/internal/chat-prompt", continue_agent("Go on")).json()["prompt"]
    assert '{"name": "builtin_read_file", "arguments": {"filepath": "a.py"}}' in shown
    assert "<tool_response>\nFile: a.py\nprint(1)\n</tool_response>" in shown
