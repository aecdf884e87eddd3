"""Exports of Open WebUI: a list of chats, each with a tree of messages, or with a list of them (before 2024)."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.conversations.importers import plain_messages
from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import ASSISTANT, HIDDEN, Draft, Header, build
from modules.conversations.importers.parts import (
    TOOL,
    add_image,
    hide_tool_result,
    keep_all,
    read_content,
    read_thought,
    read_tool_calls,
    role_of,
    texts_of,
)
from modules.conversations.importers.values import (
    as_key,
    as_line,
    as_list,
    as_mapping,
    as_number,
    as_seconds,
    as_text,
    mappings,
)
from modules.core.events import Json

_BLOCK = re.compile(
    r'^(?: {0,3}(?P<fence>```+|~~~+)|<details type="(?P<kind>reasoning|tool_calls|code_interpreter)")', re.M
)
_ATTRIBUTE = re.compile(r'([a-z_]+)="([^"]*)"')
_SUMMARY = re.compile(r"\s*<summary>[^<]*</summary>")
_END = "</details>"


def matches(document: Mapping[str, Json]) -> bool:
    chat = _chat(document)
    return "messages" in as_mapping(chat.get("history")) or (
        "chat" in document and isinstance(chat.get("messages"), list)
    )


def read(context: ImportContext, document: Mapping[str, Json]) -> None:
    chat = _chat(document)
    history = as_mapping(chat.get("history"))
    header = Header(
        title=as_line(document.get("title")) or as_line(chat.get("title")),
        created=as_seconds(document.get("created_at")) or as_seconds(chat.get("timestamp")),
        updated=as_seconds(document.get("updated_at")),
        pinned=document.get("pinned") is True,
        system=as_text(as_mapping(chat.get("params")).get("system")) or as_text(chat.get("system")),
        current=as_key(history.get("currentId") or history.get("current_id")),
    )
    messages = history.get("messages")
    if not isinstance(messages, dict):
        plain_messages.read_messages(context, header, as_list(chat.get("messages")))
        return
    context.check_messages(len(messages))
    losses = Losses()
    drafts = [_draft(context, as_text(key), message, losses) for key, message in messages.items()]
    build(context, header, drafts, losses)


def _chat(document: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return the chat of an entry; an entry may also be the chat itself."""
    return as_mapping(document.get("chat")) or document


def _draft(context: ImportContext, key: str, message: Json, losses: Losses) -> Draft:
    facts = as_mapping(message)
    draft = Draft(
        key=key,
        parent=as_key(facts.get("parentId")) or None,
        role=HIDDEN,
        created=as_seconds(facts.get("timestamp")),
        children=tuple(map(as_key, as_list(facts.get("childrenIds")))),
    )
    role = role_of(facts.get("role"))
    if role is None:
        losses["unreadable"] += 1
        return draft
    read_content(context, facts.get("content"), losses, draft)
    _read_files(context, facts, losses, draft)
    if role == TOOL:
        hide_tool_result(draft, {"name": as_line(facts.get("name"))}, losses)
        return draft
    draft.role = role
    if role == ASSISTANT:
        _read_answer(facts, losses, draft)
    return draft


def _read_answer(facts: Mapping[str, Json], losses: Losses, draft: Draft) -> None:
    if not draft.content:
        draft.content = _text_of_output(facts.get("output"))
    reply = split_reply(draft.content)
    draft.content, draft.reasoning_seconds = reply.content, reply.seconds
    read_thought(draft, reply.reasoning, facts.get("reasoning_content"))
    read_tool_calls(draft, facts.get("tool_calls"), losses)
    draft.role = ASSISTANT
    if calls := keep_all(list(reply.tool_calls), losses):
        draft.extra["tool_calls"] = [*draft.extra.get("tool_calls", ()), *calls]
    draft.incomplete = facts.get("done") is False
    if model := as_line(facts.get("model")):
        draft.extra["model"] = model
    if error := as_mapping(facts.get("error")):
        draft.extra["error"] = as_text(error.get("content"))


def _text_of_output(output: Json) -> str:
    """Return the answer from the items of newer versions, which are those of OpenAI's Responses API."""
    return "\n\n".join(texts_of(item.get("content")) for item in mappings(output) if item.get("type") == "message")


def _read_files(context: ImportContext, facts: Mapping[str, Json], losses: Losses, draft: Draft) -> None:
    found = list(draft.attachments)
    for file in mappings(facts.get("files")):
        name = as_line(file.get("name"))
        text = as_text(as_mapping(as_mapping(file.get("file")).get("data")).get("content"))
        if file.get("type") == "image":
            add_image(context, found, losses, name or "image", as_text(file.get("url")))
        elif text:
            found.append(context.attach_text(name, text))
        else:
            losses["files"] += 1
    draft.attachments = tuple(found)


# -- thoughts and tool calls within the text ---------------------------------------------------------------------------


@dataclass
class Reply:
    """The parts of an answer's text. `seconds` is how long the model thought."""

    content: str = ""
    reasoning: str = ""
    seconds: float = 0.0
    tool_calls: list[Json] = field(default_factory=list)


def split_reply(text: str) -> Reply:
    """Take the `<details>` of thoughts and tool calls out of an answer; those within code blocks stay."""
    reply = Reply()
    texts: list[str] = []
    thoughts: list[str] = []
    start = position = 0
    fence = ""
    while found := _BLOCK.search(text, position):
        position = found.end()
        if mark := found["fence"]:
            if not fence:
                fence = mark
            elif mark.startswith(fence):
                fence = ""
            continue
        if fence:
            continue
        if (head := text.find(">", position)) < 0:
            break
        end = text.find(_END, head)
        body = text[head + 1 : end if end >= 0 else len(text)]
        attributes = dict(_ATTRIBUTE.findall(text[position:head]))
        if found["kind"] == "reasoning":
            thoughts.append(_unquoted(body))
            reply.seconds += as_number(_as_json_number(attributes.get("duration", "")))
        else:
            reply.tool_calls.append(_tool_call(found["kind"], attributes, body))
        texts.append(text[start : found.start()])
        start = end + len(_END) if end >= 0 else len(text)
        start += text.startswith("\n", start)
        position = start
    reply.content = "".join((*texts, text[start:]))
    reply.reasoning = "\n\n".join(filter(None, thoughts))
    return reply


def _unquoted(body: str) -> str:
    """Return a thought from its form in Markdown: a summary, and a quote that newer versions escape for HTML."""
    body = body[found.end() :] if (found := _SUMMARY.match(body)) else body
    body = body.removeprefix("\n").removesuffix("\n")
    if body.startswith("&gt;"):
        body = html.unescape(body)
    lines = body.split("\n")
    if all(line.startswith(">") for line in lines):
        lines = [line[2:] if line.startswith("> ") else line[1:] for line in lines]
    return "\n".join(lines)


def _tool_call(kind: str, attributes: Mapping[str, str], body: str) -> Json:
    facts = {name: html.unescape(value) for name, value in attributes.items() if name not in ("done", "type")}
    text = "" if kind == "tool_calls" else body.strip()
    return {"kind": kind, **facts} | ({"text": text} if text else {})


def _as_json_number(text: str) -> float:
    return float(text) if text.isascii() and text.replace(".", "", 1).isdecimal() else 0.0
