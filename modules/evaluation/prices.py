"""Prices of options, which take turns with other long work, whether or not a page is open."""

from __future__ import annotations

from pathlib import Path

from modules.evaluation.price_errors import PriceNotFound, TooManyPrices
from modules.evaluation.price_loads import PriceLoads
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_run import PriceRun
from modules.evaluation.price_state import PriceState
from modules.evaluation.price_store import PriceResults
from modules.evaluation.run_queue import RunQueue
from modules.evaluation.texts import EvaluationText, TextLibrary
from modules.runtime.turns import Turns

DEFAULT_TEXT = "alice-in-wonderland.txt"


class Prices(RunQueue[PriceState]):
    """Starts, stops and remembers measurements. Any thread may call.

    `cache` is a folder of this program for distributions that are compared.
    """

    def __init__(self, loads: PriceLoads, results: PriceResults, texts: TextLibrary, cache: Path, turns: Turns) -> None:
        super().__init__("prices", turns, PriceNotFound, TooManyPrices)
        self.results = results
        self._loads, self._texts, self._cache = loads, texts, cache

    def residents(self) -> list[str]:
        """Return the models that `PriceRequest.may_unload` agrees to unload."""
        return self._loads.residents()

    def start(self, request: PriceRequest) -> str:
        """Queue a measurement and return its id.

        Raises TextNotFound, TextUnreadable, TooManyPrices, and what `PriceLoads.check` raises.
        """
        text = self._text(request.text)
        self._loads.check(request)
        run = PriceRun(request, text, self._loads, self.results, self._cache)
        return self._queue(run, {"en": f"the price of {request.key}", "zh": f"“{request.key}”的代价测量"})

    def _text(self, name: str) -> EvaluationText:
        names = [file.name for file in self._texts.files()]
        first = DEFAULT_TEXT if DEFAULT_TEXT in names or not names else names[0]
        return self._texts.read(name or first)
