"""Histories of text-generation-webui: rows of a question and an answer.

Since 2024 a file has `internal` and `visible` rows, from version 4 on also `metadata` by "user_<row>" and
"assistant_<row>"; files of 2023 have `data` and `data_visible`. `visible` is escaped for HTML and may be translated, so
the texts are read from `internal`. What has no form in a conversation is kept under `extra["original"]`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import re
import time
from collections.abc import Callable, Mapping

from modules.conversations.conversation import Attachment, ChatMessage, Conversation
from modules.conversations.file_format import FormatProblem
from modules.core.events import Json
from modules.core.pieces import REASONING, TEXT
from modules.core.reasoning import KNOWN_MARKERS, ReasoningParser

GREETING = "<|BEGIN-VISIBLE-CHAT|>"
"""The question of a row that has only a character's greeting."""

Put = Callable[[bytes], str]
"""Store bytes and return their SHA-256."""
Get = Callable[[str], bytes]

_TIMESTAMP = "%b %d, %Y %H:%M"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WRITTEN = re.compile(r"(\w{3}) (\d{1,2}), (\d{4}) (\d{2}):(\d{2})")
_THINK = KNOWN_MARKERS[0]
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_IMAGE = "image"
KEY = "original"
"""The key in `extra` of what is only kept for exporting it again."""
_MARKS = ("question", "content", "visible")
"""Of what is kept, what is no metadata of a message."""


def is_original(data: Mapping[str, Json]) -> bool:
    """Whether a file's content is a history of the original."""
    return isinstance(data.get("internal", data.get("data")), list)


def first_question(data: Mapping[str, Json]) -> str:
    """Return the first question of a history, "" if it has none."""
    questions = (row[0] for row in rows_of(data))
    return next((question for question in questions if question not in ("", GREETING)), "")


def count_texts(data: Mapping[str, Json]) -> int:
    """Return how many questions and answers a history has."""
    return sum(text not in ("", GREETING) for row in rows_of(data) for text in row)


# -- reading -----------------------------------------------------------------------------------------------------------


def parse(conversation: Conversation, data: Mapping[str, Json], put: Put) -> None:
    """Add the messages of a history to an empty conversation. Raises FormatProblem for invalid content."""
    _Parser(conversation, data, put).add_rows()
    known = ("internal", "visible", "data", "data_visible", "metadata")
    if rest := {key: value for key, value in data.items() if key not in known}:
        conversation.extra[KEY] = rest


def texts(data: Mapping[str, Json]) -> list[str]:
    """Return all texts of a history, those of other versions too. Raises FormatProblem for invalid content."""
    found = [text for row in rows_of(data) for text in row if text != GREETING]
    metadata = data.get("metadata")
    for about in metadata.values() if isinstance(metadata, dict) else ():
        versions = about.get("versions") if isinstance(about, dict) else None
        if isinstance(versions, list):
            found += [version["content"] for version in versions if _is_version(version)]
    return found


def rows_of(data: Mapping[str, Json], key: str = "internal", old_key: str = "data") -> list[tuple[str, str]]:
    """Return the rows of a history. Raises FormatProblem if they are not pairs of texts."""
    rows = data.get(key, data.get(old_key))
    if not isinstance(rows, list):
        raise FormatProblem("it has no messages that this program knows", "其中没有本程序认识的消息")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 2 or not all(isinstance(text, str) for text in row):
            raise FormatProblem(f"row {number} is not a pair of texts", f"第 {number} 行不是一对文本")
    return [(question, answer) for question, answer in rows]


