"""Change a conversation so that a chat template takes it whole, where its features say that it would not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from modules.chat.features import TemplateFeatures, with_parts
from modules.chat.message import Message
from modules.conversations.importers.values import is_shallow

SEPARATOR = "\n\n"
"""Between the texts of messages that are merged."""

_Messages = list[dict[str, Any]]


def mend(messages: Sequence[Message], features: TemplateFeatures) -> list[Message]:
    """Return `messages` as the template takes them; unchanged ones if it takes them as they are."""
    mended = [_without_nulls(message) for message in messages]
    if not features.developer:
        _rename_developer(mended)
    mended = [_with_arguments(message, features.text_arguments) for message in _with_systems(mended, features)]
    if not features.assistant_first and _first_role(mended) == "assistant":
        mended.insert(_count_leading_systems(mended), {"role": "user", "content": ""})
    if not features.equal_neighbors:
        mended = _merge_neighbors(mended)
    return with_parts(mended, features.parts)


def _without_nulls(message: Message) -> dict[str, Any]:
    """Return the message without empty fields, except for the text of one with calls: some templates ask for none."""
    return {
        name: value
        for name, value in message.items()
        if value is not None or (name == "content" and message.get("tool_calls"))
    }


def _with_arguments(message: dict[str, Any], as_text: bool) -> dict[str, Any]:
    """Return the message with the arguments of its calls as JSON text or as a mapping, whichever the template needs.

    Text that is not a JSON object, or a deeply nested one, stays as it is.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_converted_arguments(call, as_text) for call in calls]}


def _with_converted_arguments(call: Any, as_text: bool) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if as_text and isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(arguments)
            arguments = parsed if isinstance(parsed, dict) and is_shallow(parsed) else arguments
    return {**call, "function": {**function, "arguments": arguments}}


def _rename_developer(messages: _Messages) -> None:
    for message in messages:
        if message["role"] == "developer":
            message["role"] = "system"


def _with_systems(messages: _Messages, features: TemplateFeatures) -> _Messages:
    """Merge system messages at the beginning, or move their text into the first question, as the template needs it."""
    systems = [message for message in messages if message["role"] == "system"]
    several = len(systems) > 1 and not features.several_systems
    late = len(systems) > _count_leading_systems(messages) and not features.late_system
    if not systems or (features.system and not several and not late):
        return messages
    text = SEPARATOR.join(plain for plain in (_text(message) for message in systems) if plain)
    others = [message for message in messages if message["role"] != "system"]
    if features.system:
        return [{**systems[0], "content": text}, *others]
    if others and others[0]["role"] == "user":
        return [_merge({"role": "user", "content": text}, others[0]), *others[1:]]
    return [{"role": "user", "content": text}, *others]


def _merge_neighbors(messages: _Messages) -> _Messages:
    merged: _Messages = []
    for message in messages:
        mergeable = message["role"] in ("user", "assistant") and "tool_calls" not in message
        if mergeable and merged and merged[-1]["role"] == message["role"] and "tool_calls" not in merged[-1]:
            merged[-1] = _merge(merged[-1], message)
        else:
            merged.append(message)
    return merged


def _merge(first: Message, second: Message) -> dict[str, Any]:
    texts = [text for text in (_text(first), _text(second)) if text]
    return {**first, **second, "content": SEPARATOR.join(texts)}


def _text(message: Message) -> str:
    """Return the text of a message, whose content may be a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _first_role(messages: _Messages) -> str:
    return next((str(message["role"]) for message in messages if message["role"] != "system"), "")


def _count_leading_systems(messages: Sequence[Message]) -> int:
    roles = [message["role"] for message in messages]
    return next((index for index, role in enumerate(roles) if role != "system"), len(roles))
