"""A folder for offloaded weights that is deleted when this process ends, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A killed process cannot clean up after itself. This one waits until its stdin closes, which happens when we end.
_CLEANUP = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


def temporary_offload_folder(parent: str) -> Path:
    """Create a folder below `parent`, named after this process."""
    folder = Path(parent).resolve() / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    delete_at_end(folder)
    return folder


def delete_at_end(folder: Path) -> None:
    """Delete `folder` when this process ends."""
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CLEANUP, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
