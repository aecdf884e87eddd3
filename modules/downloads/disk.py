"""Disk helpers: free space, atomic replacement, complete writes, and OSError translated to a DownloadError."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from modules.downloads.errors import DiskFull, DiskRefused

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def disk_errors(folder: Path, needed: int) -> Iterator[None]:
    """Translate OSError to DiskFull, of which `needed` bytes are part, or to DiskRefused."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull(str(folder), needed, free_space(folder)) from error
        raise DiskRefused(str(folder), error.strerror or type(error).__name__) from error


def free_space(folder: Path) -> int:
    """Return the bytes that can still be written to `folder`, or to its nearest existing parent."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    stats = os.statvfs(existing)
    return stats.f_bavail * stats.f_frsize


def check_space(folder: Path, missing: int, reserve: int) -> None:
    """Raise DiskFull unless `missing` more bytes fit into `folder` and leave `reserve` (or 2 % of them) free."""
    needed, free = missing + max(reserve, missing // 50), free_space(folder)
    if missing and needed > free:
        raise DiskFull(str(folder), needed, free)


def write_at(descriptor: int, data: bytes | memoryview, position: int) -> None:
    """Write all of `data` to an open file at `position`."""
    remaining = memoryview(data)
    while remaining:
        count = os.pwrite(descriptor, remaining, position)
        position += count
        remaining = remaining[count:]


def replace_file(path: Path, content: bytes) -> None:
    """Replace the file's content atomically: readers see either all of the old content or all of the new."""
    new = path.with_name(f".{path.name}.new")
    with open(new, "wb") as file:
        file.write(content)
    os.replace(new, path)
