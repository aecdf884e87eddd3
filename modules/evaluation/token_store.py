"""Log-probabilities of the tokens of earlier evaluations, so that later ones are compared with them token by token."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from modules.evaluation.statistics import Interval, compare
from modules.system.atomic_write import replace_file

log = logging.getLogger(__name__)

MAX_FILES = 200
MAX_BYTES = 64 << 20
"""Of all files together; the oldest are deleted."""
_SUFFIX = ".tokens"
_ID = re.compile(r"[0-9a-f]{12}")


class TokenStore:
    """A folder with one file for each evaluation: a line of JSON, then float32 numbers. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, id: str, windows_hash: str, windows: Sequence[Sequence[float]]) -> None:
        """Keep the log-probabilities of an evaluation by windows; where the disk refuses, there is no comparison."""
        numbers = array("f", [value for window in windows for value in window])
        if sys.byteorder == "big":
            numbers.byteswap()
        head = json.dumps({"windows": windows_hash, "lengths": list(map(len, windows))}).encode() + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._folder / f"{id}{_SUFFIX}", head + numbers.tobytes())
            self._delete_oldest()
        except OSError as error:
            log.warning("%s: %s", self._folder, error)

    def compare(self, id: str, base: str) -> Interval | None:
        """Return how much higher the mean loss of an evaluation is than that of `base`, in nats per token, paired.

        None unless both are kept, and scored the same tokens of the same windows.
        """
        found, other = self._read(id), self._read(base)
        if found is None or other is None or found[0] != other[0]:
            return None
        return compare(found[1], other[1])

    def _read(self, id: str) -> tuple[object, list[Sequence[float]]] | None:
        """Return the windows of an evaluation, and what they must have in common with another's; None if damaged."""
        if not _ID.fullmatch(id):  # it may come from a file that somebody has edited
            return None
        try:
            head, _, rest = (self._folder / f"{id}{_SUFFIX}").read_bytes().partition(b"\n")
            about, numbers = json.loads(head), array("f")
            numbers.frombytes(rest)
            lengths = [int(length) for length in about["lengths"]]
            if sys.byteorder == "big":
                numbers.byteswap()
            if not lengths or min(lengths) < 1 or sum(lengths) != len(numbers) or not all(map(math.isfinite, numbers)):
                return None
            return (about["windows"], lengths), list(_split(numbers, lengths))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _delete_oldest(self) -> None:
        files = [(file.stat().st_mtime_ns, file) for file in self._folder.glob(f"*{_SUFFIX}")]
        total = 0
        for count, (_, file) in enumerate(sorted(files, reverse=True), 1):
            total += file.stat().st_size
            if count > MAX_FILES or total > MAX_BYTES:
                file.unlink(missing_ok=True)


def _split(numbers: Sequence[float], lengths: Sequence[int]) -> Iterator[Sequence[float]]:
    start = 0
    for length in lengths:
        yield numbers[start : start + length]
        start += length
