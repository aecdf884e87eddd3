"""Prices of options: measured one at a time, whether or not a page is open."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from modules.evaluation.price_errors import EvaluationInTheWay, PriceNotFound, TooManyPrices
from modules.evaluation.price_loads import PriceLoads
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_run import PriceRun
from modules.evaluation.price_state import PriceState
from modules.evaluation.price_store import PriceResults
from modules.evaluation.runs import EvaluationRuns
from modules.evaluation.texts import EvaluationText

log = logging.getLogger(__name__)

MAX_QUEUED = 20
MAX_KEPT = 20
"""Measurements that have ended and whose states are kept."""
DEFAULT_TEXT = "alice-in-wonderland.txt"
_END_SECONDS = 5.0


class Prices:
    """Starts, stops and remembers measurements. Any thread may call.

    `cache` is a folder of this program for distributions that are compared.
    """

    def __init__(self, loads: PriceLoads, results: PriceResults, evaluations: EvaluationRuns, cache: Path) -> None:
        self.results = results
        self._loads, self._evaluations, self._cache = loads, evaluations, cache
        self._lock = threading.Lock()  # guards the fields below
        self._runs: dict[str, PriceRun] = {}
        self._pool = ThreadPoolExecutor(1, "prices")

    def residents(self) -> list[str]:
        """Return the models that `PriceRequest.may_unload` agrees to unload."""
        return self._loads.residents()

    def start(self, request: PriceRequest) -> str:
        """Queue a measurement and return its id.

        Raises TextNotFound, TextUnreadable, EvaluationInTheWay, TooManyPrices, and what `PriceLoads.check` raises.
        """
        text = self._text(request.text)
        self._loads.check(request)
        if any(not state.has_ended for state in self._evaluations.state):
            raise EvaluationInTheWay()
        run = PriceRun(request, text, self._loads, self.results, self._cache)
        with self._lock:
            if (waiting := sum(not other.ended.is_set() for other in self._runs.values())) > MAX_QUEUED:
                raise TooManyPrices(waiting)
            self._runs[run.id] = run
            self._forget_old()
            self._pool.submit(run.run).add_done_callback(_log_defect)
        return run.id

    def _text(self, name: str) -> EvaluationText:
        texts = self._evaluations.texts
        names = [file.name for file in texts.files()]
        first = DEFAULT_TEXT if DEFAULT_TEXT in names or not names else names[0]
        return texts.read(name or first)

    @property
    def state(self) -> tuple[PriceState, ...]:
        """Snapshots of all measurements, the newest last."""
        with self._lock:
            return tuple(run.state for run in self._runs.values())

    def find(self, id: str) -> PriceState:
        """Return the snapshot of a measurement. Raises PriceNotFound."""
        return self._find(id).state

    def stop(self, id: str) -> None:
        """Stop a measurement. Does nothing to one that has ended. Raises PriceNotFound."""
        self._find(id).stop()

    def wait(self, id: str, seconds: float | None = None) -> bool:
        """Wait for the end of a measurement; return False after so many seconds. Raises PriceNotFound."""
        return self._find(id).ended.wait(seconds)

    def close(self) -> None:
        """Stop all measurements."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.stop()
        self._pool.shutdown(wait=False)
        for run in runs:
            run.ended.wait(_END_SECONDS)

    def _find(self, id: str) -> PriceRun:
        with self._lock:
            if id not in self._runs:
                raise PriceNotFound(id)
            return self._runs[id]

    def _forget_old(self) -> None:
        ended = [id for id, run in self._runs.items() if run.ended.is_set()]
        for id in ended[: max(len(ended) - MAX_KEPT, 0)]:
            del self._runs[id]


def _log_defect(work: Future[None]) -> None:
    if error := work.exception():
        log.error("a measurement broke", exc_info=error)
