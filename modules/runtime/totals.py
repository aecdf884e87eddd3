"""Count the generations of all models since the start of the program."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from modules.core.events import Done, Event, Failed, Text
from modules.runtime.worker_process import Deliver


@dataclass(frozen=True)
class Totals:
    """Generations that were begun, that failed, and the tokens and seconds of those that have ended.

    Of one that was stopped, these are the tokens and seconds of the answer: how much of its prompt was in a cache is
    not known.
    """

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

    def counting(self, deliver: Deliver) -> CountedGeneration:
        """Count a generation that begins now. Return `deliver`, which counts how it ends as well."""
        self.add(_BEGUN)
        return CountedGeneration(self, deliver)

    def add(self, more: Totals) -> None:
        with self._lock:
            self._totals = self._totals.plus(more)


class CountedGeneration:
    """Receives the events of a generation for `deliver`, and adds them to `totals` when it ends or is stopped."""

    def __init__(self, totals: GenerationTotals, deliver: Deliver) -> None:
        self._totals, self._deliver = totals, deliver
        self._tokens, self._first_text_at, self._ended = 0, 0.0, False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Text):
            self._tokens += event.tokens
            self._first_text_at = self._first_text_at or time.monotonic()
        elif isinstance(event, Done):
            self._end(_of(event))
        elif isinstance(event, Failed):
            self._end(_FAILED)
        self._deliver(event)

    def stopped(self) -> None:
        """Count what came until now, unless the generation has ended."""
        seconds = time.monotonic() - self._first_text_at if self._tokens else 0.0
        self._end(Totals(completion_tokens=self._tokens, decode_seconds=seconds))

    def _end(self, totals: Totals) -> None:
        if not self._ended:
            self._ended = True
            self._totals.add(totals)


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
