"""What tests of downloads share: bytes, a hub's list of files, a pace without patience."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from modules.downloads.retry import MIB, Pace
from modules.hub.client import Hub as Mirror
from modules.hub.repository import Repository

REPO = "somebody/something"
HASTY = Pace(waits=(0.01,) * 6)
"""Six tries as ever, but without the waits."""

SPLIT = Pace(waits=(0.01,) * 6, split_from=4 * MIB, least_segment=MIB)
"""The same, with small files in segments, too."""


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def listed(url: str, revision: str = "main") -> tuple[Mirror, Repository]:
    mirror = Mirror(url)
    return mirror, mirror.repository(REPO, revision)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait until it is so; fail if it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)


def threads() -> list[str]:
    """Names of those that carry bytes or look after a download."""
    names = ("download ", "ask a mirror", "files_", "write to the disk")
    return [each.name for each in threading.enumerate() if each.name.startswith(names)]
