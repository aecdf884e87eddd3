"""Helpers for download tests: random bytes, file lists, and transfer options with short waits."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from modules.downloads.context import MIB, TransferOptions
from modules.downloads.retry import RetryPolicy
from modules.hub.client import HubClient
from modules.hub.repository import Repository

REPO = "somebody/something"
HASTY = TransferOptions(RetryPolicy(waits=(0.01,) * 6))
"""The default six retries, almost without delay."""

SPLIT = TransferOptions(HASTY.retry, split_from=4 * MIB, min_segment=MIB)
"""Like HASTY, but files from 4 MiB are split into segments."""


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def list_repository(url: str, revision: str = "main") -> tuple[HubClient, Repository]:
    mirror = HubClient(url)
    return mirror, mirror.repository(REPO, revision)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until `condition` returns a true value; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)


def download_threads() -> list[str]:
    """Return the names of threads that belong to downloads."""
    names = ("download ", "ask a mirror", "files_", "write to the disk")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]
