"""The program's own format of a conversation's file: JSON, with one message per line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from modules.conversations.conversation import MODES, ROLES, ROOT, Attachment, ChatMessage, Conversation
from modules.core.errors import Words
from modules.core.events import Json
from modules.core.quotes import in_quotes

FORMAT, VERSION = "text-studio/chat", 1

_CONVERSATION_KEYS: Mapping[str, type] = {
    "title": str, "created": float, "updated": float, "rev": int, "pinned": bool, "mode": str, "character": str,
    "persona": str, "system": str, "dropped_until": str, "dropped_room": int, "current": str, "shown": dict,
}  # fmt: skip
_MESSAGE_KEYS: Mapping[str, type] = {
    "parent": str, "role": str, "content": str, "reasoning": str, "reasoning_seconds": float, "created": float,
    "edited": float, "incomplete": bool,
}  # fmt: skip
_ATTACHMENT_KEYS: Mapping[str, type] = {"name": str, "kind": str, "sha256": str, "size": int, "text": str}
_ALWAYS_WRITTEN = ("parent", "role", "content", "created")
_NAMES: Mapping[type, Words] = {
    str: {"en": "a text", "zh": "文本"},
    float: {"en": "a number", "zh": "数字"},
    int: {"en": "a whole number", "zh": "整数"},
    bool: {"en": "true or false", "zh": "true 或 false"},
    dict: {"en": "an object", "zh": "对象"},
}


class FormatProblem(Exception):
    """A fault of the content of a file, as the end of a sentence."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.words: Words = {"en": en, "zh": zh}


def is_own(data: Mapping[str, Json]) -> bool:
    """Whether a file's content is of this format, of whatever version."""
    return data.get("format") == FORMAT


def newer_version(data: Mapping[str, Json]) -> Words | None:
    """Return why the content must not be changed if a newer version of the program wrote it."""
    version = data.get("version")
    if not is_own(data) or (type(version) is int and version <= VERSION):
        return None
    return {
        "en": f"it was written by a newer version of the program (format {version!r}, this one knows {VERSION})",
        "zh": f"它由更新版本的程序写入（格式 {version!r}，本程序支持到 {VERSION}）",
    }


# -- writing -----------------------------------------------------------------------------------------------------------


def to_bytes(conversation: Conversation) -> bytes:
    """Return the content of the conversation's file. Raises ValueError for one that could not be read again."""
    unknown = {message.role for message in conversation.messages.values()} - set(ROLES)
    if conversation.mode not in MODES or unknown:
        raise ValueError(f"mode {conversation.mode!r}, roles {unknown}")
    head = {"format": FORMAT, "version": VERSION, "id": conversation.id}
    head |= {key: getattr(conversation, key) for key in _CONVERSATION_KEYS}
    head |= {key: value for key, value in conversation.extra.items() if key not in head and key != "messages"}
    lines = [f"{_dumped(message.id)}:{_dumped(_message_json(message))}" for message in conversation.messages.values()]
    body = ",\n".join(lines)
    text = f'{_dumped(head)[:-1]},\n"messages":{{\n{body}\n}}}}\n'
    return without_surrogates(text).encode()


