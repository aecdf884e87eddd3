"""Write a file under a temporary name and rename it, so that it is whole at any moment."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

_MAX_PREFIX_BYTES = 247
"""Of a temporary name: file systems allow 255 bytes, of which `mkstemp` takes eight more."""


def replace_file(target: Path, content: bytes) -> os.stat_result:
    """Replace the file's content: readers see either all of the old content or all of the new one.

    Permissions are kept. Return the status of the new file.
    """
    descriptor, name = tempfile.mkstemp(prefix=_prefix(target.name), dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(name, target.stat().st_mode & 0o777)
        status = os.stat(name)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    return status


def _prefix(name: str) -> str:
    """Return the beginning of the temporary name of a file, without letters that are too many."""
    while len(os.fsencode(name)) > _MAX_PREFIX_BYTES - 2:
        name = name[:-1]
    return f".{name}."
