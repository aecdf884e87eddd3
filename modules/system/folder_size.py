"""Measure the folders of the program, in bounded time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FolderSize:
    """The size of a folder's content; a lower bound if it is not `complete`: time ran out, or a part was unreadable."""

    bytes: int = 0
    files: int = 0
    complete: bool = True


def measure(folder: Path, seconds: float, skip: Collection[Path] = ()) -> FolderSize:
    """Add up the files below `folder`, which may be missing, for at most `seconds`.

    Files with several names count once, links not at all, and folders in `skip` are left out.
    """
    deadline = time.monotonic() + seconds
    skipped = {os.path.realpath(path) for path in skip}
    seen: set[tuple[int, int]] = set()
    size, complete, pending = 0, True, [os.path.realpath(folder)]
    while pending:
        if time.monotonic() > deadline:
            return FolderSize(size, len(seen), complete=False)
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending += [] if entry.path in skipped else [entry.path]
                        continue
                    status = entry.stat(follow_symlinks=False)
                    identity = (status.st_dev, status.st_ino)
                    if stat.S_ISREG(status.st_mode) and identity not in seen:
                        seen.add(identity)
                        size += status.st_size
        except FileNotFoundError:  # missing, or just deleted
            continue
        except OSError:
            complete = False
    return FolderSize(size, len(seen), complete)