class _Parser:
    def __init__(self, conversation: Conversation, data: Mapping[str, Json], put: Put) -> None:
        self.conversation = conversation
        self.put = put
        self.rows = rows_of(data)
        metadata = data.get("metadata")
        self.metadata: Mapping[str, Json] = metadata if isinstance(metadata, dict) else {}
        self.visible: list[tuple[str, str]] = []
        with contextlib.suppress(FormatProblem):
            self.visible = rows_of(data, "visible", "data_visible")

    def add_rows(self) -> None:
        for number, (question, answer) in enumerate(self.rows):
            asked = question != GREETING and (question != "" or self._has_more("user", number))
            if asked:
                self._add_versions("user", number, question, {})
            if answer != "" or question == GREETING or not asked or self._has_more("assistant", number):
                expected = self._implied_question() if not asked else question
                self._add_versions("assistant", number, answer, {} if expected == question else {"question": question})

    def _implied_question(self) -> str | None:
        """Return the question that `to_original` gives an answer without one; None if it would take the last one."""
        last = self.conversation.messages.get(self.conversation.current)
        if last is None:
            return GREETING
        return "" if last.role == "assistant" else None

    def _has_more(self, role: str, number: int) -> bool:
        return bool({"versions", "attachments", "tool_sequence"} & self._about(role, number).keys())

    def _about(self, role: str, number: int) -> dict[str, Json]:
        about = self.metadata.get(f"{role}_{number}")
        return about if isinstance(about, dict) else {}

    def _add_versions(self, role: str, number: int, text: str, marks: dict[str, Json]) -> None:
        """Add all versions of one cell of a row, and show the one that has its `text`."""
        about = self._about(role, number)
        column = 0 if role == "user" else 1
        visible = self.visible[number][column] if number < len(self.visible) else html.escape(text)
        shared = {key: value for key, value in about.items() if key not in ("versions", "current_version_index")}
        stored = about.get("versions")
        versions = [version for version in stored if _is_version(version)] if isinstance(stored, list) else []
        cell = {"content": text, "visible_content": visible, **shared}
        current = _current_version(versions, about.get("current_version_index"), text)
        if current is None:
            versions, current = [*versions, cell], len(versions)
        parent = self.conversation.current
        ids = [
            self._add(role, parent, (cell if position == current else self._of_version(version, shared)), marks)
            for position, version in enumerate(versions)
        ]
        self.conversation.select(ids[current])

    @staticmethod
    def _of_version(version: Mapping[str, Json], shared: Mapping[str, Json]) -> dict[str, Json]:
        """Return what is known of another version: its own facts, and the files, which belong to all versions."""
        return dict(version) | {key: value for key, value in shared.items() if key == "attachments"}

    def _add(self, role: str, parent: str, facts: Mapping[str, Json], marks: dict[str, Json]) -> str:
        text, visible = facts["content"], facts.get("visible_content")
        rest = {key: value for key, value in facts.items() if key not in ("content", "visible_content")} | marks
        created = parse_timestamp(rest.get("timestamp"))
        if created:
            del rest["timestamp"]
        reasoning, answer = split_thought(text) if role == "assistant" else ("", text)
        translated = isinstance(visible, str) and visible not in (
            html.escape(text),
            html.escape(text, quote=False),
            text,
        )
        if translated:
            rest["visible"] = visible
        if translated or text != _joined(reasoning, answer):
            rest["content"] = text
        attachments = rest.get("attachments")
        files = _attachments(attachments, self.put) if isinstance(attachments, list) else None
        if files is not None:
            del rest["attachments"]
        id = f"{len(self.conversation.messages) + 1:08x}"  # the same whenever the file is read
        extra = {KEY: rest} if rest else {}
        self.conversation.add(
            role, answer, parent, id, reasoning=reasoning, created=created, attachments=files or (), extra=extra
        )
        return id


def _is_version(version: Json) -> bool:
    return isinstance(version, dict) and isinstance(version.get("content"), str)


def _current_version(versions: list[dict[str, Json]], index: Json, text: str) -> int | None:
    """Return which version has the `text` of the row: the one at `index` if that is true of it, else the last one."""
    equal = [position for position, version in enumerate(versions) if version["content"] == text]
    return index if index in equal else next(reversed(equal), None)


def parse_timestamp(text: Json) -> float:
    """Return the time of a timestamp such as "May 03, 2026 14:05" in seconds since the epoch, 0 for other texts."""
    match = _WRITTEN.fullmatch(text) if isinstance(text, str) else None
    if not match or match[1] not in _MONTHS:
        return 0.0
    day, year, hour, minute = map(int, match.groups()[1:])
    with contextlib.suppress(ValueError, OverflowError):
        return time.mktime((year, _MONTHS.index(match[1]) + 1, day, hour, minute, 0, 0, 0, -1))
    return 0.0


def _attachments(items: list[Json], put: Put) -> tuple[Attachment, ...] | None:
    """Return the files of a message, None if one of them has an unknown form."""
    found = []
    for item in items:
        attachment = _attachment(item, put) if isinstance(item, dict) else None
        if attachment is None:
            return None
        found.append(attachment)
    return tuple(found)


def _attachment(item: dict[str, Json], put: Put) -> Attachment | None:
    name, text, image = item.get("name"), item.get("content"), item.get("image_data")
    extra = {KEY: {key: value for key, value in item.items() if key not in ("name", "content", "image_data")}}
    if not isinstance(name, str):
        return None
    if isinstance(text, str):
        content = text.encode("utf-8", "surrogatepass")
        return Attachment(name, "text", put(content), len(content), text, extra)
    if not isinstance(image, str) or (prefix := _DATA_URI.match(image)) is None:
        return None
    try:
        content = base64.b64decode(image[prefix.end() :], validate=True)
    except binascii.Error:
        return None
    return Attachment(name, _IMAGE, put(content), len(content), extra=extra | {"media_type": prefix[1]})


# -- writing -----------------------------------------------------------------------------------------------------------


