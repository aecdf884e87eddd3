"""The text of PDF and Word files, and files that have none. Run here, without the limits of the child process."""

from __future__ import annotations

import base64
import json
import random

import pytest

from modules.chat import document_child
from modules.chat.attachment_text import PROBLEMS
from tests.support.document_files import docx, encrypted, footnotes, locked_pdf, paragraph, pdf, zip_file


def read(kind: str, data: bytes, output_bytes: int = 2000) -> tuple[str, str]:
    request = json.dumps([kind, base64.b64encode(data).decode()]).encode()
    line = document_child.answer(request, output_bytes)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    result, text = json.loads(line)
    assert result == "text" or text in PROBLEMS
    return result, text


def test_the_pages_of_a_pdf_are_read_one_after_the_other() -> None:
    assert read("pdf", pdf("Geese", "大雁", "")) == ("text", "Geese\n\n大雁")


def test_a_pdf_that_only_restricts_changes_is_read() -> None:
    assert read("pdf", locked_pdf("大雁", password="")) == ("text", "大雁")


def test_the_paragraphs_tables_and_notes_of_a_word_file_are_read() -> None:
    run = "<w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/><w:t>c</w:t><w:delText>removed</w:delText></w:r>"
    tab_stops = "<w:pPr><w:tabs><w:tab/></w:tabs></w:pPr>"
    rows = f"<w:tr><w:tc>{paragraph('1')}{paragraph('2')}</w:tc><w:tc>{paragraph('3')}</w:tc></w:tr>"
    choice = f"<mc:Choice>{paragraph('box')}</mc:Choice><mc:Fallback>{paragraph('box')}</mc:Fallback>"
    body = f"{paragraph('One <b> 雁')}<w:p>{tab_stops}{run}</w:p><w:tbl>{rows}</w:tbl>{choice}"
    text = "One <b> 雁\na\tb\nc\n1 2\t3\nbox\n\nnote"
    assert read("docx", docx(body, parts=footnotes("note"))) == ("text", text)


def test_hyphens_that_do_not_break_and_moved_text_of_a_word_file_are_read_once() -> None:
    hyphen = "<w:p><w:r><w:t>self</w:t><w:noBreakHyphen/><w:t>made</w:t></w:r></w:p>"
    moved = "<w:p>{}<w:r><w:t>then</w:t></w:r></w:p>"
    run = "<w:r><w:t>moved, </w:t></w:r>"
    body = hyphen + moved.format(f"<w:moveFrom>{run}</w:moveFrom>") + moved.format(f"<w:moveTo>{run}</w:moveTo>")
    assert read("docx", docx(body)) == ("text", "self-made\nthen\nmoved, then")


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
REFUSED = {
    "a PDF with a password": ("pdf", locked_pdf("x", password="secret"), "encrypted"),
    "a PDF of scanned pages": ("pdf", pdf("", ""), "no text"),
    "half a PDF": ("pdf", pdf("x" * 500)[:400], "damaged"),
    "a PDF that lacks all": ("pdf", b"%PDF-1.7", "damaged"),
    "a Word file without text": ("docx", docx(""), "no text"),
    "a Word file with entities": ("docx", docx(paragraph("&b;").replace("&amp;", "&"), LAUGHS), "damaged"),
    "a Word file with broken XML": ("docx", docx("<w:p>"), "damaged"),
    "another zip file": ("docx", zip_file({"geese.txt": "geese"}), "no document"),
    "a workbook": ("docx", zip_file({"[Content_Types].xml": "<Types/>"}), "no document"),
    "a Word file with a password for its parts": ("docx", encrypted(docx(paragraph("x"))), "encrypted"),
    "half a zip file": ("docx", docx(paragraph("x"))[:-30], "damaged"),
}


def test_a_file_whose_text_cannot_be_read_is_refused_with_the_reason(subtests: pytest.Subtests) -> None:
    for case, (kind, data, problem) in REFUSED.items():
        with subtests.test(case):
            assert read(kind, data) == ("problem", problem)


def test_a_text_beyond_the_limit_is_refused(subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, data in {"pdf": pdf("雁" * 40, "雁" * 40), "docx": docx(paragraph("雁" * 80))}.items():
        with subtests.test(kind):
            assert read(kind, data, output_bytes=478) == ("problem", "too large")
    with subtests.test("markup that fills the memory"):
        monkeypatch.setattr(document_child, "_MAX_XML_BYTES", 1 << 18)
        assert read("docx", docx("<w:b/>" * 50_000), 1 << 20) == ("problem", "too large")


def test_files_with_random_damage_are_read_or_refused() -> None:
    chance = random.Random(18)
    for kind, data in {"pdf": pdf("geese"), "docx": docx(paragraph("geese"))}.items():
        for _ in range(20):
            damaged = bytearray(data)
            for _ in range(chance.randrange(1, 20)):
                damaged[chance.randrange(len(data))] = chance.randrange(256)
            read(kind, bytes(damaged))
