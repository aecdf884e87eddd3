"""A partially downloaded file: its bytes in NUMBER.part, and next to it in NUMBER.json which of them are present.

Bytes are written before they are recorded, so recorded bytes are present whenever the program ends. Whether they are
the right ones is checked by the hash at the end.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.downloads.checksum import expected_hash
from modules.downloads.context import TransferOptions
from modules.downloads.disk import disk_errors, free_space, replace_file
from modules.hub.errors import DownloadError
from modules.hub.repository import RemoteFile

_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass
class Segment:
    """Bytes `begin` to `end` (exclusive) of a file, of which the first `done` are present."""

    begin: int
    end: int
    done: int = 0

    @property
    def position(self) -> int:
        """Offset of the next byte in the file."""
        return self.begin + self.done

    @property
    def missing(self) -> int:
        return self.end - self.begin - self.done


class PartialFile:
    """The partially downloaded `file` of a commit, at `path`, which ends in ".part".

    An existing partial file is resumed only if commit, path, size and hash are the same; otherwise it is replaced.
    Raises DiskFull if the file does not fit, or DiskRefused.
    """

    def __init__(self, path: Path, commit: str, file: RemoteFile, options: TransferOptions) -> None:
        self.path, self.file, self.size = path, file, file.size
        self.verified = False
        self.segments: list[Segment] = []
        self._state_path = path.with_suffix(".json")
        self._identity = {"commit": commit, "path": file.path, "size": file.size, "hash": expected_hash(file)}
        with disk_errors(path.parent, file.size):
            self.descriptor = self._open_existing()
            if self.descriptor < 0:
                self.segments = _split(file.size, options)
                self.descriptor = self._create()

    def _open_existing(self) -> int:
        """Return the descriptor of a file to resume, or -1."""
        try:
            state = json.loads(self._state_path.read_bytes())
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError):
            return -1
        if self._restore(state, os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        return -1

    def _restore(self, state: Any, stats: os.stat_result) -> bool:
        """Take segments and `verified` from a saved state, if it belongs to this file."""
        try:
            segments = [Segment(*map(int, segment)) for segment in state["segments"]]
            same, verified = state["about"] == self._identity, bool(state["verified"])
        except (KeyError, TypeError, ValueError):
            return False
        intact = stat.S_ISREG(stats.st_mode) and stats.st_nlink == 1 and stats.st_size == self.size
        if not (same and intact and _cover(segments, self.size)):
            return False
        self.segments, self.verified = segments, verified
        return True

    def _create(self) -> int:
        self.path.unlink(missing_ok=True)
        if self.size > free_space(self.path.parent):  # allocating it would fill the disk for a moment
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o644)
        try:
            _allocate(descriptor, self.size)
            self.save()
        except (OSError, DownloadError):
            os.close(descriptor)
            self.path.unlink()  # free the space that it took
            raise
        return descriptor

    @property
    def done(self) -> int:
        """Bytes present."""
        return sum(segment.done for segment in self.segments)

    @property
    def complete(self) -> bool:
        return self.done == self.size

    @property
    def arrives_in_order(self) -> bool:
        """Whether all bytes are still missing and will arrive in order, so that they can be hashed on arrival."""
        return len(self.segments) == 1 and self.done == 0

    def save(self) -> None:
        """Record which bytes are present."""
        segments = [[segment.begin, segment.end, segment.done] for segment in self.segments]
        state = {"about": self._identity, "verified": self.verified, "segments": segments}
        with disk_errors(self.path.parent, 0):
            replace_file(self._state_path, json.dumps(state).encode())

    def start_sync(self) -> DiskSync:
        """Start flushing the file to the disk in a thread."""
        return DiskSync(self.descriptor, self.path.parent)

    def merge_segments(self) -> None:
        """Replace all segments by one, and drop the bytes behind the first gap."""
        contiguous = 0
        for segment in self.segments:
            contiguous += segment.done
            if segment.missing:
                break
        self.segments = [Segment(0, self.size, contiguous)]

    def mark_verified(self) -> None:
        """Record that the file has the right hash and has been flushed to the disk."""
        self.verified = True
        self.save()

    def close(self) -> None:
        os.close(self.descriptor)

    def delete(self) -> None:
        self._state_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class DiskSync(threading.Thread):
    """Flushes an open file to the disk in a thread, because that may take arbitrarily long."""

    def __init__(self, descriptor: int, folder: Path) -> None:
        super().__init__(name="write to the disk", daemon=True)
        self._descriptor, self._folder = os.dup(descriptor), folder
        self._error: DownloadError | None = None
        self.start()

    def run(self) -> None:
        try:
            with disk_errors(self._folder, 0):
                os.fdatasync(self._descriptor)
        except DownloadError as error:
            self._error = error
        finally:
            os.close(self._descriptor)

    def finished(self, seconds: float = 0) -> bool:
        """Wait up to `seconds` and return whether it has finished. Raises DiskFull or DiskRefused."""
        self.join(seconds)
        if self._error:
            raise self._error
        return not self.is_alive()


def allocated_bytes(path: Path, size: int) -> int:
    """Return how many of the `size` bytes of the file at `path` are already allocated on the disk."""
    try:
        return min(size, path.lstat().st_blocks * 512)
    except OSError:
        return 0


def recorded_bytes(folder: Path) -> int:
    """Return the total of bytes that the partial files in `folder` have recorded as present."""
    total = 0
    for state_path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            total += sum(int(done) for _, _, done in json.loads(state_path.read_bytes())["segments"])
    return total


def _allocate(descriptor: int, size: int) -> None:
    if size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        os.ftruncate(descriptor, size)


def _split(size: int, options: TransferOptions) -> list[Segment]:
    split = size >= options.split_from
    count = max(1, min(options.connections, size // options.min_segment)) if split else 1
    bounds = [size * number // count for number in range(count + 1)]
    return [Segment(begin, end) for begin, end in itertools.pairwise(bounds)]


def _cover(segments: list[Segment], size: int) -> bool:
    """Whether the segments are valid and cover the file without gaps or overlaps."""
    ends = [0, *(segment.end for segment in segments)]
    adjacent = [segment.begin for segment in segments] == ends[:-1] and ends[-1] == size
    return adjacent and all(segment.done >= 0 and segment.missing >= 0 for segment in segments)
