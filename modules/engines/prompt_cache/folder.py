"""The folder of saved prompts: the names of its files, its limits, and what is deleted first.

All processes of the program share it, each may write and delete, and none locks it: a file appears whole under its
name, and whoever finds that one is gone does without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import BinNotEmptied
from modules.engines.prompt_cache.prompt_file import DamagedFile, Header, read_header
from modules.system.directory_walk import walk_folders

SUFFIX = ".kv"
TEMPORARY = ".new-"
"""The beginning of the name of a file that is being written."""
MAX_FILES = 1000
FREE_DISK_DIVISOR = 10
"""The folder takes at most a tenth of what would be free on its disk without it."""
_STALE_SECONDS = 600.0
"""Time without a change after which a file that is being written is taken for one of a process that was killed."""
_EDGE_BYTES = 1 << 16
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{16}\.kv")
_PART = re.compile(r"(?P<name>.+-)\d{5}(?P<rest>-of-\d{5}\.gguf)", re.IGNORECASE)


@dataclass(frozen=True)
class PromptKey:
    """The facts on which the state of a prompt depends besides its tokens, as three hashes.

    `model` stands for the model's path, `content` for its files, and `state` for everything else, such as options.
    """

    model: str
    content: str
    state: str

    @property
    def fingerprint(self) -> str:
        return f"{self.model}-{self.content}-{self.state}"


@dataclass(frozen=True)
class SavedFile:
    """A file in the folder, with its size in bytes and the time of its last use, in seconds since the epoch."""

    path: Path
    size: int
    used: float


def short_hash(*parts: object) -> str:
    """Return 16 hexadecimal digits that stand for the `parts`, which must have a stable text."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part!r}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def model_key(path: Path) -> str:
    """Return the hash by which the files of the model at `path` are found."""
    return short_hash(os.path.abspath(path))


def content_key(path: Path) -> str:
    """Return a hash that changes with the files of a model: of their names, sizes, times, and first and last 64 KiB.

    Reading all of a model would take longer than loading it. Raises OSError.
    """
    facts: list[object] = []
    folder = path if path.is_dir() else path.parent
    for file in _model_files(path):
        status = file.stat()
        with file.open("rb") as stream:
            edges = [stream.read(_EDGE_BYTES)]
            stream.seek(max(status.st_size - _EDGE_BYTES, 0))
            edges.append(stream.read(_EDGE_BYTES))
        digest = hashlib.sha256(b"".join(edges)).hexdigest()
        facts.append((file.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, digest))
    return short_hash(*facts)


def _model_files(path: Path) -> list[Path]:
    """Return the files of a model: all in and below its folder, or its file and the further parts of that."""
    if path.is_dir():
        return sorted(file for _, files in walk_folders(path) for file in files)
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    return sorted(
        file
        for file in path.parent.iterdir()
        if (other := _PART.fullmatch(file.name)) and (other["name"], other["rest"]) == (part["name"], part["rest"])
    )


class PromptFolder:
    """The folder at `path`, whose files take at most `max_bytes`; with 0 nothing is saved. It need not exist."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes

    def files(self) -> list[SavedFile]:
        """Return the files of saved prompts, the one used last first."""
        found = [
            SavedFile(Path(entry.path), status.st_size, status.st_mtime)
            for entry, status in self._entries()
            if _NAME.fullmatch(entry.name)
        ]
        return sorted(found, key=lambda file: file.used, reverse=True)

    def headers(self, most: int = MAX_FILES) -> list[tuple[SavedFile, Header]]:
        """Return the files used last with their headers, without those that are damaged."""
        found = []
        for file in self.files()[:most]:
            with contextlib.suppress(OSError, DamagedFile), file.path.open("rb") as stream:
                found.append((file, read_header(stream, file.size)[0]))
        return found

    def limit(self) -> int:
        """Return how many bytes the files may take now. Raises OSError."""
        used = sum(file.size for file in self.files())
        return min(self.max_bytes, (shutil.disk_usage(self.path).free + used) // FREE_DISK_DIVISOR)

    def trim(self) -> None:
        """Delete the files used longest ago, until the others are within the limits."""
        kept, size = 0, 0
        limit = self.limit()
        for file in self.files():
            if kept == MAX_FILES or size + file.size > limit:
                file.path.unlink(missing_ok=True)
            else:
                kept, size = kept + 1, size + file.size

    def delete_model(self, path: Path, kept_content: str = "") -> None:
        """Delete what is saved of the model at `path`, except for that of its content with the key `kept_content`."""
        for file in self.files():
            model, content, *_ = file.path.name.split("-")
            if model == model_key(path) and content != kept_content:
                with contextlib.suppress(OSError):
                    file.path.unlink()

    def clear(self) -> None:
        """Delete all files of saved prompts, also those that are being written. Raises BinNotEmptied."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.listdir(self.path)  # `_entries` takes a folder that cannot be read for an empty one
            for entry, _ in self._entries():
                if _NAME.fullmatch(entry.name) or entry.name.startswith(TEMPORARY):
                    Path(entry.path).unlink(missing_ok=True)
        except OSError as error:
            raise BinNotEmptied(str(self.path), error.strerror or str(error)) from error

    def sweep(self) -> None:
        """Delete what processes that were killed have not finished writing."""
        for entry, status in self._entries():
            if entry.name.startswith(TEMPORARY) and time.time() - status.st_mtime > _STALE_SECONDS:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """Yield the regular files in the folder."""
        entries: Sequence[os.DirEntry[str]] = ()
        with contextlib.suppress(OSError), os.scandir(self.path) as scan:
            entries = list(scan)
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield entry, entry.stat(follow_symlinks=False)
