"""Read the end of the log, by level and text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

from modules.system.redaction import redact

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
MAX_LINES = 500
_BYTES_READ = 2_000_000
_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) ", re.MULTILINE)


def read_log(path: Path, level: str = LEVELS[0], text: str = "", secrets: Iterable[str] = ()) -> list[str]:
    """Return the last lines of the log at `path`, at most 500, without `secrets`.

    They are those of records of at least `level` that contain `text`, in upper or lower case, with their tracebacks;
    only the last 2 MB are searched. A missing file is empty. Raises OSError.
    """
    wanted, folded = LEVELS[LEVELS.index(level) :], text.strip().casefold()
    records = _records(redact(_end_of(path), secrets))
    chosen = [record for of, record in records if of in (*wanted, "CRITICAL") and folded in record.casefold()]
    return [line for record in chosen for line in record.splitlines()][-MAX_LINES:]


def _end_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _BYTES_READ))
            content = file.read(_BYTES_READ)
    except FileNotFoundError:
        return ""
    if size > _BYTES_READ:
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", "replace")


def _records(text: str) -> Iterable[tuple[str, str]]:
    """Yield the level and the lines of each record. What precedes the first one belongs to a record cut off."""
    starts = list(_RECORD.finditer(text))
    if starts and text[: starts[0].start()].strip():
        yield "INFO", text[: starts[0].start()]
    for start, following in zip_longest(starts, starts[1:]):
        yield start[1], text[start.start() : following.start() if following else len(text)]
