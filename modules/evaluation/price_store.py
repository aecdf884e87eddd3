"""Prices that were measured: `.prices.json` in the folder of models, beside the settings of the models."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from modules.core.errors import Words
from modules.core.events import Json
from modules.evaluation.errors import ResultsNotSaved, ResultsUnreadable
from modules.evaluation.price_result import PriceResult
from modules.system import file_lock
from modules.system.atomic_write import replace_file

FILE = ".prices.json"
MAX_BYTES = 32 << 20
MAX_RESULTS = 1000
MAX_REPEATED = 5
"""Results kept of the same comparison: the newest ones."""

_NO_LIST: Words = {"en": "it has no list of prices", "zh": "其中没有代价列表"}


class PriceResults:
    """Owner of the file. Any thread may call. Entries that are not ours are left out, and dropped by the next save."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()

    def all(self) -> list[PriceResult]:
        """Return all results, the oldest first. Raises ResultsUnreadable."""
        found = []
        for entry in self._read():
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                found.append(PriceResult.from_json(entry))
        return found

    def of(self, model: str, key: str = "", loader: str = "") -> list[PriceResult]:
        """Return the results of a model, of one option and one loader if these are given. Raises ResultsUnreadable."""
        results = (result for result in self.all() if result.model == model)
        return [result for result in results if key in ("", result.key) and loader in ("", result.loader)]

    def add(self, result: PriceResult) -> None:
        """Keep a result. Raises ResultsUnreadable or ResultsNotSaved; the file is then as it was."""
        with self._lock, self._locked():
            results = [*self.all(), result]
            same = [other for other in results if _comparison(other) == _comparison(result)]
            dropped = {other.id for other in same[:-MAX_REPEATED]}
            kept = [other for other in results if other.id not in dropped][-MAX_RESULTS:]
            content = json.dumps({"prices": [one.to_json() for one in kept]}, ensure_ascii=False, allow_nan=False)
            try:
                replace_file(self.path, content.encode("utf-8", "replace"))
            except OSError as error:
                raise ResultsNotSaved(str(self.path), error.strerror or str(error)) from error

    def _read(self) -> Sequence[Json]:
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
            if len(raw) > MAX_BYTES:
                raise ResultsUnreadable(str(self.path), f"> {MAX_BYTES >> 20} MiB")
            body = json.loads(raw)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ResultsUnreadable(str(self.path), why) from error
        entries = body.get("prices") if isinstance(body, dict) else None
        if not isinstance(entries, list):
            raise ResultsUnreadable(str(self.path), _NO_LIST)
        return entries

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing the file meanwhile."""
        try:
            lock = self.path.with_name(f"{FILE}.lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResultsNotSaved(str(self.path), error.strerror or str(error)) from error
        try:
            file_lock.acquire(descriptor)
            yield
        finally:
            os.close(descriptor)


def _comparison(result: PriceResult) -> tuple[str, ...]:
    return result.model, result.loader, result.key, result.a, result.b
