"""Read a file of a conversation, whichever format it has."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from modules.conversations import file_format, ids, original
from modules.conversations.conversation import ROOT, Conversation
from modules.conversations.errors import InvalidConversation
from modules.conversations.file_format import FormatProblem
from modules.conversations.folder import Folder, Stamp
from modules.conversations.titles import derive_title, printable
from modules.core.errors import Words
from modules.core.events import Json

MAX_BYTES = 100_000_000
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # perhaps of a whole pair


@dataclass(frozen=True)
class Summary:
    """The entry of a conversation in the list. Times are seconds since the epoch.

    `title` is derived from the first question if none was given. `count` is the number of messages, of all versions.
    `problem` says why the file cannot be opened, or not changed, as the end of a sentence. `snippet` surrounds what was
    searched for. `deleted` is when it was moved to the bin, 0 if it is not in it.
    """

    id: str
    title: str
    updated: float
    created: float
    rev: int = 0
    pinned: bool = False
    mode: str = ""
    character: str = ""
    count: int = 0
    problem: Words | None = None
    snippet: str = ""
    deleted: float = 0.0


@dataclass(frozen=True)
class Opened:
    """A conversation of a file. `foreign` if another program wrote it; `problem` says why it must not be changed."""

    conversation: Conversation
    foreign: bool = False
    problem: Words | None = None


def read_content(folder: Folder, path: PurePosixPath, stamp: Stamp) -> bytes:
    """Return the content of a file. Raises InvalidConversation if it is too large, and OSError."""
    if stamp.size > MAX_BYTES:
        size = f"{stamp.size // 1_000_000} MB"
        raise InvalidConversation(path.name, {"en": f"it is too large ({size})", "zh": f"文件过大（{size}）"})
    return folder.read(path)


def unreadable(error: OSError) -> Words:
    """Return why a file cannot be read, as the end of a sentence."""
    reason = error.strerror or str(error)
    return {"en": f"it cannot be read ({reason})", "zh": f"无法读取（{reason}）"}


def open_conversation(id: str, path: PurePosixPath, content: bytes, modified: float, put: original.Put) -> Opened:
    """Parse the content of the file at `path`, changed at `modified`. Raises InvalidConversation."""
    try:
        data = load_json(content)
        if file_format.is_own(data):
            with _blamed_on_the_version(data):
                return Opened(file_format.from_json(id, data), problem=file_format.newer_version(data))
        conversation = Conversation(id, **_foreign_fields(path, data, modified))
        original.parse(conversation, data, put)
        return Opened(conversation, foreign=True)
    except FormatProblem as problem:
        raise InvalidConversation(printable(path.name), problem.words) from None


def summarize(id: str, path: PurePosixPath, content: bytes, modified: float) -> Summary:
    """Return what the list shows of the file at `path`; for a damaged one, with its problem."""
    try:
        data = load_json(content)
        if file_format.is_own(data):
            with _blamed_on_the_version(data):
                return _summarize_own(id, data)
        fields = _foreign_fields(path, data, modified)
        title = fields.pop("title") or derive_title([original.first_question(data)])
        return Summary(id, title, count=original.count_texts(data), **fields)
    except FormatProblem as problem:
        return damaged(id, path, modified, problem.words)


def damaged(id: str, path: PurePosixPath, modified: float, problem: Words) -> Summary:
    """Return what the list shows of a file that cannot be read."""
    return Summary(id, printable(path.name), modified, modified, problem=problem)


def summary_of(conversation: Conversation) -> Summary:
    """Return what the list shows of a conversation."""
    return _summary(conversation, title_of(conversation), len(conversation.messages))


def _summary(head: Conversation, title: str, count: int, problem: Words | None = None) -> Summary:
    return Summary(
        head.id, title, head.updated, head.created, head.rev, head.pinned, head.mode, head.character, count, problem
    )


def title_of(conversation: Conversation) -> str:
    """Return the title that was given, or one that is derived from the first question that is shown."""
    messages = (conversation.messages[id] for id in _shown_ids(conversation.shown))
    questions = (message for message in messages if message.role == "user")
    texts = (text for one in questions for text in (one.content, *(file.name for file in one.attachments)))
    return printable(conversation.title) or derive_title(texts)


def texts(content: bytes) -> list[str]:
    """Return the texts of all messages in a file, and the names of their attachments; none if it is damaged."""
    try:
        data = load_json(content)
        if not file_format.is_own(data):
            return original.texts(data)
        messages = data.get("messages")
        bodies = messages.values() if isinstance(messages, dict) else ()
        return [text for body in bodies if isinstance(body, dict) for text in _texts_of(body)]
    except FormatProblem:
        return []


def load_json(content: bytes) -> Mapping[str, Json]:
    """Return the JSON object of a file that may be a conversation. Raises FormatProblem for anything else."""
    if not content.strip():
        raise FormatProblem("the file is empty", "文件是空的")
    try:
        text = content.decode("utf-8-sig")
        data = json.loads(text)
        if "\\u" in text and _HALF_PAIR.search(text):
            data = json.loads(file_format.without_surrogates(json.dumps(data, ensure_ascii=False)))
    except json.JSONDecodeError as error:
        raise FormatProblem(
            f"its JSON is damaged at line {error.lineno}, column {error.colno}",
            f"JSON 在第 {error.lineno} 行第 {error.colno} 列损坏",
        ) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of too many digits, or nested too deeply
        raise FormatProblem("it is not a JSON file", "不是 JSON 文件") from None
    if not isinstance(data, dict) or not (file_format.is_own(data) or original.is_original(data)):
        raise FormatProblem("it has no messages that this program knows", "其中没有本程序认识的消息")
    return data


def _summarize_own(id: str, data: Mapping[str, Json]) -> Summary:
    head = file_format.head_from_json(id, data)
    messages = data.get("messages", {})
    bodies = (messages.get(id) for id in _shown_ids(head.shown))
    questions = (body for body in bodies if isinstance(body, dict) and body.get("role") == "user")
    title = printable(head.title) or derive_title(text for body in questions for text in _texts_of(body))
    return _summary(head, title, len(messages), file_format.newer_version(data))


def _texts_of(body: Mapping[str, Json]) -> list[str]:
    """Return the text of a message and the names of its attachments."""
    files = body.get("attachments")
    names = [file.get("name") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    return [text for text in (body.get("content"), *names) if isinstance(text, str)]


def _shown_ids(shown: Mapping[str, Json]) -> Iterator[str]:
    """Return the ids of the messages that are shown, the first one first."""
    at: Json = ROOT
    for _ in range(len(shown)):
        at = shown.get(at)
        if not isinstance(at, str):
            return
        yield at


@contextlib.contextmanager
def _blamed_on_the_version(data: Mapping[str, Json]) -> Iterator[None]:
    """Say that a newer program wrote the file, if that is so, instead of what cannot be read in it."""
    try:
        yield
    except FormatProblem:
        if newer := file_format.newer_version(data):
            raise FormatProblem(newer["en"], newer["zh"]) from None
        raise


def _foreign_fields(path: PurePosixPath, data: Mapping[str, Json], modified: float) -> dict[str, Json]:
    """Return what the name of a file of the original, and the times of its messages, say of the conversation."""
    stem = path.name.removesuffix(ids.SUFFIX)
    character = ids.character_of(path)
    metadata = data.get("metadata")
    facts = metadata.values() if isinstance(metadata, dict) else ()
    times = [original.parse_timestamp(about.get("timestamp")) for about in facts if isinstance(about, dict)]
    times = [time for time in times if time]
    return {
        "title": printable(stem) if ids.is_given_name(path) else "",
        "created": _time_of(stem) or min(times, default=modified),
        "updated": max(times, default=modified),
        "mode": "chat-instruct" if character else "instruct",
        "character": character,
    }


def _time_of(stem: str) -> float:
    """Return the time in the id of a conversation, 0 if there is none."""
    with contextlib.suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(stem[:17], "%Y%m%d-%H-%M-%S"))
    return 0.0