def without_surrogates(text: str) -> str:
    """Return the text with a replacement character for each half of a surrogate pair, which is not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _message_json(message: ChatMessage) -> Json:
    data = {key: getattr(message, key) for key in _MESSAGE_KEYS}
    data = {key: value for key, value in data.items() if value or key in _ALWAYS_WRITTEN}
    if message.attachments:
        data["attachments"] = [attachment_json(attachment) for attachment in message.attachments]
    if message.receipt is not None:
        data["receipt"] = message.receipt
    return {**message.extra, **data}


def attachment_json(attachment: Attachment) -> Json:
    """Return the JSON form of an attachment, which `attachment_from_json` reads."""
    data = dataclasses.asdict(attachment)
    extra = data.pop("extra")
    return {**extra, **data}


def _dumped(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# -- reading -----------------------------------------------------------------------------------------------------------


def from_json(id: str, data: Mapping[str, Json]) -> Conversation:
    """Return the conversation that `to_bytes` wrote. Raises FormatProblem for invalid content."""
    conversation = head_from_json(id, data)
    known = {"format", "version", "id", "messages", *_CONVERSATION_KEYS}
    conversation.extra = {key: value for key, value in data.items() if key not in known}
    messages = data.get("messages", {})
    conversation.messages = {name: _message(name, body) for name, body in messages.items() if name != ROOT}
    _mend(conversation)
    return conversation


def head_from_json(id: str, data: Mapping[str, Json]) -> Conversation:
    """Return what a file says of the conversation, without its messages. Raises FormatProblem for invalid content."""
    fields = _checked(data, _CONVERSATION_KEYS, "")
    if fields.get("mode", MODES[0]) not in MODES:
        raise FormatProblem(f"its mode {fields['mode']!r} is unknown", f"模式{in_quotes(fields['mode'])}未知")
    if not isinstance(data.get("messages", {}), dict):
        raise FormatProblem("its messages are not an object", "messages 不是对象")
    return Conversation(id, **fields)


def _message(id: str, data: Json) -> ChatMessage:
    where = f"messages.{id}."
    if not isinstance(data, dict):
        raise FormatProblem(f"{where[:-1]} is not an object", f"{where[:-1]} 不是对象")
    fields = _checked(data, _MESSAGE_KEYS, where)
    if fields.get("role") not in ROLES or "content" not in fields:
        raise FormatProblem(f"{where[:-1]} has no role or no content", f"{where[:-1]} 缺少 role 或 content")
    attachments = data.get("attachments", [])
    if not isinstance(attachments, list):
        raise FormatProblem(f"{where}attachments is not a list", f"{where}attachments 不是列表")
    fields["attachments"] = tuple(attachment_from_json(item, f"{where}attachments.") for item in attachments)
    known = {"attachments", "receipt", *_MESSAGE_KEYS}
    extra = {key: value for key, value in data.items() if key not in known}
    return ChatMessage(id=id, **{"parent": ROOT} | fields, receipt=data.get("receipt"), extra=extra)


def attachment_from_json(data: Json, where: str = "") -> Attachment:
    """Return the attachment that `attachment_json` described. Raises FormatProblem for anything else."""
    fields = _checked(data, _ATTACHMENT_KEYS, where) if isinstance(data, dict) else {}
    if not {"name", "kind", "sha256", "size"} <= fields.keys():
        raise FormatProblem(f"{where or 'attachment '}is incomplete", f"{where or '附件'}不完整")
    return Attachment(**fields, extra={key: value for key, value in data.items() if key not in _ATTACHMENT_KEYS})


def _checked(data: Mapping[str, Json], types: Mapping[str, type], where: str) -> dict[str, Any]:
    """Return the values of known keys. Raises FormatProblem if one has another type."""
    found = {}
    for key in types.keys() & data.keys():
        value, expected = data[key], types[key]
        if expected is float and type(value) is int:
            value = float(value) if abs(value) < 1e300 else math.inf
        if type(value) is not expected or (isinstance(value, float) and not math.isfinite(value)):
            name = _NAMES[expected]
            raise FormatProblem(f"{where}{key} is not {name['en']}", f"{where}{key} 应为{name['zh']}")
        found[key] = value
    return found


def _mend(conversation: Conversation) -> None:
    """Correct what points to messages that do not exist. Raises FormatProblem if a message follows itself."""
    messages, shown = conversation.messages, conversation.shown
    for id, message in messages.items():
        if message.parent != ROOT and message.parent not in messages:
            messages[id] = dataclasses.replace(message, parent=ROOT)
    _check_for_cycles(conversation)
    if conversation.dropped_until not in messages:
        conversation.dropped_until = ""
    conversation.shown = {parent: id for parent, id in shown.items() if id in conversation.children(parent)}
    if conversation.current in messages:
        conversation.shown |= {message.parent: message.id for message in conversation.path()}
    elif first := conversation.children(ROOT):
        conversation.select(conversation.shown.get(ROOT, first[-1]))
    else:
        conversation.current = ROOT


def _check_for_cycles(conversation: Conversation) -> None:
    reached, pending = 0, conversation.children(ROOT)
    while pending:
        reached += 1
        pending += conversation.children(pending.pop())
    if reached < len(conversation.messages):
        raise FormatProblem("some of its messages follow themselves", "部分消息的先后关系形成循环")
