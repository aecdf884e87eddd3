"""Exports of llama-server's web page: JSON lines since July 2026, before that JSON with `conv` and `messages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import HIDDEN, Draft, Header, build
from modules.conversations.importers.parts import (
    TOOL,
    add_image,
    hide_tool_result,
    read_content,
    read_thought,
    read_tool_calls,
    role_of,
)
from modules.conversations.importers.values import as_key, as_line, as_list, as_mapping, as_seconds, as_text, mappings
from modules.core.events import Json

_NO_PARENT = ("", "-1")
_TEXT_FILES = ("TEXT", "textFile", "context", "PDF", "pdfFile", "MCP_PROMPT", "MCP_RESOURCE")
_IMAGES = ("IMAGE", "imageFile")


def matches(document: Mapping[str, Json]) -> bool:
    return isinstance(document.get("conv"), dict) and isinstance(document.get("messages"), list)


def matches_line(record: Mapping[str, Json]) -> bool:
    """Whether a line is the header of a conversation."""
    return record.get("type") == "session" and ("currNode" in record or "harness" in record)


def read(context: ImportContext, document: Mapping[str, Json]) -> None:
    header = as_mapping(document.get("conv"))
    messages = as_list(document.get("messages"))
    context.check_messages(len(messages))
    losses = Losses()
    drafts = [_draft(context, as_mapping(message), losses) for message in messages]
    title, updated = as_line(header.get("name")), as_seconds(header.get("lastModified"))
    pinned, current = header.get("pinned") is True, as_key(header.get("currNode"))
    build(context, Header(title, 0.0, updated, pinned, current=current), drafts, losses)


def read_lines(context: ImportContext, records: Sequence[Mapping[str, Json]]) -> None:
    """Read JSON lines: each header is followed by its messages."""
    documents: list[dict[str, list[Json]]] = []
    for record in records:
        if record.get("type") == "session":
            documents.append({"conv": record, "messages": []})  # type: ignore[dict-item]
        elif record.get("type") == "message" and documents:
            documents[-1]["messages"].append(record.get("message"))
    for document in documents:
        read(context, document)


def _draft(context: ImportContext, message: Mapping[str, Json], losses: Losses) -> Draft:
    parent = as_key(message.get("parent"))
    draft = Draft(
        key=as_key(message.get("id")),
        parent=None if parent in _NO_PARENT else parent,
        role=HIDDEN,
        created=as_seconds(message.get("timestamp")),
        children=tuple(map(as_key, as_list(message.get("children")))),
    )
    role = role_of(message.get("role"))
    if message.get("type") == "root":
        return draft
    if role is None:
        losses["unreadable"] += 1
        return draft
    read_content(context, message.get("content"), losses, draft)
    _read_files(context, message, losses, draft)
    if role == TOOL:
        hide_tool_result(draft, {"id": as_line(message.get("toolCallId"))}, losses)
        return draft
    draft.role = role
    read_thought(draft, message.get("reasoningContent"), message.get("thinking"))
    read_tool_calls(draft, message.get("toolCalls"), losses)
    if model := as_line(message.get("model")):
        draft.extra["model"] = model
    return draft


def _read_files(context: ImportContext, message: Mapping[str, Json], losses: Losses, draft: Draft) -> None:
    found = list(draft.attachments)
    for file in mappings(message.get("extra")):
        kind, name, text = file.get("type"), as_line(file.get("name")), as_text(file.get("content"))
        if kind in _IMAGES:
            add_image(context, found, losses, name, as_text(file.get("base64Url")))
        elif kind in _TEXT_FILES and text:
            found.append(context.attach_text(name, text))
        else:
            losses["files"] += 1
    draft.attachments = tuple(found)
