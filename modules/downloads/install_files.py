"""Move verified files from the staging folder to their target; a new target folder appears at once, complete."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.downloads.checksum import expected_hash, hash_file, new_digest
from modules.downloads.disk import disk_errors
from modules.hub.repository import RemoteFile, Repository
from modules.hub.safe_paths import move_below, open_below

METADATA = "huggingface-metadata.txt"
STAGING = ".downloads"
LOCK = "lock"


@dataclass(frozen=True)
class InstallTarget:
    """Where the files of a job go, and where they are staged until all of them are complete.

    They go to folder `folder` of `root`, or to `root` itself if `folder` is "". If `flat`, the folders of the
    repository are dropped. The staging folder is on the same file system.
    """

    root: Path
    folder: str
    job: str
    flat: bool = False

    @property
    def staging(self) -> Path:
        return self.root / STAGING / self.job

    @property
    def final(self) -> Path:
        return self.root / self.folder

    @property
    def _tree(self) -> Path:
        """The new target folder while it is assembled."""
        return self.staging / "tree"

    def part_path(self, number: int) -> Path:
        """Return where file number `number` of the repository is kept until all are complete."""
        return self.staging / f"{number:05}.part"

    def path_in_root(self, path: str) -> str:
        """Return where the repository's file `path` goes, relative to `root`."""
        return f"{self.folder}/{self.path_in_folder(path)}" if self.folder else self.path_in_folder(path)

    def path_in_folder(self, path: str) -> str:
        """Return where the repository's file `path` goes, relative to the target folder."""
        return path.rpartition("/")[2] if self.flat else path

    def clear_staging(self) -> None:
        """Delete everything in the staging folder except its lock."""
        for entry in self.staging.iterdir() if self.staging.exists() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def has(self, file: RemoteFile, on_progress: Callable[[int], None]) -> bool:
        """Whether `file` is already present with the right size and hash.

        `on_progress` is that of `checksum.hash_file`. Raises LinkInTheWay if the file is behind a link, or DiskRefused.
        """
        with disk_errors(self.root, 0):
            locations = (self._tree, self.path_in_folder(file.path)), (self.root, self.path_in_root(file.path))
            return any(_is_file(file, folder, path, on_progress) for folder, path in locations if folder.exists())

    def install(self, parts: Mapping[str, Path], metadata: str) -> None:
        """Move the verified `parts`, by their paths in the repository, to the target and replace existing files.

        An interrupted installation is completed by calling this again. Raises LinkInTheWay, DiskFull or DiskRefused.
        """
        with disk_errors(self.root, 0):
            if self.folder:
                note = self.staging / METADATA
                note.write_text(metadata, encoding="utf-8")
                parts = {METADATA: note, **parts}
            if self.folder and not os.path.lexists(self.final):
                for path, part in parts.items():
                    move_below(part, self._tree, self.path_in_folder(path))
                move_below(self._tree, self.root, self.folder)
                return
            self._install_tree()
            for path, part in parts.items():
                move_below(part, self.root, self.path_in_root(path))

    def _install_tree(self) -> None:
        """Move the files that an interrupted installation has left in the tree: the target has been created since."""
        for path in [path for path in self._tree.rglob("*") if path.is_file()]:
            move_below(path, self.root, self.path_in_root(path.relative_to(self._tree).as_posix()))


def metadata_text(repository: Repository, endpoint: str, files: Sequence[RemoteFile]) -> str:
    """Return the note that the original web UI writes next to a model, extended by commit and endpoint."""
    checksums = "".join(f"    {file.sha256} {file.path}\n" for file in files if file.sha256)
    return (
        f"url: https://huggingface.co/{repository.name}\n"
        f"branch: {repository.revision}\n"
        f"download date: {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        f"commit: {repository.commit}\n"
        f"endpoint: {endpoint}\n"
    ) + (f"sha256sum:\n{checksums}" if checksums else "")


def _is_file(file: RemoteFile, folder: Path, path: str, on_progress: Callable[[int], None]) -> bool:
    """Whether `path` below `folder` is a regular file with the size and hash of `file`."""
    try:
        descriptor = open_below(folder, path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        stats = os.fstat(descriptor)
        if not stat.S_ISREG(stats.st_mode) or stats.st_size != file.size:
            return False
        return hash_file(descriptor, new_digest(file), on_progress) == expected_hash(file)
    finally:
        os.close(descriptor)
