"""Delete temporary files that saves have left behind because their process was killed."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from pathlib import Path

MIN_AGE = 3600.0
"""Seconds since its last change: a younger file may be one that another process is writing."""

# What tempfile.mkstemp puts behind the name, or "new"; conversions add ".part".
_SUFFIX = re.compile(r"([a-z0-9_]{8}|new)(\.part)?")


def sweep(folder: Path, names: Iterable[str], min_age: float = MIN_AGE) -> list[Path]:
    """Delete the leftovers of saving files of these `names` in `folder`, and return their paths.

    A file is saved as ".<name>.<random>" and then renamed. What cannot be deleted stays.
    """
    prefixes = tuple(f".{name}." for name in names)
    deleted = []
    with contextlib.suppress(OSError):  # no such folder
        for path in sorted(folder.iterdir()):
            if any(_is_leftover(path.name, prefix) for prefix in prefixes) and _delete_old_file(path, min_age):
                deleted.append(path)
    return deleted


def _is_leftover(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and _SUFFIX.fullmatch(name[len(prefix) :]) is not None


def _delete_old_file(path: Path, min_age: float) -> bool:
    try:
        if path.is_symlink() or not path.is_file() or time.time() - path.stat().st_mtime < min_age:
            return False
        path.unlink()
    except OSError:
        return False
    return True
