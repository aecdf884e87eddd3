"""Extract the text of PDF and Word files, which come from strangers, in a process of `modules/system/limited_child.py`.

A request is one line of JSON: [kind, the file in Base64]. The answer is one line: ["text", the text] or ["problem", a
key of `PROBLEMS` in `attachment_text.py`]. It imports the standard library and pypdf alone.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import NoReturn
from xml.parsers import expat

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

_MAX_XML_BYTES = 100 << 20
_CHUNK_BYTES = 1 << 16
_ENCRYPTED = 1  # the flag of a zip entry
_CONTENT_TYPES = "[Content_Types].xml"
_MAIN_PART = re.compile(r"application/vnd\.(openxmlformats-officedocument\.wordprocessingml|ms-word)\..*main\+xml")
_NOTES = {"word/footnotes.xml", "word/endnotes.xml"}
_RUN_CHARACTERS = {"br": "\n", "cr": "\n", "tab": "\t", "noBreakHyphen": "-"}
_TABLE_BREAKS = {"tc": "\t", "tr": "\n"}
_SECOND_COPIES = {"Fallback", "moveFrom"}  # for old programs; and where a text stood before a tracked change moved it
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f]")

# What broken files make these libraries raise, besides their own errors.
_FILE_ERRORS = (
    *(PyPdfError, zipfile.BadZipFile, expat.ExpatError, zlib.error, struct.error, EOFError, OSError),
    *(TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, NotImplementedError),
    *(AssertionError, RuntimeError),
)

logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every fault in a file


class _Refused(Exception):
    """A file without text that could be read; its argument is the problem."""


def answer(line: bytes, output_bytes: int) -> bytes:
    """Return the answer to a request: at most half of `output_bytes` of text, which JSON may double."""
    kind, encoded = json.loads(line)
    data = base64.b64decode(encoded)
    try:
        text = _joined(_pdf_text(data) if kind == "pdf" else _word_text(data), output_bytes // 2)
        result = ("text", text) if text.strip() else ("problem", "no text")
    except _Refused as refused:
        result = ("problem", str(refused))
    except _FILE_ERRORS:
        result = ("problem", "damaged")
    return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _joined(pieces: Iterator[str], most_bytes: int) -> str:
    kept, size = [], 0
    for piece in pieces:
        size += len(piece.encode("utf-8", "replace"))
        if size > most_bytes:
            raise _Refused("too large")
        kept.append(piece)
    lines = _CONTROLS.sub("", "".join(kept)).split("\n")
    return "\n".join(line.rstrip().replace(" \t", "\t") for line in lines).strip("\n")


# -- PDF ---------------------------------------------------------------------------------------------------------------


def _pdf_text(data: bytes) -> Iterator[str]:
    """Yield the text of each page."""
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):  # many files have a password for changes only
            raise _Refused("encrypted")
        for page in reader.pages:
            yield page.extract_text().strip() + "\n\n"
    except (DependencyError, FileNotDecryptedError):  # AES needs a package that we do not have
        raise _Refused("encrypted") from None


# -- Word --------------------------------------------------------------------------------------------------------------


def _word_text(data: bytes) -> Iterator[str]:
    """Yield the text of the document, and then that of its notes, by paragraphs or smaller pieces."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        main = _main_part(archive) if _CONTENT_TYPES in names else ""
        if not main:
            raise _Refused("no document")
        for name in (main, *sorted(names & _NOTES)):
            yield from _part_text(archive, name)


def _main_part(archive: zipfile.ZipFile) -> str:
    """Return the name of the part that has the document's text, "" if it is not one of Word."""
    found: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if _MAIN_PART.fullmatch(attributes.get("ContentType", "")):
            found.append(attributes.get("PartName", "").lstrip("/"))

    parser = _parser()
    parser.StartElementHandler = start
    for _ in _parsed(parser, archive, _CONTENT_TYPES):
        pass
    return found[0] if found else ""


def _part_text(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    pieces: list[str] = []
    open_tags: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        open_tags.append(_local(tag))

    def text(characters: str) -> None:
        if open_tags[-1] == "t" and _SECOND_COPIES.isdisjoint(open_tags):
            pieces.append(characters)

    def end(tag: str) -> None:
        local = open_tags.pop()
        if local in _RUN_CHARACTERS and open_tags[-1:] == ["r"]:
            pieces.append(_RUN_CHARACTERS[local])
        elif local == "p":
            pieces.append(" " if "tc" in open_tags else "\n")
        elif local in _TABLE_BREAKS:
            pieces.append(_TABLE_BREAKS[local])

    parser = _parser()
    parser.StartElementHandler, parser.CharacterDataHandler, parser.EndElementHandler = start, text, end
    for _ in _parsed(parser, archive, name):
        yield "".join(pieces)
        pieces.clear()


def _local(tag: str) -> str:
    return tag.rpartition(" ")[2]


def _parser() -> expat.XMLParserType:
    """Return a parser of XML that refuses document types, and with them entities; Word writes none."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = _refuse_doctype
    return parser


def _refuse_doctype(*declaration: object) -> NoReturn:
    raise _Refused("damaged")


def _parsed(parser: expat.XMLParserType, archive: zipfile.ZipFile, name: str) -> Iterator[None]:
    """Parse a part, and yield after each piece of it."""
    part = archive.getinfo(name)
    if part.flag_bits & _ENCRYPTED:
        raise _Refused("encrypted")
    size = 0
    with archive.open(part) as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > _MAX_XML_BYTES:
                raise _Refused("too large")
            parser.Parse(chunk, False)
            yield
    parser.Parse(b"", True)
    yield
