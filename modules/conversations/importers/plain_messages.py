"""Lists of messages with a role and a content, as many programs write them, and those of ShareGPT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import HIDDEN, Draft, Header, build, chain
from modules.conversations.importers.parts import (
    TOOL,
    hide_tool_result,
    read_content,
    read_thought,
    read_tool_calls,
    role_of,
)
from modules.conversations.importers.values import as_line, as_list, as_seconds, as_text
from modules.core.events import Json

_TIMES = ("timestamp", "created", "created_at", "createdAt", "date")
_TITLES = ("title", "name")


def is_message(value: Json) -> bool:
    """Whether a value is a message of this kind."""
    return isinstance(value, dict) and _role(value) is not None and ("content" in value or "value" in value)


def matches(document: Mapping[str, Json]) -> bool:
    return any(map(is_message, _messages(document)[:10]))


def read(context: ImportContext, document: Mapping[str, Json]) -> None:
    title = next(filter(None, (as_line(document.get(key)) for key in _TITLES)), "")
    created = next(filter(None, (as_seconds(document.get(key)) for key in _TIMES)), 0.0)
    updated = as_seconds(document.get("lastModified") or document.get("updated_at"))
    read_messages(context, Header(title, created, updated), _messages(document))


def read_messages(context: ImportContext, header: Header, messages: Sequence[Json]) -> None:
    """Add the conversation whose messages follow one another in this order."""
    context.check_messages(len(messages))
    losses = Losses()
    drafts = [draft_of(context, str(number), message, losses) for number, message in enumerate(messages)]
    build(context, header, chain(header, (([draft], 0) for draft in drafts)), losses)


def draft_of(context: ImportContext, key: str, message: Json, losses: Losses) -> Draft:
    """Read one message, without its place in the conversation."""
    role = _role(message) if isinstance(message, dict) else None
    draft = Draft(key, None, HIDDEN)
    if not isinstance(message, dict) or role is None:
        losses["unreadable"] += 1
        return draft
    draft.created = next(filter(None, (as_seconds(message.get(time)) for time in _TIMES)), 0.0)
    read_content(context, message.get("content", message.get("value")), losses, draft)
    if role == TOOL:
        hide_tool_result(draft, {"name": as_line(message.get("name"))}, losses)
        return draft
    draft.role = role
    read_thought(draft, *(message.get(key) for key in ("reasoning_content", "reasoning", "thinking")))
    read_tool_calls(draft, message.get("tool_calls"), losses)
    if model := as_line(message.get("model")):
        draft.extra["model"] = model
    return draft


def _messages(document: Mapping[str, Json]) -> list[Json]:
    return as_list(document.get("messages")) or as_list(document.get("conversations"))


def _role(message: Mapping[str, Json]) -> str | None:
    return role_of(as_text(message.get("role")) or message.get("from"))
