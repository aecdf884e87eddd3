"""Read files that users attach to messages: text files and the headers of pictures here, PDF and Word files in a child
process with limits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from modules.chat.errors import ImageRefused
from modules.chat.images import check_image
from modules.chat.pictures import IMAGE
from modules.conversations.attachments import (
    MAX_TEXT_BYTES,
    TOO_LARGE,
    decode_text,
    safe_name,
)
from modules.conversations.conversation import Attachment
from modules.conversations.errors import AttachmentRefused
from modules.core.errors import Words
from modules.system.limited_process import OUT_OF_MEMORY, OUTPUT_TOO_LARGE, LimitedProcess, Limits, ProcessEnded

MAX_FILE_BYTES = 20 << 20
SECONDS = 20
MEMORY_BYTES = 1 << 30
"""The limits of one PDF or Word file."""

_PROGRAM = Path(__file__).with_name("document_child.py")
_PROCESSES = threading.Semaphore(2)
_OUTPUT_BYTES = 2 * MAX_TEXT_BYTES + 100  # in JSON, quotation marks and line breaks have two bytes

_PDF = re.compile(rb"(\xef\xbb\xbf)?\s*%PDF-")
_ZIP = b"PK\x03\x04"
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")

_FILE_TOO_LARGE: Words = {
    "en": f"the file has more than {MAX_FILE_BYTES >> 20} MB",
    "zh": f"文件超过 {MAX_FILE_BYTES >> 20} MB",
}
_OFFICE: Words = {
    "en": "it is an old Office file, or one with a password. Save it as .docx without a password and try again",
    "zh": "它是旧版 Office 文件或设有密码，请另存为不带密码的 .docx 后重试",
}
_DAMAGED: Words = {"en": "the file is damaged", "zh": "文件已损坏"}
_OUT_OF_TIME: Words = {
    "en": f"reading it took more than {SECONDS} seconds",
    "zh": f"读取时间超过 {SECONDS} 秒",
}
_ENDED: Mapping[int, Words] = {
    OUT_OF_MEMORY: {
        "en": f"reading it took more than {MEMORY_BYTES >> 30} GB of memory",
        "zh": f"读取所需内存超过 {MEMORY_BYTES >> 30} GB",
    },
    OUTPUT_TOO_LARGE: TOO_LARGE,
}
PROBLEMS: Mapping[str, Words] = {
    "damaged": _DAMAGED,
    "too large": TOO_LARGE,
    "encrypted": {
        "en": "it is protected by a password. Save a copy without one and try again",
        "zh": "文件受密码保护，请保存一份不带密码的副本后重试",
    },
    "no text": {
        "en": "it contains no text. If its pages are scanned, run text recognition (OCR) first",
        "zh": "文件中没有文字；如果是扫描件，请先进行文字识别（OCR）",
    },
    "no document": {
        "en": "of files in this format, only Word documents (.docx) can be read",
        "zh": "此类压缩格式的文件中，只能读取 Word 文档（.docx）",
    },
}
"""What `document_child.py` reports."""


def read_attachment(name: str, data: bytes) -> Attachment:
    """Return a file as an attachment, with its text unless it is a picture.

    Its content decides how it is read, not its name. It may take SECONDS. Raises AttachmentRefused.
    """
    shown = safe_name(name)
    if data.startswith(_PICTURES) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return Attachment(shown, IMAGE, _checked_picture(shown, data), len(data))
    return Attachment(shown, "text", hashlib.sha256(data).hexdigest(), len(data), _read_text(shown, data))


def _checked_picture(name: str, data: bytes) -> str:
    """Return the SHA-256 of a picture that models read."""
    try:
        return check_image(data).id
    except ImageRefused as refused:
        raise AttachmentRefused(name, refused.reason) from None


def _read_text(name: str, data: bytes) -> str:
    if len(data) > MAX_FILE_BYTES:
        raise AttachmentRefused(name, _FILE_TOO_LARGE)
    if _PDF.match(data):
        return _read_document(name, "pdf", data)
    if data.startswith(_ZIP):
        return _read_document(name, "docx", data)
    if data.startswith(_OLD_OFFICE):
        raise AttachmentRefused(name, _OFFICE)
    return decode_text(name, data)


def _read_document(name: str, kind: str, data: bytes) -> str:
    request = json.dumps([kind, base64.b64encode(data).decode()]).encode() + b"\n"
    with _PROCESSES:
        process = LimitedProcess(_PROGRAM, Limits(SECONDS, MEMORY_BYTES, _OUTPUT_BYTES))
        try:
            result, text = json.loads(process.ask(request))
        except ProcessEnded as ended:
            reason = _OUT_OF_TIME if ended.timed_out else _ENDED.get(ended.code, _DAMAGED)
            raise AttachmentRefused(name, reason) from None
        finally:
            process.kill()
    if result == "problem":
        raise AttachmentRefused(name, PROBLEMS[text])
    return str(text)
