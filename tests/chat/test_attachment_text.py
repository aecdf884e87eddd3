"""Files become attachments by their content; documents are read in a process with limits."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modules.chat import attachment_text
from modules.chat.attachment_text import PROBLEMS, read_attachment
from modules.conversations.errors import AttachmentRefused
from tests.support.document_files import docx, locked_pdf, paragraph, pdf
from tests.support.pictures import picture


def test_the_content_of_a_file_decides_how_it_is_read() -> None:
    text = "%PDF is a format, 雁".encode("gbk")
    attachment = read_attachment("folder/notes.pdf", text)
    assert (attachment.name, attachment.kind, attachment.text) == ("notes.pdf", "text", "%PDF is a format, 雁")
    assert (attachment.sha256, attachment.size) == (hashlib.sha256(text).hexdigest(), len(text))
    assert read_attachment("大雁.txt", b"\n" + pdf("Geese")).text == "Geese"
    assert read_attachment("notes.txt", docx(paragraph('"' * 900))).text == '"' * 900


def reason(data: bytes) -> str:
    with pytest.raises(AttachmentRefused) as refused:
        read_attachment("a.txt", data)
    assert "a.txt" in refused.value.say("zh")
    return str(refused.value)


def test_pictures_are_known_by_their_content_and_checked_by_their_header() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        data = picture(kind)
        found = read_attachment("photo.txt", data)
        assert (found.name, found.kind, found.size, found.text) == ("photo.txt", "image", len(data), "")
        assert found.sha256 == hashlib.sha256(data).hexdigest()


def test_pictures_in_other_formats_and_old_office_files_are_refused_with_the_reason() -> None:
    for data in (b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a\1\0\1\0", b"II*\0"):
        assert "not a PNG, JPEG or WebP file" in reason(data)
    assert ".docx" in reason(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500))


def test_a_file_beyond_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment_text, "MAX_FILE_BYTES", 100)
    assert "the file has more than" in reason(pdf("x"))


def test_a_problem_that_the_process_reports_is_told_by_name() -> None:
    assert PROBLEMS["encrypted"]["en"] in reason(locked_pdf("x", password="secret"))


def test_a_process_that_exceeds_its_limits_is_a_refused_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    programs = {
        "more than 20 seconds": "import time; answer = lambda *_: time.sleep(9)",
        "more than 1 GB of memory": "answer = lambda *_: bytes(2 << 30)",
        "its text has more than 2 MB": "answer = lambda _, most: bytes(most + 1)",
        "damaged": "import os; answer = lambda *_: os.abort()",
    }
    monkeypatch.setattr(attachment_text, "SECONDS", 1)
    for expected, program in programs.items():
        path = tmp_path / "program.py"
        path.write_text(program)
        monkeypatch.setattr(attachment_text, "_PROGRAM", path)
        with subtests.test(expected):
            assert expected in reason(pdf("x"))
