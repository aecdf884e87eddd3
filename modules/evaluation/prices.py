"""Prices of options: measured one at a time, whether or not a page is open."""

from __future__ import annotations

from pathlib import Path

from modules.evaluation.price_errors import EvaluationInTheWay, PriceNotFound, TooManyPrices
from modules.evaluation.price_loads import PriceLoads
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_run import PriceRun
from modules.evaluation.price_state import PriceState
from modules.evaluation.price_store import PriceResults
from modules.evaluation.run_queue import RunQueue
from modules.evaluation.runs import EvaluationRuns
from modules.evaluation.texts import EvaluationText

DEFAULT_TEXT = "alice-in-wonderland.txt"


class Prices(RunQueue[PriceState]):
    """Starts, stops and remembers measurements. Any thread may call.

    `cache` is a folder of this program for distributions that are compared.
    """

    def __init__(self, loads: PriceLoads, results: PriceResults, evaluations: EvaluationRuns, cache: Path) -> None:
        super().__init__("prices", PriceNotFound, TooManyPrices)
        self.results = results
        self._loads, self._evaluations, self._cache = loads, evaluations, cache

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
        return self._queue(run)

    def _text(self, name: str) -> EvaluationText:
        texts = self._evaluations.texts
        names = [file.name for file in texts.files()]
        first = DEFAULT_TEXT if DEFAULT_TEXT in names or not names else names[0]
        return texts.read(name or first)
