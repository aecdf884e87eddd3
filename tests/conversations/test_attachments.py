"""Text files are decoded or refused, names made harmless, and attachments quoted for the model."""

from __future__ import annotations

import pytest

from modules.conversations.attachments import (
    MAX_NAME_CHARACTERS,
    MAX_TEXT_BYTES,
    decode_text,
    message_text,
    safe_name,
)
from modules.conversations.conversation import Attachment, ChatMessage
from modules.conversations.errors import AttachmentRefused

CHINESE = "鹅、大雁与天鹅：它们并不相同。\r\n第二行\rthird"


def test_texts_in_the_encodings_of_windows_and_of_unix_are_read(subtests: pytest.Subtests) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030"):
        with subtests.test(encoding):
            assert decode_text("a.txt", CHINESE.encode(encoding)) == "鹅、大雁与天鹅：它们并不相同。\n第二行\nthird"
    assert decode_text("a.txt", "﻿大雁".encode("utf-16-be")) == "大雁"
    assert decode_text("a.txt", "國際電話這裡".encode("gbk")) == "國際電話這裡"
    assert decode_text("a.txt", b"plain") == "plain"


REFUSED = {
    "binary": (b"\x7fELF\0\0\1", "not a text file"),
    "UTF-16 without a mark": ("text".encode("utf-16-le"), "not a text file"),
    "NUL in UTF-16": ("a\0b".encode("utf-16"), "not a text file"),
    "Latin-1": ("Schöne Gemüse über Österreich".encode("latin-1"), "Save it as UTF-8"),
    "Windows-1252": ("“déjà vu”".encode("cp1252"), "Save it as UTF-8"),
    "Big5": ("這是一個測試".encode("big5"), "Save it as UTF-8"),
    "broken UTF-16": (b"\xff\xfea", "Save it as UTF-8"),
    "empty": (b"", "contains no text"),
    "blank": (b"\xef\xbb\xbf \r\n", "contains no text"),
    "too large": (b"x" * (MAX_TEXT_BYTES + 1), "more than 2 MB"),
}


def test_other_files_are_refused_by_name_with_the_reason(subtests: pytest.Subtests) -> None:
    for case, (data, reason) in REFUSED.items():
        with subtests.test(case), pytest.raises(AttachmentRefused) as refused:
            decode_text("大雁.dat", data)
        assert reason in str(refused.value) and "大雁.dat" in refused.value.say("zh")


NAMES = {
    "报告 2024.txt": "报告 2024.txt",
    "C:\\Users\\me\\notes.md": "notes.md",
    "../../etc/passwd": "passwd",
    "a\u202etxt.exe": "atxt.exe",
    "two\nlines\t .txt": "two lines .txt",
    "cafe\u0301.txt": "café.txt",
    "\ud800\0": "file",
    "": "file",
    "..": "file",
    "<img src=x onerror=alert(1)>.md": "<img src=x onerror=alert(1)>.md",
}


def test_names_lose_folders_and_invisible_characters_and_keep_chinese_ones(subtests: pytest.Subtests) -> None:
    for name, expected in NAMES.items():
        with subtests.test(ascii(name)):
            assert safe_name(name) == expected


def test_long_names_are_shortened_and_keep_their_extension(subtests: pytest.Subtests) -> None:
    for name, ending in {"雁" * 300 + ".docx": "雁….docx", "x" * 300: "x…", "x." + "y" * 300: "y…"}.items():
        with subtests.test(name[-10:]):
            shortened = safe_name(name)
            assert len(shortened) == MAX_NAME_CHARACTERS and shortened.endswith(ending)
            assert safe_name(shortened) == shortened


def message(content: str, *attachments: Attachment) -> ChatMessage:
    return ChatMessage("1", "", "user", content, attachments=attachments)


def test_a_message_without_attachments_is_its_content() -> None:
    assert message_text(message(" as it is \n")) == " as it is \n"


def test_attachments_come_first_each_with_its_name_and_in_a_fence() -> None:
    notes = Attachment("notes.md", "text", "", 0, "one\n")
    code = Attachment("a\nb.py", "text", "", 0, "x = '````'")
    picture = Attachment("geese.png", "image", "", 0)
    expected = "notes.md:\n```\none\n```\n\na b.py:\n`````\nx = '````'\n`````"
    assert message_text(message("", notes, picture, code)) == expected
    assert message_text(message("Why?", notes, code)) == expected + "\n\nWhy?"
