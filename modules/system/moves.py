"""Move several files that belong together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


def move_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename each source to its target. If one fails, the others are moved back if possible; raises its OSError.

    One fails on Windows while another program has it open.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
            moved.append((source, target))
    except OSError:
        for source, target in reversed(moved):
            with contextlib.suppress(OSError):
                os.rename(target, source)
        raise
