"""From the staging folder to where it belongs: a new folder appears at once, with all that is in it."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.downloads.checksum import digest, expected, read_back
from modules.downloads.partial_file import disk_faults
from modules.hub.repository import RemoteFile, Repository
from modules.hub.safe_paths import open_below, put_below

METADATA = "huggingface-metadata.txt"
STAGING = ".downloads"
LOCK = "lock"


@dataclass(frozen=True)
class Place:
    """Where a job's files go, and where they are until all are there: `target` below `root`, or `root` itself if that
    is ""; on the same file system. If `flat`, without the folders they have in the repository."""

    root: Path
    target: str
    job: str
    flat: bool = False

    @property
    def staging(self) -> Path:
        return self.root / STAGING / self.job

    @property
    def final(self) -> Path:
        return self.root / self.target

    @property
    def _tree(self) -> Path:
        return self.staging / "tree"

    def part(self, number: int) -> Path:
        """Where the repository's file of that number is kept meanwhile, but for the ending of its name."""
        return self.staging / f"{number:05}"

    def clear(self) -> None:
        """Delete what is there of an unfinished download, but for the lock on it."""
        for entry in self.staging.iterdir() if self.staging.exists() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def below(self, path: str) -> str:
        """Where the repository's file `path` goes, below `root`."""
        return f"{self.target}/{self.name(path)}" if self.target else self.name(path)

    def name(self, path: str) -> str:
        """Where the repository's file `path` goes, below the target."""
        return path.rpartition("/")[2] if self.flat else path

    def has(self, file: RemoteFile, watch: Callable[[int], None]) -> bool:
        """Whether `file` is there already, with the right size and hash. `watch` as of `verify.read_back`.

        LinkInTheWay if that is behind a link, DiskRefused.
        """
        with disk_faults(self.root, 0):
            found = (self._tree, self.name(file.path)), (self.root, self.below(file.path))
            return any(_is(file, folder, path, watch) for folder, path in found if folder.exists())

    def publish(self, parts: Mapping[str, Path], metadata: str) -> None:
        """Move the verified `parts`, by their paths in the repository, to where they belong; existing ones are
        replaced. Doing it again after it was broken off goes on with it. LinkInTheWay, DiskFull, DiskRefused."""
        with disk_faults(self.root, 0):
            if self.target:
                note = self.staging / METADATA
                note.write_text(metadata, encoding="utf-8")
                parts = {METADATA: note, **parts}
            if self.target and not os.path.lexists(self.final):
                for path, part in parts.items():
                    put_below(part, self._tree, self.name(path))
                put_below(self._tree, self.root, self.target)
                return
            self._empty_tree()
            for path, part in parts.items():
                put_below(part, self.root, self.below(path))

    def _empty_tree(self) -> None:
        """Move what an earlier, broken publication has left: the target has come into being since."""
        for path in [each for each in self._tree.rglob("*") if each.is_file()]:
            put_below(path, self.root, self.below(path.relative_to(self._tree).as_posix()))


def metadata(repository: Repository, endpoint: str, files: Sequence[RemoteFile]) -> str:
    """The note upstream leaves beside a model, and which commit it is and whence."""
    sums = "".join(f"    {each.sha256} {each.path}\n" for each in files if each.sha256)
    return (
        f"url: https://huggingface.co/{repository.name}\n"
        f"branch: {repository.revision}\n"
        f"download date: {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        f"commit: {repository.commit}\n"
        f"endpoint: {endpoint}\n"
    ) + (f"sha256sum:\n{sums}" if sums else "")


def _is(file: RemoteFile, folder: Path, path: str, watch: Callable[[int], None]) -> bool:
    try:
        descriptor = open_below(folder, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != file.size:
            return False
        return read_back(descriptor, digest(file), watch) == expected(file)
    finally:
        os.close(descriptor)
