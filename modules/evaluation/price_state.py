"""Snapshots of measurements of prices, for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modules.core.errors import WebUIError
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_result import Effect, Pair, PriceResult, effects_of

PricePhase = Literal["queued", "quality", "measuring", "done", "failed", "stopped"]
PRICE_ENDED = ("done", "failed", "stopped")


@dataclass(frozen=True)
class PriceState:
    """One measurement. `done` of `total` loads have ended, `value` is that of the load under way.

    In the phase "quality" both values are loaded once for the perplexity, without measuring speed; in "measuring" come
    the pairs. `error` is why it failed, or after "done" why the result could not be kept.
    """

    id: str
    request: PriceRequest
    phase: PricePhase = "queued"
    done: int = 0
    total: int = 0
    value: str = ""
    seconds: float = 0.0
    foreign_load: float = 0.0
    pairs: tuple[Pair, ...] = ()
    result: PriceResult | None = None
    error: WebUIError | None = None

    @property
    def has_ended(self) -> bool:
        return self.phase in PRICE_ENDED

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Return the effects that the pairs so far show."""
        return effects_of(self.pairs)

    @property
    def seconds_left(self) -> float | None:
        """About how many seconds are left; None as long as that is unknown."""
        return self.seconds / self.done * (self.total - self.done) if self.done > 1 else None
