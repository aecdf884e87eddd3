"""Export a conversation as a file."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass

from modules.conversations.conversation import Conversation
from modules.conversations.errors import UnknownExportFormat
from modules.conversations.exporters.blobs import ReadBlob
from modules.conversations.exporters.markdown import to_markdown
from modules.conversations.exporters.open_webui import to_open_webui
from modules.conversations.exporters.openai import to_openai
from modules.conversations.exporters.own import to_own
from modules.conversations.original import to_original
from modules.conversations.reader import title_of
from modules.core.events import Json

FORMATS = ("json", "original", "openwebui", "openai", "md")

_JSON_TYPE = "application/json"
_MAX_NAME_CHARACTERS = 80
_FORBIDDEN_IN_NAMES = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|\ud800-\udfff]+')


@dataclass(frozen=True)
class ExportedFile:
    """A file to download. `name` is safe on every system, but not limited to ASCII."""

    name: str
    media_type: str
    data: bytes


def export(conversation: Conversation, format: str, read_blob: ReadBlob, language: str = "en") -> ExportedFile:
    """Return the conversation as a file of one of FORMATS. `language` is that of the headings in Markdown.

    Raises UnknownExportFormat.
    """
    stem = _file_stem(title_of(conversation))
    match format:
        case "json":
            return ExportedFile(f"{stem}.json", _JSON_TYPE, to_own(conversation, read_blob))
        case "original":
            # The names of the original's histories are times.
            time_of_day = time.strftime("%Y%m%d-%H-%M-%S", time.localtime(conversation.created or None))
            history = to_original(conversation, lambda sha256: read_blob(sha256) or b"")
            return ExportedFile(f"{time_of_day}.json", _JSON_TYPE, _json(history))
        case "openwebui":
            chats = to_open_webui(conversation, read_blob)
            return ExportedFile(f"{stem}.open-webui.json", _JSON_TYPE, _json(chats))
        case "openai":
            return ExportedFile(f"{stem}.openai.json", _JSON_TYPE, _json(to_openai(conversation, read_blob)))
        case "md":
            text = to_markdown(conversation, language)
            return ExportedFile(f"{stem}.md", "text/markdown", text.encode("utf-8", "replace"))
    raise UnknownExportFormat(format, ", ".join(FORMATS))


def _json(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "replace")


def _file_stem(title: str) -> str:
    return _FORBIDDEN_IN_NAMES.sub(" ", title)[:_MAX_NAME_CHARACTERS].strip(" .") or "conversation"
