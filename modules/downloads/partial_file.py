"""A file that is on its way: its bytes in a `.part`, and beside it what of them is there.

The bytes are written before they are counted, so what is counted is there whenever the program ends; whether they are
the right ones is for the hash to say.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.downloads.checksum import expected
from modules.downloads.retry import Pace
from modules.hub.errors import DiskFull, DiskRefused, DownloadError
from modules.hub.repository import RemoteFile

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@dataclass
class Segment:
    """Bytes `begin` to `end` (exclusive) of a file, of which the first `done` are there."""

    begin: int
    end: int
    done: int = 0

    @property
    def place(self) -> int:
        """Where the next byte belongs."""
        return self.begin + self.done

    @property
    def missing(self) -> int:
        return self.end - self.begin - self.done


class Part:
    """The unfinished `file` of one commit at `place` + ".part". It is taken up again only if it is of the same commit,
    path, size and hash; else it begins anew. DiskFull if it does not fit, DiskRefused."""

    def __init__(self, place: Path, commit: str, file: RemoteFile, pace: Pace) -> None:
        self.path, self._state = part_file(place), place.with_name(place.name + ".json")
        self._about = {"commit": commit, "path": file.path, "size": file.size, "hash": expected(file)}
        self.size = file.size
        self.verified = False
        self.segments: list[Segment] = []
        with disk_faults(self.path.parent, file.size):
            self.descriptor = self._taken_up()
            if self.descriptor < 0:
                self.segments = _split(file.size, pace)
                self.descriptor = self._created()

    def _taken_up(self) -> int:
        """The file's descriptor, or -1 if there is nothing to go on with."""
        try:
            told = json.loads(self._state.read_bytes())
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError):
            return -1
        if self._fits(told, os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        return -1

    def _fits(self, told: Any, facts: os.stat_result) -> bool:
        try:
            segments = [Segment(*map(int, each)) for each in told["segments"]]
            same, verified = told["about"] == self._about, bool(told["verified"])
        except (KeyError, TypeError, ValueError):
            return False
        whole = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_size == self.size
        if not (same and whole and _cover(segments, self.size)):
            return False
        self.segments, self.verified = segments, verified
        return True

    def _created(self) -> int:
        self.path.unlink(missing_ok=True)
        if self.size > free(self.path.parent):  # asking for it would fill the disk for a moment
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o644)
        try:
            _allocate(descriptor, self.size)
            self.save()
        except OSError:
            os.close(descriptor)
            self.path.unlink()  # what it took of the disk is of use elsewhere
            raise
        return descriptor

    @property
    def done(self) -> int:
        return sum(each.done for each in self.segments)

    @property
    def complete(self) -> bool:
        return self.done == self.size

    @property
    def untouched(self) -> bool:
        """Nothing is there, and what comes will come in order."""
        return len(self.segments) == 1 and self.done == 0

    def save(self) -> None:
        """Write down what is there."""
        segments = [[each.begin, each.end, each.done] for each in self.segments]
        told = {"about": self._about, "verified": self.verified, "segments": segments}
        with disk_faults(self.path.parent, 0):
            replace_file(self._state, json.dumps(told).encode())

    def sync(self) -> Syncing:
        """Have what is there outlive the machine's next failure, beside everything else."""
        return Syncing(self.descriptor, self.path.parent)

    def collapse(self) -> None:
        """One segment from the first byte on, of which nothing is kept behind the first gap."""
        there = 0
        for segment in self.segments:
            there += segment.done
            if segment.missing:
                break
        self.segments = [Segment(0, self.size, there)]

    def keep(self) -> None:
        """It has been found to be what it should be, and is on the disk."""
        self.verified = True
        self.save()

    def close(self) -> None:
        os.close(self.descriptor)

    def discard(self) -> None:
        """Delete it."""
        self._state.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class Syncing(threading.Thread):
    """Has an open file written to the disk, which may take as long as the disk likes."""

    def __init__(self, descriptor: int, folder: Path) -> None:
        super().__init__(name="write to the disk", daemon=True)
        self._descriptor, self._folder = os.dup(descriptor), folder
        self._fault: DownloadError | None = None
        self.start()

    def run(self) -> None:
        try:
            with disk_faults(self._folder, 0):
                os.fdatasync(self._descriptor)
        except DownloadError as error:
            self._fault = error
        finally:
            os.close(self._descriptor)

    def ended(self, seconds: float = 0) -> bool:
        """Whether it has been done, waiting for it that long. DiskFull, DiskRefused."""
        self.join(seconds)
        if self._fault:
            raise self._fault
        return not self.is_alive()


def write(descriptor: int, data: bytes | memoryview, place: int) -> None:
    """All of `data`, at `place`."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, place)
        place += count
        rest = rest[count:]


def replace_file(path: Path, content: bytes) -> None:
    """Have the file hold `content`, at once: whoever reads it meanwhile sees all of the old or all of the new."""
    new = path.with_name(f".{path.name}.new")
    with open(new, "wb") as file:
        file.write(content)
    os.replace(new, path)


@contextlib.contextmanager
def disk_faults(folder: Path, needed: int) -> Iterator[None]:
    """Whatever the disk refuses, as an error that can be read."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(str(folder), needed, free(folder)) from error
        raise DiskRefused(str(folder), error.strerror or type(error).__name__) from error


def part_file(place: Path) -> Path:
    """Where the bytes are."""
    return place.with_name(place.name + ".part")


def allocated(place: Path, size: int) -> int:
    """How many of the `size` bytes of a file have their place on the disk already."""
    try:
        return min(size, part_file(place).lstat().st_blocks * 512)
    except OSError:
        return 0


def there(folder: Path) -> int:
    """Bytes that the unfinished files in `folder` have, by what is written down."""
    total = 0
    for state in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            total += sum(int(done) for _, _, done in json.loads(state.read_bytes())["segments"])
    return total


def free(folder: Path) -> int:
    """Bytes that may still be written to the disk of `folder`, or of the nearest one above it that exists."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    facts = os.statvfs(place)
    return facts.f_bavail * facts.f_frsize


def check_room(folder: Path, lacking: int, reserve: int) -> None:
    """DiskFull unless `lacking` more bytes go into `folder`, and `reserve` (or two percent of them) stay free."""
    needed, room = lacking + max(reserve, lacking // 50), free(folder)
    if lacking and needed > room:
        raise DiskFull(str(folder), needed, room)


def _allocate(descriptor: int, size: int) -> None:
    if size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        os.ftruncate(descriptor, size)


def _split(size: int, pace: Pace) -> list[Segment]:
    count = max(1, min(pace.connections, size // pace.least_segment)) if size >= pace.split_from else 1
    places = [size * number // count for number in range(count + 1)]
    return [Segment(begin, end) for begin, end in itertools.pairwise(places)]


def _cover(segments: list[Segment], size: int) -> bool:
    """Whether they lie side by side from the first byte to the last."""
    ends = [0, *(each.end for each in segments)]
    joined = [each.begin for each in segments] == ends[:-1] and ends[-1] == size
    return joined and all(each.done >= 0 and each.missing >= 0 for each in segments)
