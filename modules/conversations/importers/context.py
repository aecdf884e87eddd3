"""State of one import: the limits, the attachments found, and what could not be taken over."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from modules.conversations.attachments import safe_name
from modules.conversations.conversation import Attachment, Conversation
from modules.conversations.errors import ImportRefused
from modules.conversations.importers.values import as_line
from modules.core.errors import Words

MAX_MESSAGES = 100_000
MAX_CONVERSATIONS = 20_000
MAX_IMAGE_BYTES = 20_000_000
MAX_PROBLEMS = 100
UNTITLED: Words = {"en": "Untitled", "zh": "未命名"}

LOSSES: dict[str, Words] = {
    "tools": {
        "en": "tool calls and results that are kept in the file but not shown: {count}",
        "zh": "工具调用及其结果 {count} 条，保留在文件中但不显示",
    },
    "files": {
        "en": "images or attachments that the file does not contain: {count}",
        "zh": "文件中未包含的图片或附件 {count} 个",
    },
    "system": {
        "en": "further system messages that are kept in the file but not used: {count}",
        "zh": "其余系统消息 {count} 条，保留在文件中但不使用",
    },
    "hidden": {
        "en": "messages left out because the other program does not show them either: {count}",
        "zh": "原程序本身也不显示的消息 {count} 条，已略去",
    },
    "unhidden": {
        "en": "messages that SillyTavern hid from the model and that it will see now: {count}",
        "zh": "在 SillyTavern 中对模型隐藏、现在会发送给模型的消息 {count} 条",
    },
    "unreadable": {
        "en": "messages or parts of them that could not be read: {count}",
        "zh": "无法读取的消息或消息片段 {count} 处",
    },
    "orphans": {
        "en": "messages whose predecessor is missing, moved to the beginning: {count}",
        "zh": "缺少上一条消息、已移到开头的消息 {count} 条",
    },
    "duplicates": {
        "en": "messages with an id that another one has as well: {count}",
        "zh": "编号与其他消息重复的消息 {count} 条",
    },
}
"""What a conversation can lose when it is imported, in the order in which it is reported."""

_IMAGE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")

Losses = Counter[str]
"""How often something of LOSSES has happened in one conversation."""


@dataclass
class ImportContext:
    """`find_file` returns a file of the same archive whose name begins so, or None."""

    name: str
    find_file: Callable[[str], bytes | None] = lambda _: None
    conversations: list[Conversation] = field(default_factory=list)
    problems: list[Words] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    _messages: int = 0

    def refused(self, en: str, zh: str) -> ImportRefused:
        return ImportRefused(as_line(self.name) or "?", {"en": en, "zh": zh})

    def report(self, en: str, zh: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"en": en, "zh": zh})
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append({"en": "There are more problems of this kind.", "zh": "还有更多类似的问题。"})

    def report_losses(self, title: str, losses: Losses) -> None:
        """Report in one sentence what a conversation has lost."""
        found = [(words, losses[kind]) for kind, words in LOSSES.items() if losses[kind]]
        if found:
            en = "; ".join(words["en"].format(count=count) for words, count in found)
            zh = "；".join(words["zh"].format(count=count) for words, count in found)
            self.report(f"“{title or UNTITLED['en']}”: {en}.", f"“{title or UNTITLED['zh']}”：{zh}。")

    def check_messages(self, count: int) -> None:
        """Count messages before they are read. Raises ImportRefused if the file has too many."""
        self._messages += count
        self.check_entries(self._messages)

    def check_entries(self, count: int) -> None:
        """Check the number of messages, or of entries that may be messages. Raises ImportRefused."""
        if count > MAX_MESSAGES:
            raise self.refused(
                f"it has more than {MAX_MESSAGES:,} messages. Split it into smaller files.",
                f"其中的消息超过 {MAX_MESSAGES:,} 条，请拆分后再导入。",
            )

    def add(self, conversation: Conversation) -> None:
        """Take over a conversation. Raises ImportRefused if the file has too many."""
        if len(self.conversations) == MAX_CONVERSATIONS:
            raise self.refused(
                f"it has more than {MAX_CONVERSATIONS:,} conversations. Split it into smaller files.",
                f"其中的对话超过 {MAX_CONVERSATIONS:,} 个，请拆分后再导入。",
            )
        self.conversations.append(conversation)

    def attach_text(self, name: str, text: str) -> Attachment:
        data = text.encode("utf-8")
        return Attachment(safe_name(name), "text", self.put(data), len(data), text)

    def attach_image(self, name: str, data: bytes | None) -> Attachment | None:
        """Take over an image. None if the bytes are missing, too many, or not PNG, JPEG, GIF or WebP."""
        if not data or len(data) > MAX_IMAGE_BYTES:
            return None
        if not data.startswith(_IMAGE_SIGNATURES) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
            return None
        return Attachment(safe_name(name), "image", self.put(data), len(data))

    def put(self, data: bytes) -> str:
        """Take over the bytes of an attachment; return their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.files[sha256] = data
        return sha256


def bytes_of_data_uri(uri: str) -> bytes | None:
    """Return the bytes of a base64 `data:` URI; None for other addresses."""
    head, comma, body = uri.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
