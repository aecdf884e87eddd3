"""Find the processes that render templates."""

from __future__ import annotations

import time
from pathlib import Path


def render_processes(parent: int) -> list[int]:
    """Return the processes of a parent that render templates."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if b"render_child.py" in command and int(stat.rpartition(")")[2].split()[1]) == parent:
            found.append(int(folder.name))
    return found


def wait_until_ended(process: int, seconds: float = 4) -> None:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{process}").exists() and Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
