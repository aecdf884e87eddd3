"""Write a file under a temporary name and rename it, so that it is whole at any moment."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def replace_file(target: Path, content: bytes) -> os.stat_result:
    """Replace the file's content: readers see either all of the old content or all of the new one.

    Permissions are kept. Return the status of the new file.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
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
