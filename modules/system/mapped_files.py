"""Release pages of files that are mapped into this process's memory, on Linux."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # MADV_DONTNEED of mman.h


def drop_mapped_pages(address: int, length: int) -> int:
    """Release those of `length` bytes that are pages of a file; return how many bytes these are.

    They are read from the file again when they are needed, so nothing may have been written to them. Other memory is
    left as it is, and so are pages that the range covers in part.
    """
    if sys.platform != "linux":
        return 0
    page = mmap.PAGESIZE
    begin, end = -(-address // page) * page, (address + length) // page * page
    dropped = 0
    for start, stop in _mapped_ranges():
        first, last = max(begin, start), min(end, stop)
        if first < last and not _madvise()(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED):
            dropped += last - first
    return dropped


def _mapped_ranges() -> Iterator[tuple[int, int]]:
    """Yield first and last address of every private mapping of a file that the process may not execute."""
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, rights, _, _, inode, *path = line.split(maxsplit=5)
        if path and inode != "0" and "x" not in rights and rights.endswith("p"):
            first, _, last = addresses.partition("-")
            yield int(first, 16), int(last, 16)


def _madvise() -> ctypes._NamedFuncPointer:
    return ctypes.CDLL(None).madvise
