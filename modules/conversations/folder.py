"""Files of conversations by their path below a folder, and its bin: on disk, or in memory for conversations that are
not to be kept.

A file is written under a temporary name and renamed, so it is whole at any moment. Deleted files are moved to
.trash/<day of deletion>/, under the path they had.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from modules.conversations.errors import VisitorMemoryFull
from modules.conversations.ids import SUFFIX
from modules.system import atomic_write, file_lock
from modules.system.bin_folder import BIN
from modules.system.leftovers import sweep
from modules.system.moves import move_all

_ORIGINAL = ".orig"
_DAY = re.compile(r"[0-9]{8}(-[0-9]+)?")
MAX_MEMORY_BYTES = 4_000_000
"""Of the conversations, and again of the files, of a visitor whose conversations are not stored."""


class Stamp(NamedTuple):
    """Differs whenever a file has changed: modification time in ns, size in bytes, inode."""

    modified: int
    size: int
    inode: int


class Folder(Protocol):
    """Files by their path below the folder. Methods raise OSError, such as FileNotFoundError."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Exclude writers in other threads and processes."""

    def scan(self) -> dict[str, Stamp]:
        """Return all files that may be conversations."""

    def stamp(self, path: PurePosixPath) -> Stamp: ...

    def read(self, path: PurePosixPath) -> bytes: ...

    def write(self, path: PurePosixPath, content: bytes) -> Stamp: ...

    def back_up(self, path: PurePosixPath) -> None:
        """Keep the present content beside the file, as <name>.json.orig."""

    def discard(self, path: PurePosixPath) -> None:
        """Move the file to the bin."""

    def restore(self, path: PurePosixPath) -> None:
        """Move the file back that was deleted last. Raises FileExistsError if there is one in its place."""

    def deleted(self) -> dict[str, tuple[str, bytes]]:
        """Return the day of deletion, as YYYYMMDD, and the content of all files in the bin."""

    def count_deleted(self) -> int: ...

    def empty_bin(self, until: str) -> int:
        """Delete files that were moved to the bin on the day `until` or before, and return how many."""


