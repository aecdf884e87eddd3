"""Evaluations of perplexity: queued, one at a time, whether or not a page is open."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from modules.evaluation.errors import EvaluationNotFound, TooManyEvaluations
from modules.evaluation.request import EvaluationRequest
from modules.evaluation.results import EvaluationResults
from modules.evaluation.run import EvaluationRun
from modules.evaluation.state import RunState
from modules.evaluation.subjects import SubjectLoader
from modules.evaluation.texts import EvaluationText, TextLibrary

log = logging.getLogger(__name__)

MAX_QUEUED = 20
MAX_KEPT = 20
"""Runs that have ended and whose states are kept."""
_END_SECONDS = 5.0
_ABANDONED_SECONDS = 86_400.0


class EvaluationRuns:
    """Starts, stops and remembers evaluations. Any thread may call.

    `cache` is a folder of this program for distributions that are compared.
    """

    def __init__(self, texts: TextLibrary, loader: SubjectLoader, results: EvaluationResults, cache: Path) -> None:
        self.texts, self.results = texts, results
        self._loader, self._cache = loader, cache
        self._lock = threading.Lock()  # guards the fields below
        self._runs: dict[str, EvaluationRun] = {}
        self._pool = ThreadPoolExecutor(1, "evaluations")

    def start(self, request: EvaluationRequest, text: EvaluationText | None = None) -> str:
        """Queue an evaluation and return its id. Without `text`, it is the one of that name in the folder of texts.

        Raises TextNotFound, TextUnreadable, TooManyEvaluations, and what `SubjectLoader.check` raises.
        """
        text = text or self.texts.read(request.text)
        self._loader.check(request)
        run = EvaluationRun(request, text, self._loader, self.results, self._cache)
        with self._lock:
            if (waiting := sum(not other.ended.is_set() for other in self._runs.values())) > MAX_QUEUED:
                raise TooManyEvaluations(waiting)
            self._runs[run.id] = run
            self._forget_old()
            self._pool.submit(run.run).add_done_callback(_log_defect)
        return run.id

    @property
    def state(self) -> tuple[RunState, ...]:
        """Snapshots of all runs, the newest last."""
        with self._lock:
            return tuple(run.state for run in self._runs.values())

    def find(self, id: str) -> RunState:
        """Return the snapshot of a run. Raises EvaluationNotFound."""
        return self._find(id).state

    def stop(self, id: str) -> None:
        """Stop a run, or take it out of the queue. Does nothing to one that has ended. Raises EvaluationNotFound."""
        self._find(id).stop()

    def wait(self, id: str, seconds: float | None = None) -> bool:
        """Wait for the end of a run; return False after so many seconds. Raises EvaluationNotFound."""
        return self._find(id).ended.wait(seconds)

    def close(self) -> None:
        """Stop all runs."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.stop()
        self._pool.shutdown(wait=False)
        for run in runs:
            run.ended.wait(_END_SECONDS)

    def sweep(self) -> None:
        """Delete what killed evaluations have left behind, unless it is so young that another process may use it."""
        with contextlib.suppress(OSError):
            for folder in self._cache.iterdir():
                if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)

    def _find(self, id: str) -> EvaluationRun:
        with self._lock:
            if id not in self._runs:
                raise EvaluationNotFound(id)
            return self._runs[id]

    def _forget_old(self) -> None:
        ended = [id for id, run in self._runs.items() if run.ended.is_set()]
        for id in ended[: max(len(ended) - MAX_KEPT, 0)]:
            del self._runs[id]


def _log_defect(work: Future[None]) -> None:
    if error := work.exception():
        log.error("an evaluation broke", exc_info=error)
