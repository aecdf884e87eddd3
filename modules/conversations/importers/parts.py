"""Read the content of a message that may be a text or a list of parts, and the tool calls beside it."""

from __future__ import annotations

from collections.abc import Mapping

from modules.conversations.conversation import Attachment
from modules.conversations.importers.context import ImportContext, Losses, bytes_of_data_uri
from modules.conversations.importers.message_tree import ASSISTANT, HIDDEN, SYSTEM, USER, Draft
from modules.conversations.importers.thoughts import split_thought
from modules.conversations.importers.values import as_list, as_mapping, as_text, kept, mappings, parse_json
from modules.core.events import Json

TOOL = "tool"

_ROLES = {
    "user": USER, "human": USER, "assistant": ASSISTANT, "ai": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT,
    "gpt": ASSISTANT, "system": SYSTEM, "developer": SYSTEM, "tool": TOOL, "function": TOOL, "observation": TOOL,
}  # fmt: skip
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_THOUGHT_PARTS = ("thinking", "reasoning")


def role_of(value: Json) -> str | None:
    """Return the role of a draft, or TOOL for a result of a tool; None for a role that is not known."""
    return _ROLES.get(as_text(value).lower())


def read_content(context: ImportContext, content: Json, losses: Losses, draft: Draft) -> None:
    """Set text, thought and images of a draft from its `content` in the form of OpenAI's or Anthropic's API."""
    texts: list[str] = []
    thoughts: list[str] = []
    attachments: list[Attachment] = []
    for part in as_list(content) if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(as_text(part))
        elif isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
            texts.append(as_text(part.get("text")))
        elif isinstance(part, dict) and part.get("type") in _THOUGHT_PARTS:
            thoughts.append(as_text(part.get("thinking") or part.get("text")))
        elif isinstance(part, dict) and part.get("type") == "image_url":
            add_image(context, attachments, losses, "image", _address(part.get("image_url")))
        elif part is not None:
            losses["unreadable"] += 1
    draft.content = "\n\n".join(filter(None, texts)) if len(texts) > 1 else "".join(texts)
    draft.reasoning = "\n\n".join(filter(None, thoughts))
    draft.attachments += tuple(attachments)


def read_thought(draft: Draft, *fields: Json) -> None:
    """Set the thought of an answer from the first field that has one, or from its text."""
    if draft.role not in (ASSISTANT, HIDDEN):
        return
    draft.reasoning = draft.reasoning or next(filter(None, map(as_text, fields)), "")
    if not draft.reasoning:
        draft.reasoning, draft.content = split_thought(draft.content)


def read_tool_calls(draft: Draft, value: Json, losses: Losses) -> None:
    """Keep the tool calls of an answer. One without a text is not shown: its calls go to the answer after it."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except (ValueError, RecursionError):
            losses["unreadable"] += 1
    if calls := keep_all(as_list(value), losses):
        draft.extra["tool_calls"] = calls
        if not draft.content.strip():
            draft.role = HIDDEN


def hide_tool_result(draft: Draft, result: Mapping[str, Json], losses: Losses) -> None:
    """Keep a tool's result for the answer after it."""
    content, draft.content = draft.content, ""
    draft.role = HIDDEN
    known = {key: value for key, value in result.items() if value}
    draft.extra["tool_calls"] = keep_all([{"result": content, **known}], losses)


def keep_all(values: list[Json], losses: Losses) -> list[Json]:
    found = [kept(value) for value in values]
    losses["unreadable"] += found.count(None)
    return [value for value in found if value is not None]


def add_image(context: ImportContext, found: list[Attachment], losses: Losses, name: str, address: str) -> None:
    """Add the image of a `data:` URI to `found`."""
    if attachment := context.attach_image(name, bytes_of_data_uri(address)):
        found.append(attachment)
    else:
        losses["files"] += 1


def texts_of(parts: Json) -> str:
    """Return the text of a list of parts, whatever their type."""
    return "\n".join(filter(None, (as_text(part.get("text")) for part in mappings(parts))))


def _address(value: Json) -> str:
    return as_text(value) or as_text(as_mapping(value).get("url"))
