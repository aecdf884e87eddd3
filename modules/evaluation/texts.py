"""Texts on which models are evaluated: the .txt files of training/datasets, and any other file by its path."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Words
from modules.evaluation.errors import TextNotFound, TextUnreadable

MAX_BYTES = 4 << 20
"""Of a text. Its tokens with their texts take some 80 times as much memory while they are counted."""
SUFFIX = ".txt"
_BOM = b"\xef\xbb\xbf"

_EMPTY: Words = {"en": "It is empty.", "zh": "文件为空。"}
_NOT_A_FILE: Words = {"en": "It is not a file.", "zh": "它不是文件。"}
_TOO_LARGE: Words = {
    "en": f"It is larger than {MAX_BYTES >> 20} MiB. Take a part of it.",
    "zh": f"文件超过 {MAX_BYTES >> 20} MiB。请截取一部分。",
}


@dataclass(frozen=True)
class EvaluationText:
    """A text, and the SHA-256 of its UTF-8 bytes. `name` is that of its file, without the folder."""

    name: str
    text: str
    sha256: str


@dataclass(frozen=True)
class TextFile:
    """A file of the folder, with its size in bytes."""

    name: str
    size: int


class TextLibrary:
    """The .txt files of one folder. Hidden files and links that lead out of it are left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self) -> list[TextFile]:
        """Return the texts, sorted by name."""
        found = []
        with contextlib.suppress(OSError):  # there is no such folder
            for path in sorted(self.folder.iterdir()):
                with contextlib.suppress(OSError):  # deleted meanwhile
                    if self._is_text(path):
                        found.append(TextFile(path.name, path.stat().st_size))
        return found

    def has(self, name: str) -> bool:
        """Whether there is a file of that name, ending included."""
        return any(file.name == name for file in self.files())

    def read(self, name: str) -> EvaluationText:
        """Return the text called `name`, with or without ".txt". Raises TextNotFound or TextUnreadable."""
        for candidate in (name, name + SUFFIX):
            plain = candidate == os.path.basename(candidate) and "\0" not in candidate
            with contextlib.suppress(OSError):
                if plain and self._is_text(self.folder / candidate):
                    return read_text(self.folder / candidate)
        raise TextNotFound(name, str(self.folder))

    def _is_text(self, path: Path) -> bool:
        visible = not path.name.startswith(".") and path.name.lower().endswith(SUFFIX)
        return visible and path.is_file() and path.resolve().is_relative_to(self.folder.resolve())


def read_text(path: Path) -> EvaluationText:
    """Read a file of UTF-8 text, of which a byte order mark is no part. Raises TextUnreadable."""
    try:
        if not path.is_file():
            raise TextUnreadable(str(path), _NOT_A_FILE)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = getattr(error, "strerror", None) or str(error)
        raise TextUnreadable(str(path), {"en": f"{why}.", "zh": f"{why}。"}) from error
    if len(raw) > MAX_BYTES:
        raise TextUnreadable(path.name, _TOO_LARGE)
    return decode_text(path.name, raw)


def decode_text(name: str, raw: bytes) -> EvaluationText:
    """Return the text of a file's bytes. Raises TextUnreadable, which names the first byte that is not UTF-8."""
    start = len(_BOM) if raw.startswith(_BOM) else 0
    try:
        text = raw[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        position, byte = start + error.start, raw[start + error.start]
        raise TextUnreadable(
            name,
            {
                "en": f"It is not UTF-8: byte {position} is 0x{byte:02x}. Save it as UTF-8.",
                "zh": f"它不是 UTF-8：第 {position} 字节为 0x{byte:02x}。请另存为 UTF-8。",
            },
        ) from None
    if not text.strip():
        raise TextUnreadable(name, _EMPTY)
    return EvaluationText(name, text, hashlib.sha256(raw[start:]).hexdigest())
