"""The table of results, logs/evaluations.csv: the original web UI's columns, then further ones of ours."""

from __future__ import annotations

import csv
import dataclasses
import errno
import hashlib
import io
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import Words
from modules.evaluation.errors import ResultNotFound, ResultsNotSaved, ResultsUnreadable
from modules.system import file_lock
from modules.system.atomic_write import replace_file

ORIGINAL_COLUMNS = ("Model", "LoRAs", "Dataset", "Perplexity", "stride", "max_length", "Date", "Comment")
HASH_COLUMNS = ("options_hash", "model_hash", "loras_hash", "text_hash")
COLUMNS = (
    *ORIGINAL_COLUMNS,
    *("method", "bos", "windows", "tokens", "se", "token_se", "bits_per_byte", "loader"),
    *("difference", "difference_low", "difference_high", "kl", "kl_low", "kl_high", "kl_99", "same_top", "reference"),
    *HASH_COLUMNS,
    "id",
)
"""Columns of the file. `se` is the error by windows, `token_se` that of llama-perplexity; `difference` is in nats per
token against the model `reference`, paired."""
MAX_BYTES = 32 << 20
MAX_COMMENT = 2000
_NO_COLUMNS: Words = {"en": "the columns Model and Perplexity are missing", "zh": "缺少 Model 和 Perplexity 列"}


@dataclass(frozen=True)
class Row:
    """One result: the cells by column, all of them text. `id` is unique in the file."""

    id: str
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


class EvaluationResults:
    """Reads and writes the table, of which other programs may have made the first rows. Any thread may call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def rows(self) -> list[Row]:
        """Return all results, the oldest first. Raises ResultsUnreadable."""
        return self._read()[1]

    def find(self, keys: Mapping[str, str]) -> Row | None:
        """Return the newest result with these values in these columns; None if it was not tested yet."""
        return next((row for row in reversed(self.rows()) if all(row[key] == keys[key] for key in keys)), None)

    def add(self, cells: Mapping[str, str]) -> None:
        """Append a result. Raises ResultsUnreadable or ResultsNotSaved; the file is then as it was."""
        with self._lock, _FileLock(self.path):
            columns, rows = self._read()
            self._write(columns, [*rows, Row(cells["id"], cells)])

    def set_comments(self, comments: Mapping[str, str]) -> None:
        """Replace the comments of results, by their ids.

        Raises ResultNotFound if one of them is gone, ResultsUnreadable or ResultsNotSaved; nothing has changed then.
        """
        with self._lock, _FileLock(self.path):
            columns, rows = self._read()
            if comments.keys() - {row.id for row in rows}:
                raise ResultNotFound()
            changed = [
                dataclasses.replace(row, cells={**row.cells, "Comment": comments[row.id][:MAX_COMMENT]})
                if row.id in comments
                else row
                for row in rows
            ]
            self._write(columns, changed)

    def _read(self) -> tuple[Sequence[str], list[Row]]:
        """Return the columns of the file, ours included, and its rows."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ResultsUnreadable(str(self.path), f"> {MAX_BYTES >> 20} MiB")
            lines = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), restval="", strict=True)
            present = [name for name in lines.fieldnames or [] if name]
            cells = [{key: value for key, value in line.items() if key and value} for line in lines]
        except FileNotFoundError:
            return COLUMNS, []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ResultsUnreadable(str(self.path), why) from error
        if present and not {"Model", "Perplexity"} <= set(present):
            raise ResultsUnreadable(str(self.path), _NO_COLUMNS)
        foreign = [name for name in present if name not in COLUMNS]
        return (*COLUMNS, *foreign), _identified(cells)

    def _write(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_single_breaks({**row.cells, "id": row.id}) for row in rows)
        try:
            replace_file(self.path, text.getvalue().encode("utf-8", "replace"))
        except OSError as error:
            raise ResultsNotSaved(str(self.path), error.strerror or str(error)) from error


def _single_breaks(cells: Mapping[str, str]) -> dict[str, str]:
    """Replace carriage returns, which the writer does not quote, so that they would end a row."""
    return {column: text.replace("\r\n", "\n").replace("\r", "\n") for column, text in cells.items()}


def _identified(cells: Sequence[Mapping[str, str]]) -> list[Row]:
    """Give rows without an id, or with one that occurs before, one that stays the same while the file does."""
    rows, taken = list[Row](), set[str]()
    for number, row in enumerate(cells):
        name = row.get("id", "")
        if not name or name in taken:
            name = hashlib.sha256(f"{number}\0{row}".encode("utf-8", "replace")).hexdigest()[:12]
        taken.add(name)
        rows.append(Row(name, row))
    return rows


class _FileLock:
    """Keeps other processes from writing the file meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._path.with_name(f".{self._path.name}.lock")
            self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResultsNotSaved(
                str(self._path), error.strerror or errno.errorcode.get(error.errno or 0, "")
            ) from error
        file_lock.acquire(self._descriptor)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
