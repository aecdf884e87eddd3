"""Compare the prompts of whole templates with those that transformers renders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.chat.errors import TemplateRefused
from modules.chat.mending import mend
from modules.chat.message import Message
from modules.chat.templates import ChatTemplates, ModelTemplate
from tests.support.forked import forked
from tests.support.template_table import SPECIAL_TOKENS
from tests.support.tokenizer_folder import write_tokenizer

SYSTEM: Message = {"role": "system", "content": "Be brief."}
QUESTION: Message = {"role": "user", "content": " What is <b>1 + 1</b>? 你好 "}
ANSWER: Message = {"role": "assistant", "content": "Two,\n\tthree"}
THOUGHTFUL: Message = {**ANSWER, "reasoning_content": "Let me count."}
AGAIN: Message = {"role": "user", "content": "And then?"}
CALLING: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abcdef123", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2, "三"]}}}
    ],
}
RESULT: Message = {"role": "tool", "name": "add", "tool_call_id": "abcdef123", "content": '{"sum": 3}'}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer", "description": "the first"}, "b": {"type": "array"}},
                "required": ["a"],
            },
        },
    }
]
CASES: dict[str, tuple[list[Message], dict[str, Any]]] = {
    "a question": ([QUESTION], {}),
    "a system message": ([SYSTEM, QUESTION], {}),
    "several turns": ([SYSTEM, QUESTION, ANSWER, AGAIN], {}),
    "thoughts": ([QUESTION, THOUGHTFUL, AGAIN], {}),
    "thinking": (
        [SYSTEM, QUESTION, THOUGHTFUL, AGAIN],
        {"template_kwargs": {"enable_thinking": True, "thinking": True}},
    ),
    "no thinking": ([SYSTEM, QUESTION], {"template_kwargs": {"enable_thinking": False, "thinking": False}}),
    "much effort": ([QUESTION], {"template_kwargs": {"reasoning_effort": "high"}}),
    "tools": ([SYSTEM, QUESTION], {"template_kwargs": {"tools": TOOLS}}),
    "a call and its result": ([SYSTEM, QUESTION, CALLING, RESULT], {"template_kwargs": {"tools": TOOLS}}),
    "an answer to continue": ([SYSTEM, QUESTION, ANSWER], {"continue_last": True}),
}


def compare(sources: Mapping[str, str], folder: Path) -> dict[str, dict[str, tuple[object, object]]]:
    """Return by template and case what this program renders and what transformers does; in a list, why it was refused.

    Transformers gets the conversation as it is adapted to the template. A tokenizer is written into `folder`.
    """
    templates = ChatTemplates()
    ours: dict[str, list[object]] = {}
    work: dict[str, tuple[str, list[tuple[list[Message], dict[str, Any]]]]] = {}
    for name, source in sources.items():
        template = ModelTemplate(name, source, {}, SPECIAL_TOKENS)
        features, cases = templates.features(template), []
        ours[name] = []
        for messages, options in CASES.values():
            cases.append(([_with_names(message) for message in mend(messages, features)], options))
            try:
                ours[name].append(templates.render(template, messages, **options))
            except TemplateRefused as error:
                ours[name].append([error.reason])
        work[name] = (source, cases)
    theirs = forked(_references, write_tokenizer(folder, {}), work)
    return {name: dict(zip(CASES, zip(ours[name], theirs[name], strict=True), strict=True)) for name in sources}


def _with_names(message: Message) -> dict[str, Any]:
    """Return a message with its thoughts under both names by which templates ask for them."""
    thoughts = message.get("reasoning_content")
    return {**({} if thoughts is None else {"thinking": thoughts}), **message}


def _references(
    folder: Path, work: dict[str, tuple[str, list[tuple[list[Message], dict[str, Any]]]]]
) -> dict[str, list[object]]:
    """Return what transformers renders, or why its template refused, by template."""
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    results: dict[str, list[object]] = {}
    for name, (source, cases) in work.items():
        texts: list[object] = []
        results[name] = texts
        for messages, options in cases:
            goes_on = options.get("continue_last", False)
            arguments = {"continue_final_message": goes_on, "add_generation_prompt": not goes_on}
            arguments |= options.get("template_kwargs", {})
            try:
                text = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **arguments)
            except (TemplateError, TypeError, ValueError) as error:
                text = [str(error)]
            texts.append(text)
    return results
