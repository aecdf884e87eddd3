"""Requests with the fields that Claude Code 2.1 sends, by public captures of its traffic; the texts are our own.

It calls /v1/messages?beta=true. The hash in the first block of the system prompt differs in every request.
"""

from __future__ import annotations

from typing import Any

CACHED = {"cache_control": {"type": "ephemeral"}}
USER_ID = '{"device_id":"d3b07384","account_uuid":"","session_id":"5c2f1a90-0000-4000-8000-000000000000"}'


def text(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **fields}


def _tool(name: str, *required: str, **properties: str) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {key: {"type": kind, "description": key} for key, kind in properties.items()},
        "required": list(required),
        "additionalProperties": False,
    }
    return {"name": name, "description": f"{name} does something.\n\nUse it carefully.", "input_schema": schema}


TOOLS = [
    _tool("Bash", "command", command="string", timeout="number", run_in_background="boolean"),
    _tool("Read", "file_path", file_path="string", offset="number", limit="number"),
    {**_tool("Task", "prompt", prompt="string"), "eager_input_streaming": True},
    {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    {**_tool("TodoWrite", "todos", todos="array"), **CACHED},
]


def system(hash: str = "fa690") -> list[dict[str, Any]]:
    return [
        text(f"x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch={hash};"),
        text("You are a coding agent.", **CACHED),
        text("# Environment\nPlatform: linux", cache_control={"type": "ephemeral", "ttl": "1h"}),
    ]


def turn(said: str, hash: str = "fa690") -> dict[str, Any]:
    """Return the first request of a session, to which the test engine answers what `said` tells it to."""
    return {
        "model": "claude-opus-4-8",
        "messages": [
            {
                "role": "user",
                "content": [text("<system-reminder>\nToday is Monday.\n</system-reminder>"), text(said, **CACHED)],
            }
        ],
        "system": system(hash),
        "tools": TOOLS,
        "metadata": {"user_id": USER_ID},
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "stream": True,
    }


def next_turn(said: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the request that follows an answer with `content`, with the results of all its calls."""
    calls = [block for block in content if block["type"] == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": call["id"], "content": [text("a.txt\nb.txt")], "is_error": False}
        for call in calls
    ]
    first = turn("List the files.", "0aaa9")
    reminder = {"role": "system", "content": "The user has opened a.txt."}
    user = {"role": "user", "content": [*results, text(said, **CACHED)]}
    return {**first, "messages": [*first["messages"], {"role": "assistant", "content": content}, reminder, user]}


def title(said: str) -> dict[str, Any]:
    """Return the request for the title of a session."""
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    return {
        "model": "claude-haiku-4-5",
        "messages": [{"role": "user", "content": [text(said)]}],
        "system": system("1b2c3"),
        "tools": [],
        "metadata": {"user_id": USER_ID},
        "max_tokens": 32000,
        "thinking": {"type": "disabled"},
        "temperature": 1,
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "stream": True,
    }


QUOTA: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 1,
    "messages": [{"role": "user", "content": "quota"}],
    "metadata": {"user_id": USER_ID},
}