def to_original(conversation: Conversation, get: Get) -> dict[str, Json]:
    """Return the path that is shown as a history of the original, with the other versions of its messages.

    What follows other versions has no form in a history. `get` returns the content of an attachment or raises KeyError.
    """
    rows: list[list[str]] = []
    visible: list[list[str]] = []
    metadata: dict[str, Json] = {}
    last: ChatMessage | None = None
    for message in conversation.path():
        question = _question_before(message, last)
        if question is not None:
            rows.append([question, ""])
            visible.append([_visible_question(question), ""])
        elif message.role == "user":
            rows.append(["", ""])
            visible.append(["", ""])
        column = 0 if message.role == "user" else 1
        rows[-1][column] = content_of(message)
        visible[-1][column] = _visible(message)
        if about := _metadata(conversation, message, get):
            metadata[f"{message.role}_{len(rows) - 1}"] = about
        last = message
    return {**_kept(conversation), "internal": rows, "visible": visible, "metadata": metadata}


def _question_before(message: ChatMessage, last: ChatMessage | None) -> str | None:
    """Return the question of the row that an answer begins; None for questions and for answers to the last one."""
    if message.role == "user":
        return None
    marked = _kept(message).get("question")
    if isinstance(marked, str):
        return marked
    if last is None:
        return GREETING
    return "" if last.role == "assistant" else None


def _visible_question(question: str) -> str:
    return "" if question == GREETING else html.escape(question)


def content_of(message: ChatMessage) -> str:
    """Return the text of a message with its thought: as it was read, unless it has been changed."""
    content = _kept(message).get("content")
    return (
        content if isinstance(content, str) and _is_unchanged(message) else _joined(message.reasoning, message.content)
    )


def _visible(message: ChatMessage) -> str:
    visible = _kept(message).get("visible")
    return visible if isinstance(visible, str) and _is_unchanged(message) else html.escape(content_of(message))


def _is_unchanged(message: ChatMessage) -> bool:
    content = _kept(message).get("content")
    expected = (message.reasoning, message.content)
    return isinstance(content, str) and expected in (("", content), split_thought(content))


def split_thought(text: str) -> tuple[str, str]:
    """Return the thought at the beginning of an answer, "" if there is none, and what follows it.

    The opening marker is missing in answers to prompts that ended with it.
    """
    reasoning, answer = _split(text, inside=False)
    if not reasoning and _THINK.close in text and _THINK.open not in text:
        thought, rest = _split(text, inside=True)
        if rest:
            return thought, rest
    return reasoning, answer


def _split(text: str, inside: bool) -> tuple[str, str]:
    parser = ReasoningParser(KNOWN_MARKERS, inside)
    pieces = [*parser.feed(text), *parser.end()]
    parts = ["".join(piece for kind, piece in pieces if kind == wanted) for wanted in (REASONING, TEXT)]
    return (parts[0], parts[1]) if parts[0] else ("", text)


def _joined(reasoning: str, content: str) -> str:
    return f"{_THINK.open}\n{reasoning}\n{_THINK.close}\n\n{content}" if reasoning else content


def _metadata(conversation: Conversation, message: ChatMessage, get: Get) -> dict[str, Json]:
    about = _facts(message)
    if message.attachments:
        about["attachments"] = [_attachment_json(attachment, get) for attachment in message.attachments]
    versions = [conversation.messages[id] for id in conversation.versions(message.id)]
    versions = [version for version in versions if version.role == message.role]
    if len(versions) > 1:
        about["versions"] = [
            {"content": content_of(version), "visible_content": _visible(version), "timestamp": "", **_facts(version)}
            for version in versions
        ]
        about["current_version_index"] = versions.index(message)
    return about


def _facts(message: ChatMessage) -> dict[str, Json]:
    facts = {key: value for key, value in _kept(message).items() if key not in _MARKS}
    if message.created:
        facts["timestamp"] = format_timestamp(message.created)
    return facts


def _kept(item: ChatMessage | Attachment | Conversation) -> dict[str, Json]:
    kept = item.extra.get(KEY)
    return kept if isinstance(kept, dict) else {}


def format_timestamp(seconds: float) -> str:
    """Return a time in the form that `parse_timestamp` reads, whatever the locale."""
    at = time.localtime(seconds)
    return f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:02}, {at.tm_year} {at.tm_hour:02}:{at.tm_min:02}"


def _attachment_json(attachment: Attachment, get: Get) -> dict[str, Json]:
    kept = _kept(attachment)
    if attachment.kind != _IMAGE:
        return {"name": attachment.name, "type": "text/plain", "content": attachment.text, **kept}
    try:
        content = get(attachment.sha256)
    except KeyError:  # the rest of the conversation can be exported without it
        content = b""
    uri = f"data:{attachment.extra.get('media_type', 'image/png')};base64,{base64.b64encode(content).decode()}"
    return {"name": attachment.name, "type": _IMAGE, "image_data": uri, **kept}
