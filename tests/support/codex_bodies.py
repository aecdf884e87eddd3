"""Requests in the form of Codex's, with its twelve fields, its tools and its items; the texts are our own."""

from __future__ import annotations

from typing import Any

PATCH_GRAMMAR = 'start: "*** Begin Patch" LF hunk+ "*** End Patch" LF?\nhunk: /.+/ LF\nLF: "\\n"\n'

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "exec_command",
        "description": "Run a command.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {
                "cmd": {"type": "string", "description": "The command."},
                "workdir": {"type": "string"},
                "yield_time_ms": {"type": "number"},
                "tty": {"type": "boolean"},
            },
            "required": ["cmd"],
            "additionalProperties": False,
        },
    },
    {
        "type": "function",
        "name": "update_plan",
        "description": "Update the plan.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {
                "explanation": {"type": "string"},
                "plan": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"step": {"type": "string"}, "status": {"type": "string"}},
                        "required": ["step", "status"],
                        "additionalProperties": False,
                    },
                },
            },
            "required": ["plan"],
            "additionalProperties": False,
        },
    },
    {
        "type": "custom",
        "name": "apply_patch",
        "description": "Edit files. The text is not JSON.",
        "format": {"type": "grammar", "syntax": "lark", "definition": PATCH_GRAMMAR},
    },
    {"type": "web_search", "external_web_access": False},
    {"type": "local_shell"},
    {
        "type": "namespace",
        "name": "mcp__docs__",
        "description": "Tools of the server docs.",
        "tools": [
            {
                "type": "function",
                "name": "search",
                "description": "Search the documentation.",
                "strict": False,
                "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
            }
        ],
    },
]


def first_turn(question: str) -> dict[str, Any]:
    """Return the request of the first turn."""
    return {
        "model": "gpt-5.2-codex",
        "instructions": "You are a coding agent that works in a terminal.",
        "input": [
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "Commands run in a sandbox."}],
            },
            _message("<environment>\n  <cwd>/home/me</cwd>\n</environment>"),
            _message(question),
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
        "client_metadata": {"x-codex-installation-id": "0199a213-0000-7800-8aa1-bbab2a035a53"},
    }


def later_turn(question: str) -> dict[str, Any]:
    """Return the request of a later turn, with the items of the turns before."""
    body = first_turn("Make a file.")
    body["input"] += [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Look at the folder first."}],
            "content": None,
            "encrypted_content": None,
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look at the folder."}],
            "phase": "commentary",
        },
        {"type": "function_call", "name": "exec_command", "arguments": '{"cmd":"ls"}', "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": "README.md\n"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "files"}},
        {
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "call_2",
            "name": "apply_patch",
            "input": "*** Begin Patch\n*** Add File: a.txt\n+a\n*** End Patch",
        },
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Success. Updated a.txt"},
        {"type": "ghost_snapshot", "ghost_commit": {"id": "8d8cd1d"}},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Done."}],
            "phase": "final_answer",
        },
        _message(question),
    ]
    return body


def _message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
