"""The file of a saved prompt: its tokens, and the state of the KV cache after them.

It consists of MAGIC, the length of the header (32 bits), the header (JSON), the token ids (32 bits each), the state as
the engine wrote it, and a CRC-32 of all that. Numbers are little-endian. A file is written under a temporary name, so
one that is too short or too long was damaged later.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import BinaryIO

from modules.core.events import Json

MAGIC = b"KVPROMPT"
VERSION = 1
PIECE_BYTES = 4 << 20
"""Bytes of a state that are read or written at once: some milliseconds."""
MAX_HEADER_BYTES = 1 << 16
MAX_TOKENS = 1 << 22

_NUMBER = struct.Struct("<I")


class DamagedFile(Exception):
    """A file of saved prompts that cannot be used: damaged, or of another version of the program."""


@dataclass(frozen=True)
class Header:
    """The contents of a file: `tokens` token ids and `size` bytes of state, whose parts `layout` tells the engine.

    `fingerprint` stands for all that the state depends on besides the tokens. `model` is the model's name.
    """

    model: str
    fingerprint: str
    tokens: int
    size: int
    layout: Json = None
    version: int = VERSION


def encode_header(header: Header, tokens: array[int]) -> bytes:
    """Return the bytes before the state."""
    text = json.dumps(asdict(header)).encode()
    return MAGIC + _NUMBER.pack(len(text)) + text + _little_endian(tokens)


def encode_checksum(checksum: int) -> bytes:
    """Return the bytes after the state; `checksum` is the CRC-32 of everything before them."""
    return _NUMBER.pack(checksum)


def read_header(file: BinaryIO, file_size: int) -> tuple[Header, array[int]]:
    """Return the header and the tokens of a file that is at its beginning, and leave it at the state.

    Raises DamagedFile, also if a file of `file_size` bytes cannot be whole, and OSError.
    """
    start = file.read(len(MAGIC) + _NUMBER.size)
    if len(start) < len(MAGIC) + _NUMBER.size or not start.startswith(MAGIC):
        raise DamagedFile
    (length,) = _NUMBER.unpack_from(start, len(MAGIC))
    if length > MAX_HEADER_BYTES:
        raise DamagedFile
    header = _parse(file.read(length))
    content = file.read(header.tokens * _NUMBER.size)
    if file_size != len(start) + length + len(content) + header.size + _NUMBER.size:
        raise DamagedFile
    tokens = array("i", content)
    if sys.byteorder == "big":
        tokens.byteswap()
    return header, tokens


def _parse(text: bytes) -> Header:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise DamagedFile from error
    names = Header.__dataclass_fields__.keys()
    if not isinstance(fields, Mapping) or fields.keys() != names or fields["version"] != VERSION:
        raise DamagedFile
    header = Header(**fields)
    numbers = all(type(number) is int and number >= 0 for number in (header.tokens, header.size))
    texts = isinstance(header.model, str) and isinstance(header.fingerprint, str)
    if not numbers or not texts or header.tokens > MAX_TOKENS:
        raise DamagedFile
    return header


class StateReader:
    """Reads the state of a file from its beginning to its end, and checks the file's CRC-32.

    `file` is at its beginning. Raises DamagedFile and OSError, as all methods do.
    """

    def __init__(self, file: BinaryIO, file_size: int) -> None:
        self._file = file
        self.header, self.tokens = read_header(file, file_size)
        self._checksum = zlib.crc32(encode_header(self.header, self.tokens))

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer of bytes with the next part of the state."""
        for begin in range(0, len(buffer), PIECE_BYTES):
            part = buffer[begin : begin + PIECE_BYTES]
            if self._file.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise DamagedFile
            self._checksum = zlib.crc32(part, self._checksum)

    def finish(self) -> None:
        """Check the file, once all of the state has been read."""
        if self._file.read() != encode_checksum(self._checksum):
            raise DamagedFile


def _little_endian(tokens: array[int]) -> bytes:
    if sys.byteorder == "big":
        tokens = tokens[:]
        tokens.byteswap()
    return tokens.tobytes()
