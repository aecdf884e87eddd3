"""Import conversations from a file, whose format is recognized by its content."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modules.conversations.importers import (
    chatgpt,
    llama_server,
    lm_studio,
    open_webui,
    own,
    plain_messages,
    silly_tavern,
)
from modules.conversations.importers.archive import Archive, ArchiveProblem, is_archive
from modules.conversations.importers.context import ImportContext
from modules.conversations.importers.message_tree import Header
from modules.conversations.importers.result import ImportResult
from modules.conversations.importers.values import as_line, parse_json
from modules.core.events import Json

MAX_FILE_BYTES = 50_000_000
MAX_BRACKETS = 2_000_000
"""Objects and lists in a file, which need much more memory than their text."""

_SUFFIXES = (".json", ".jsonl")
_COMPANIONS = (
    "user.json", "user_settings.json", "message_feedback.json", "shared_conversations.json", "model_comparisons.json",
    "group_chats.json", "export_manifest.json", "shopping.json", "sora.json",
)  # fmt: skip
"""Other files of ChatGPT's archive."""


@dataclass(frozen=True)
class _Format:
    matches: Callable[[Mapping[str, Json]], bool]
    read: Callable[[ImportContext, Mapping[str, Json]], None]


@dataclass(frozen=True)
class _LineFormat:
    matches: Callable[[Mapping[str, Json]], bool]
    read: Callable[[ImportContext, Sequence[Mapping[str, Json]]], None]


_FORMATS = (
    _Format(own.matches, own.read),
    _Format(chatgpt.matches, chatgpt.read),
    _Format(open_webui.matches, open_webui.read),
    _Format(llama_server.matches, llama_server.read),
    _Format(own.matches_original, own.read_original),
    _Format(lm_studio.matches, lm_studio.read),
    _Format(plain_messages.matches, plain_messages.read),
)
"""The formats of a JSON object with a whole conversation, most specific first."""
_LINES = (
    _LineFormat(llama_server.matches_line, llama_server.read_lines),
    _LineFormat(silly_tavern.matches_line, silly_tavern.read_lines),
    _LineFormat(
        plain_messages.is_message, lambda context, records: plain_messages.read_messages(context, Header(), records)
    ),
)
"""The formats in which a conversation is a list or lines, recognized by the first of them."""


def import_file(name: str, data: bytes) -> ImportResult:
    """Return the conversations in a file: JSON, JSON lines, or a zip archive of such files.

    Raises ImportRefused if it has no conversation, or too many.
    """
    context = ImportContext(name)
    if len(data) > MAX_FILE_BYTES:
        raise context.refused(
            f"it has more than {MAX_FILE_BYTES // 1_000_000} MB. Split it into smaller files.",
            f"文件超过 {MAX_FILE_BYTES // 1_000_000} MB，请拆分后再导入。",
        )
    if is_archive(data):
        _read_archive(context, data)
    else:
        try:
            recognized = _read_documents(context, _parse(context, data))
        except _Unreadable as problem:
            raise context.refused(f"{problem.words['en']}.", f"{problem.words['zh']}。") from None
        if not recognized:
            raise context.refused("its format is not known.", "无法识别其格式。")
    if not context.conversations and not context.problems:
        raise context.refused("it has no conversation with a message.", "其中没有含消息的对话。")
    return ImportResult(context.conversations, context.problems, context.files)


class _Unreadable(Exception):
    """A file that is not JSON. `words` is the end of a sentence."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.words = {"en": en, "zh": zh}


def _read_archive(context: ImportContext, data: bytes) -> None:
    try:
        archive = Archive(data)
    except ArchiveProblem as problem:
        raise context.refused(f"{problem.words['en']}.", f"{problem.words['zh']}。") from None
    context.find_file = archive.find
    archive_name, others = context.name, []
    for name in archive.names(*_SUFFIXES):
        context.name = name
        try:
            if not _read_documents(context, _parse(context, archive.read(name))):
                others.append(as_line(name))
        except _Unreadable as problem:
            shown = as_line(name)
            context.report(f"{shown}: {problem.words['en']}.", f"{shown}：{problem.words['zh']}。")
    context.name = archive_name
    others = [name for name in others if name.rpartition("/")[2] not in _COMPANIONS]
    if others:
        shown = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
        context.report(f"These files are not conversations: {shown}.", f"以下文件不是对话：{shown}。")


# -- one file ----------------------------------------------------------------------------------------------------------


def _parse(context: ImportContext, data: bytes | None) -> list[Json]:
    """Return the values of a JSON list, or those of JSON lines, or the one value. Raises _Unreadable."""
    if data is None:
        raise _Unreadable("it is damaged or encrypted", "文件已损坏或已加密")
    if data.count(b"{") + data.count(b"[") > MAX_BRACKETS:
        raise _Unreadable(
            f"it has more than {MAX_BRACKETS:,} brackets; split it into smaller files",
            f"其中的括号超过 {MAX_BRACKETS:,} 个，请拆分后再导入",
        )
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        raise _Unreadable("it is not a text file", "它不是文本文件") from None
    try:
        value = parse_json(text)
    except RecursionError:
        raise _Unreadable("its values are nested too deeply", "其中的数据嵌套过深") from None
    except ValueError as error:
        return _parse_lines(context, text, error)
    return value if isinstance(value, list) else [value]


def _parse_lines(context: ImportContext, text: str, error: ValueError) -> list[Json]:
    """Return the values of JSON lines; `error` is why the text is not JSON as a whole."""
    values: list[Json] = []
    broken: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                values.append(parse_json(line))
            except (ValueError, RecursionError):
                broken.append(number)
        context.check_entries(len(values))
        if len(broken) > len(values):
            break
    if not values or len(broken) > len(values):
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "?"
        position = f"第 {error.lineno} 行第 {error.colno} 列" if isinstance(error, json.JSONDecodeError) else "?"
        raise _Unreadable(f"it is not valid JSON ({where})", f"它不是有效的 JSON（{position}）")
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (" …" if len(broken) > 5 else "")
        context.report(f"Lines that are not valid JSON were left out: {shown}.", f"已略去不是有效 JSON 的行：{shown}。")
    return values


def _read_documents(context: ImportContext, values: list[Json]) -> bool:
    """Read all conversations among the values of a file. Returns whether the format of any was recognized."""
    context.check_entries(len(values))
    records = [value for value in values if isinstance(value, dict)]
    if not records:
        return False
    for lines in _LINES:
        if lines.matches(records[0]):
            lines.read(context, records)
            return True
    unknown = 0
    for record in records:
        found = next((known for known in _FORMATS if known.matches(record)), None)
        if found:
            found.read(context, record)
        else:
            unknown += 1
    if 0 < unknown < len(records):
        context.report(
            f"Entries in an unknown format were left out: {unknown}.", f"已略去 {unknown} 个格式不明的条目。"
        )
    return unknown < len(records)
