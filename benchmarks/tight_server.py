"""Run `server.py` on a machine that seems to have room for one model, whatever its memory.

    .venv/bin/python benchmarks/tight_server.py [flags of server.py]

The environment variable TIGHT_BYTES is the memory that models may take together. Pages of mapped files count as free,
as they do for the system.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.program import process_tree

LIMIT = int(os.environ["TIGHT_BYTES"])


def available_memory() -> int:
    """Return what the limit leaves, at least one byte: 0 would mean that it is unknown."""
    children = [pid for pid in process_tree(os.getpid()) if pid != os.getpid()]
    return max(LIMIT - sum(map(own_memory, children)), 1)


def own_memory(pid: int) -> int:
    """Return the bytes of a process that belong to no file; 0 if it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines.get("RssAnon", "0 kB").split()[0]) * 1024


def main() -> int:
    from modules.system import cpu_memory

    cpu_memory.available_memory = available_memory
    import server

    return server.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
