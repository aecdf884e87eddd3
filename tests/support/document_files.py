"""Small PDF and Word files, written by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from xml.sax.saxutils import escape

import pypdf

_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_FALLBACK = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
_MAIN = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_TO_UNICODE = b"""/CIDInit /ProcSet findresource begin begincmap
1 begincodespacerange <0000> <FFFF> endcodespacerange
1 beginbfrange <0000> <FFFF> <0000> endbfrange
endcmap end"""
_FIRST_PAGE = 6  # the number of its object


def pdf(*pages: str) -> bytes:
    """Return a PDF file with one line of text on each page, none where it is empty."""
    numbers = range(_FIRST_PAGE, _FIRST_PAGE + 2 * len(pages), 2)
    kids = " ".join(f"{number} 0 R" for number in numbers)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} /MediaBox [0 0 300 200] >>".encode(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /F /Encoding /Identity-H /DescendantFonts [4 0 R] "
        b"/ToUnicode 5 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /F /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) "
        b"/Supplement 0 >> >>",
        _stream(_TO_UNICODE),
    ]
    for number, text in zip(numbers, pages, strict=True):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {number + 1} 0 R >>".encode())
        objects.append(_stream(f"BT /F1 12 Tf 20 100 Td <{text.encode('utf-16-be').hex()}> Tj ET".encode()))
    return _numbered(objects)


def locked_pdf(text: str, password: str) -> bytes:
    """Return a PDF file that opens with a password, or that has one for changes only if it is empty."""
    writer = pypdf.PdfWriter(pypdf.PdfReader(io.BytesIO(pdf(text))))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def _stream(content: bytes) -> bytes:
    return b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content)


def _numbered(objects: list[bytes]) -> bytes:
    file, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(file))
        file += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (count, len(file))
    return file + b"xref\n0 %d\n0000000000 65535 f \n%b%b" % (count, table, trailer)


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{escape(text)}</w:t></w:r></w:p>"


def docx(body: str, doctype: str = "", parts: Mapping[str, str] = {}) -> bytes:
    """Return a Word file with this XML in its body, and with further parts."""
    document = f'<?xml version="1.0"?>{doctype}<w:document {_WORD} {_FALLBACK}><w:body>{body}</w:body></w:document>'
    types = f'<Types><Override PartName="/word/document.xml" ContentType="{_MAIN}"/></Types>'
    return zip_file({"[Content_Types].xml": types, "word/document.xml": document, **parts})


def encrypted(archive: bytes) -> bytes:
    """Return a zip file whose first part is marked as encrypted."""
    data = bytearray(archive)
    data[6] |= 1  # in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # in the index
    return bytes(data)


def footnotes(text: str) -> Mapping[str, str]:
    return {"word/footnotes.xml": f"<w:footnotes {_WORD}><w:footnote>{paragraph(text)}</w:footnote></w:footnotes>"}


def zip_file(parts: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()
