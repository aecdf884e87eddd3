"""A folder for what does not fit into memory, that goes away with this process, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# A process that is killed cannot tidy up. This one waits until its stdin closes, which happens when we are gone.
_CARETAKER = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


def folder_until_we_end(parent: str) -> Path:
    """A new folder below `parent`."""
    folder = Path(parent).resolve() / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CARETAKER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return folder