class DiskFolder:
    """A Folder at `root`, which need not exist."""

    suffix = SUFFIX
    """Ending of the names of the files that `scan` and the bin count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._writing = threading.Lock()
        for folder in self._folders():
            hidden = {entry.name[1:].rpartition(".")[0] for entry in _entries(folder) if entry.name.startswith(".")}
            if hidden:
                sweep(folder, hidden)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with self._writing:
            self.root.mkdir(parents=True, exist_ok=True)
            with open(self.root / ".lock", "ab") as lock:
                file_lock.acquire(lock.fileno())
                yield

    def scan(self) -> dict[str, Stamp]:
        found = {}
        for folder in self._folders():
            prefix = "" if folder == self.root else folder.relative_to(self.root).as_posix() + "/"
            for entry in _entries(folder):
                if entry.name.endswith(self.suffix) and not entry.name.startswith("."):
                    with contextlib.suppress(OSError):  # deleted at this moment, or a dangling link
                        if entry.is_file():
                            found[prefix + entry.name] = _stamp(entry.stat())
        return found

    def _folders(self) -> list[Path]:
        characters = [Path(entry.path) for entry in _entries(self.root / "chat") if entry.is_dir()]
        visible = [folder for folder in sorted(characters) if not folder.name.startswith(".")]
        return [self.root, self.root / "instruct", *visible]

    def stamp(self, path: PurePosixPath) -> Stamp:
        return _stamp((self.root / path).stat())

    def read(self, path: PurePosixPath) -> bytes:
        return (self.root / path).read_bytes()

    def write(self, path: PurePosixPath, content: bytes) -> Stamp:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return replace_file(target, content)

    def back_up(self, path: PurePosixPath) -> None:
        source = self.root / path
        content = source.read_bytes()
        for number in range(1, 1000):
            backup = source.with_name(source.name + _ORIGINAL + (f"-{number}" if number > 1 else ""))
            if not backup.exists():
                replace_file(backup, content)
                shutil.copystat(source, backup)
                return
            if backup.read_bytes() == content:  # of a change that was interrupted
                return
        raise FileExistsError(str(backup))

    def discard(self, path: PurePosixPath) -> None:
        source = self.root / path
        today = time.strftime("%Y%m%d")
        days = (self.root / BIN / (f"{today}-{number}" if number else today) for number in range(1000))
        target = next(day / path for day in days if not (day / path).exists())
        _move(source, target)

    def restore(self, path: PurePosixPath) -> None:
        target = self.root / path
        source = next((day / path for day in reversed(self._days()) if (day / path).is_file()), None)
        if source is None:
            raise FileNotFoundError(str(path))
        if target.exists():
            raise FileExistsError(str(path))
        _move(source, target)

    def deleted(self) -> dict[str, tuple[str, bytes]]:
        found = {}
        for day, path in self._deleted_files():
            with contextlib.suppress(OSError):
                found[path.relative_to(day).as_posix()] = (day.name[:8], path.read_bytes())
        return found

    def count_deleted(self) -> int:
        return len({path.relative_to(day) for day, path in self._deleted_files()})

    def empty_bin(self, until: str) -> int:
        count = 0
        for day in self._days():
            if day.name[:8] <= until:
                count += sum(1 for _ in day.rglob("*" + self.suffix))
                shutil.rmtree(day)
        return count

    def _days(self) -> list[Path]:
        """Return the folders of the bin, oldest first."""
        days = [Path(entry.path) for entry in _entries(self.root / BIN) if _DAY.fullmatch(entry.name)]
        return sorted(days, key=lambda day: (day.name[:8], int(day.name[9:] or 0)))

    def _deleted_files(self) -> Iterator[tuple[Path, Path]]:
        return ((day, path) for day in self._days() for path in day.rglob("*" + self.suffix))


class MemoryFolder:
    """A Folder that is gone when the program ends, and has room for MAX_MEMORY_BYTES."""

    def __init__(self) -> None:
        self._writing = threading.Lock()
        self._files: dict[str, tuple[Stamp, bytes]] = {}
        self._bin: dict[str, tuple[str, bytes]] = {}
        self._writes = 0

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with self._writing:
            yield

    def scan(self) -> dict[str, Stamp]:
        return {path: stamp for path, (stamp, _) in list(self._files.items())}

    def stamp(self, path: PurePosixPath) -> Stamp:
        return self._file(path)[0]

    def read(self, path: PurePosixPath) -> bytes:
        return self._file(path)[1]

    def _file(self, path: PurePosixPath) -> tuple[Stamp, bytes]:
        if str(path) not in self._files:
            raise FileNotFoundError(str(path))
        return self._files[str(path)]

    def write(self, path: PurePosixPath, content: bytes) -> Stamp:
        others = sum(len(body) for name, (_, body) in self._files.items() if name != str(path))
        if others + len(content) > MAX_MEMORY_BYTES:
            raise VisitorMemoryFull(MAX_MEMORY_BYTES // 1_000_000)
        while self._bin and others + len(content) + sum(len(body) for _, body in self._bin.values()) > MAX_MEMORY_BYTES:
            del self._bin[next(iter(self._bin))]
        self._writes += 1
        stamp = Stamp(time.time_ns(), len(content), self._writes)
        self._files[str(path)] = (stamp, content)
        return stamp

    def back_up(self, path: PurePosixPath) -> None:
        """Do nothing: all files in memory are of this program's format."""

    def discard(self, path: PurePosixPath) -> None:
        content = self.read(path)
        self._bin[str(path)] = (time.strftime("%Y%m%d"), content)
        del self._files[str(path)]

    def restore(self, path: PurePosixPath) -> None:
        if str(path) not in self._bin:
            raise FileNotFoundError(str(path))
        if str(path) in self._files:
            raise FileExistsError(str(path))
        self.write(path, self._bin.pop(str(path))[1])

    def deleted(self) -> dict[str, tuple[str, bytes]]:
        return dict(self._bin)

    def count_deleted(self) -> int:
        return len(self._bin)

    def empty_bin(self, until: str) -> int:
        old = [path for path, (day, _) in self._bin.items() if day <= until]
        for path in old:
            del self._bin[path]
        return len(old)


def replace_file(target: Path, content: bytes) -> Stamp:
    """Replace the file's content: readers see either all of the old content or all of the new one."""
    return _stamp(atomic_write.replace_file(target, content))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _move(source: Path, target: Path) -> None:
    """Move a file with its backups, or nothing at all."""
    backups = source.parent.glob(_escaped(source.name) + _ORIGINAL + "*")
    moves = [(backup, target.with_name(backup.name)) for backup in backups]
    move_all([(source, target), *((backup, other) for backup, other in moves if not other.exists())])


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)
