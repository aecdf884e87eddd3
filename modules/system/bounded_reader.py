"""Bounds-checked reader for untrusted model files.

The reader slides a window over the file. It is not an mmap: a file that shrinks while it is mapped (a download that
starts over) would kill the whole program with SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from modules.system.format_errors import as_model_problem, damaged_header, header_cut_short

_WINDOW_BYTES = 1 << 20
_PEEK_BYTES = 512
_LENGTH = struct.Struct("<Q")

T = TypeVar("T")


class SeekableFile(Protocol):
    """A file as BoundedReader needs it, on disk or on a server."""

    def seek(self, offset: int, /) -> object: ...

    def read(self, count: int, /) -> bytes: ...


def parse_file(path: Path, parse: Callable[[BoundedReader], T]) -> T:
    """Return what `parse` makes of the file at `path`.

    Raises ModelProblem, which names the file, for a FormatError of `parse`; OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        return parse_open_file(file, os.fstat(file.fileno()).st_size, path.name, parse)


def parse_open_file(file: SeekableFile, size: int, name: str, parse: Callable[[BoundedReader], T]) -> T:
    """Return what `parse` makes of an open file of `size` bytes. Raises as `parse_file` does."""
    with as_model_problem(name):
        return parse(BoundedReader(file, size))


class BoundedReader:
    """Read a little-endian file of `size` bytes. Every method raises FormatError instead of reading past the end."""

    def __init__(self, file: SeekableFile, size: int) -> None:
        self.size = size
        self._file = file
        self._window = b""
        self._window_start = 0  # offset of the window in the file
        self._index = 0  # position within the window; beyond its end after a long skip

    @property
    def position(self) -> int:
        return self._window_start + self._index

    def seek(self, offset: int) -> None:
        self._window, self._window_start, self._index = b"", offset, 0

    def peek(self) -> bytes:
        """Return the next 512 bytes, or as many as there are, without moving on."""
        head = self.read(min(_PEEK_BYTES, self.size - self.position))
        self._index -= len(head)
        return head

    def read(self, count: int) -> bytes:
        if self._index + count > len(self._window):
            self._slide(count)
        self._index += count
        return self._window[self._index - count : self._index]

    def read_u32(self) -> int:
        return int.from_bytes(self.read(4), "little")

    def read_u64(self) -> int:
        return int.from_bytes(self.read(8), "little")

    def read_number(self, layout: struct.Struct) -> bool | int | float:
        number: bool | int | float = layout.unpack(self.read(layout.size))[0]
        return number

    def read_string(self, max_bytes: int) -> str:
        """Read a UTF-8 string of at most `max_bytes`, preceded by its length (u64)."""
        length = self.read_u64()
        if length > min(self.size, max_bytes):
            raise damaged_header(f"a string claims {length:,} bytes", f"某个字符串声称长达 {length:,} 字节")
        raw = self.read(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise damaged_header(f"{raw[:20]!r} is not valid UTF-8", f"{raw[:20]!r} 不是有效的 UTF-8") from None

    def skip(self, count: int) -> None:
        if count > self.size - self.position:
            raise header_cut_short(self.size)
        self._index += count

    def skip_strings(self, count: int, long: int = 0) -> int:
        """Skip `count` strings, each preceded by its length (u64). Return the bytes of those longer than `long`.

        A vocabulary takes 100,000 rounds of this loop, so that it works on local variables.
        """
        long_bytes = 0
        unpack, length_bytes, window, index = _LENGTH.unpack_from, _LENGTH.size, self._window, self._index
        last = len(window) - length_bytes
        for _ in range(count):
            if index > last:
                self._index = index
                self._slide(length_bytes)
                window, index, last = self._window, 0, len(self._window) - length_bytes
            (length,) = unpack(window, index)
            index += length_bytes + length
            if length > long:
                long_bytes += length
        self._index = index
        self.skip(0)  # checks the last length, which nothing has been read for
        return long_bytes

    def _slide(self, count: int) -> None:
        position = self.position
        if count > self.size - position:
            raise header_cut_short(self.size)
        self._file.seek(position)
        self._window, self._window_start, self._index = self._file.read(max(count, _WINDOW_BYTES)), position, 0
        if len(self._window) < count:  # the file has shrunk while it was read
            raise header_cut_short(position + len(self._window))
