"""Bins that contain deleted files as they were, directly or in a folder for each deletion."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from modules.core.errors import BinNotEmptied

BIN = ".trash"


def names_in_bin(folder: Path) -> list[str]:
    """Return the names of the files in the bin, which may be missing, the last deleted first."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return [path.name for path in sorted(found, key=_deleted, reverse=True)]


def _deleted(path: Path) -> tuple[float, str]:
    """Return when a file was deleted: renaming changes the time of its status."""
    try:
        return path.stat().st_ctime, path.name
    except OSError:  # it has just been restored
        return 0.0, path.name


def empty_bin(folder: Path) -> None:
    """Delete all that is in the bin for good; the bin itself stays. A link is removed, not what it leads to.

    Raises BinNotEmptied.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                os.unlink(path)
    except OSError as error:
        raise BinNotEmptied(str(folder), error.strerror or str(error)) from error
