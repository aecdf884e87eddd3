"""Text files as attachments of messages: their names, their encodings, and how a model reads them."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter

from modules.conversations.conversation import Attachment, ChatMessage
from modules.conversations.errors import AttachmentRefused
from modules.core.errors import Words

MAX_TEXT_BYTES = 2 << 20
MAX_NAME_CHARACTERS = 200

_MARKED = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_UNMARKED = ("utf-8", "gb18030")
_INVISIBLE = {"Cc", "Cf", "Cs"}  # categories: controls, marks such as those that reverse text, lone surrogates
_NO_CHARACTER = {"Cn", "Co"}  # unassigned, private use
_MAX_EXTENSION = 20
_BACKTICKS = re.compile("`+")

TOO_LARGE: Words = {
    "en": f"its text has more than {MAX_TEXT_BYTES >> 20} MB",
    "zh": f"文本超过 {MAX_TEXT_BYTES >> 20} MB",
}
_BINARY: Words = {"en": "it is not a text file", "zh": "它不是文本文件"}
_UNKNOWN_ENCODING: Words = {
    "en": "its encoding was not recognized. Save it as UTF-8 and try again",
    "zh": "无法识别文本编码，请另存为 UTF-8 后重试",
}
_EMPTY: Words = {"en": "it contains no text", "zh": "文件中没有文字"}


def safe_name(name: str) -> str:
    """Return the last part of a file name that a client sent, shortened and without invisible characters."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    visible = (char for char in last if char.isspace() or unicodedata.category(char) not in _INVISIBLE)
    words = " ".join("".join(visible).split())
    if not words.strip(". "):
        return "file"
    if len(words) <= MAX_NAME_CHARACTERS:
        return words
    _, dot, extension = words.rpartition(".")
    ending = "…" + dot + extension if dot and len(extension) <= _MAX_EXTENSION else "…"
    return words[: MAX_NAME_CHARACTERS - len(ending)] + ending


def decode_text(name: str, data: bytes) -> str:
    """Return the text of a file in UTF-8, UTF-16 with a byte order mark, or GB18030, with line breaks of Unix.

    Raises AttachmentRefused for other files.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise AttachmentRefused(name, TOO_LARGE)
    marked = next((encoding for mark, encoding in _MARKED.items() if data.startswith(mark)), "")
    if not marked and b"\0" in data:
        raise AttachmentRefused(name, _BINARY)
    decoded = (_decode(data, encoding) for encoding in ((marked,) if marked else _UNMARKED))
    text = next((text for text in decoded if text is not None), None)
    if text is None:
        raise AttachmentRefused(name, _UNKNOWN_ENCODING)
    if "\0" in text:
        raise AttachmentRefused(name, _BINARY)
    if not text.strip():
        raise AttachmentRefused(name, _EMPTY)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return text if encoding != "gb18030" or _is_plausible(text) else None


def _is_plausible(text: str) -> bool:
    """Whether text that was decoded as GB18030 was probably written in it.

    Files of other encodings often decode without an error. Big5 leads to characters of private use. In Latin-1 most
    accented letters stand before an ASCII letter, which becomes a second byte; frequent Chinese characters have no
    such second byte.
    """
    counts = Counter(text)
    if any(unicodedata.category(char) in _NO_CHARACTER for char in counts):
        return False
    beyond_ascii = {char: count for char, count in counts.items() if char > "\x7f"}
    rare = sum(count for char, count in beyond_ascii.items() if char.encode("gb18030")[1] < 0x80)
    return rare * 2 <= sum(beyond_ascii.values())


def message_text(message: ChatMessage) -> str:
    """Return a message as the model reads it: the text of its attachments, each in a fence, and then its content.

    Pictures are left out.
    """
    quoted = [_quote(attachment) for attachment in message.attachments if attachment.kind == "text"]
    return "\n\n".join([*quoted, message.content] if message.content else quoted)


def _quote(attachment: Attachment) -> str:
    longest = max(map(len, _BACKTICKS.findall(attachment.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{safe_name(attachment.name)}:", fence, attachment.text.removesuffix("\n"), fence])
