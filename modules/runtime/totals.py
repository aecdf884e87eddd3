"""Count the generations of all models since the start of the program."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from modules.core.events import Done, Event, Failed, Text
from modules.runtime.worker_process import Deliver


@dataclass(frozen=True)
class Totals:
    """Generations that were begun, that failed, and the tokens and seconds of those that have ended."""

    generations: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    longest: int = 0
    """Tokens of the longest prompt with its answer."""

    def plus(self, more: Totals) -> Totals:
        """Return the sum; `longest` is the larger of the two."""
        # Through `dataclasses.asdict`, this took a twentieth of the time of a short answer.
        return Totals(
            self.generations + more.generations,
            self.failures + more.failures,
            self.prompt_tokens + more.prompt_tokens,
            self.cached_tokens + more.cached_tokens,
            self.completion_tokens + more.completion_tokens,
            self.prompt_seconds + more.prompt_seconds,
            self.decode_seconds + more.decode_seconds,
            self.drafted_tokens + more.drafted_tokens,
            self.accepted_tokens + more.accepted_tokens,
            max(self.longest, more.longest),
        )


_BEGUN, _FAILED = Totals(generations=1), Totals(failures=1)


class GenerationTotals:
    """Owner of the numbers; any thread may call."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._lock = threading.Lock()

    @property
    def current(self) -> Totals:
        return self._totals

    def counting(self, deliver: Deliver) -> Deliver:
        """Count a generation that begins now. Return `deliver`, which counts how it ends as well."""
        self._add(_BEGUN)

        def count(event: Event) -> None:
            if not isinstance(event, Text):
                self._add_end(event)
            deliver(event)

        return count

    def _add_end(self, event: Event) -> None:
        if isinstance(event, Done):
            self._add(_of(event))
        elif isinstance(event, Failed):
            self._add(_FAILED)

    def _add(self, more: Totals) -> None:
        with self._lock:
            self._totals = self._totals.plus(more)


def _of(end: Done) -> Totals:
    return Totals(
        prompt_tokens=end.prompt_tokens,
        cached_tokens=end.cached_tokens,
        completion_tokens=end.completion_tokens,
        prompt_seconds=end.prompt_seconds,
        decode_seconds=end.decode_seconds,
        drafted_tokens=end.drafted_tokens,
        accepted_tokens=end.accepted_tokens,
        longest=end.prompt_tokens + end.completion_tokens,
    )
