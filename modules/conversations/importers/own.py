"""The program's own files, and histories of text-generation-webui."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping

from modules.conversations import file_format, original
from modules.conversations.conversation import Conversation
from modules.conversations.errors import InvalidTitle
from modules.conversations.file_format import FormatProblem
from modules.conversations.importers.context import UNTITLED, ImportContext
from modules.conversations.importers.values import as_line, as_mapping, as_seconds, as_text, is_shallow
from modules.conversations.titles import checked_title
from modules.core.errors import Words
from modules.core.events import Json

BLOBS = "files"
"""The key that an export has in addition: attachments in base64, by SHA-256."""

_NAME_OF_A_TIME = re.compile(r"(\d{4})(\d{2})(\d{2})-(\d{2})-(\d{2})-(\d{2})")


def matches(document: Mapping[str, Json]) -> bool:
    return file_format.is_own(document)


def matches_original(document: Mapping[str, Json]) -> bool:
    return original.is_original(document)


def read(context: ImportContext, document: Mapping[str, Json]) -> None:
    """Read one of our files; a damaged one, or one of a newer version, is reported."""
    title, content = as_line(document.get("title")), dict(document)
    blobs = as_mapping(content.pop(BLOBS, None))
    messages = as_mapping(content.get("messages"))
    context.check_messages(len(messages))
    if newer := file_format.newer_version(document):
        _report(context, title, newer)
        return
    try:
        conversation = file_format.from_json("", content)
    except FormatProblem as problem:
        _report(context, title, problem.words)
        return
    if not conversation.messages or _is_too_deep(context, title, conversation):
        return
    try:
        checked_title(conversation.title)
    except InvalidTitle:
        conversation.title = title
    context.add(conversation)
    _take_blobs(context, blobs)


def read_original(context: ImportContext, document: Mapping[str, Json]) -> None:
    """Read a history of text-generation-webui, whose title and time are in the file's name."""
    rows = document.get("internal", document.get("data"))
    context.check_messages(2 * len(rows) if isinstance(rows, list) else 0)
    name = context.name.rpartition("/")[2].removesuffix(".json")
    is_time = _NAME_OF_A_TIME.fullmatch(name)
    conversation = Conversation("", title="" if is_time else as_line(name))
    try:
        original.parse(conversation, document, context.put)
    except FormatProblem as problem:
        _report(context, as_line(name), problem.words)
        return
    if not conversation.messages or _is_too_deep(context, as_line(name), conversation):
        return
    times = [message.created for message in conversation.messages.values()]
    named = as_seconds("{}-{}-{}T{}:{}:{}".format(*is_time.groups())) if is_time else 0.0
    conversation.created = named or min(filter(None, times), default=0.0)
    conversation.updated = max(times) or conversation.created
    context.add(conversation)


def _is_too_deep(context: ImportContext, title: str, conversation: Conversation) -> bool:
    """Report a conversation with values that could not be written again."""
    values: list[Json] = [conversation.extra]
    for message in conversation.messages.values():
        values += [message.extra, message.receipt, *(attachment.extra for attachment in message.attachments)]
    if all(map(is_shallow, values)):
        return False
    _report(context, title, {"en": "its values are nested too deeply", "zh": "其中的数据嵌套过深"})
    return True


def _report(context: ImportContext, title: str, problem: Words) -> None:
    context.report(
        f"“{title or UNTITLED['en']}” was not imported: {problem['en']}.",
        f"未导入“{title or UNTITLED['zh']}”：{problem['zh']}。",
    )


def _take_blobs(context: ImportContext, blobs: Mapping[str, Json]) -> None:
    for sha256, text in blobs.items():
        try:
            data = base64.b64decode(as_text(text), validate=True)
        except (binascii.Error, ValueError):
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            context.files[sha256] = data
