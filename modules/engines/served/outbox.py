"""Events on their way from the event loop of an engine to the thread that hands them on, many at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from modules.core.events import ENDS, Begun, Event, Text, TokenLogprobs

PAUSE_SECONDS = 0.05
"""Least time between two hand-ons. Twenty writes a second look as smooth as a hundred."""
PAUSE_PER_CALL = 0.00025
"""Seconds that each call under way adds to the pause: what a hand-on costs is paid less often the more there are."""
FIRST_PAUSE_SECONDS = 0.01
"""Least time before the hand-on of a first text, which somebody waits for."""
MOST_UNREAD = 1 << 20
"""Characters of one call that may wait; then nothing more is read of it from the server."""


class _Waiting:
    """The events of one call that wait: its beginning, a position or progress, then text, then the end."""

    __slots__ = ("begun", "end", "is_full", "logprobs", "parts", "size", "state", "tokens")

    def __init__(self) -> None:
        self.begun: Event | None = None
        self.state: Event | None = None
        self.parts: list[str] = []
        self.tokens = 0
        self.size = 0
        self.logprobs: list[TokenLogprobs] = []
        self.end: Event | None = None
        self.is_full = False

    def events(self) -> list[Event]:
        events = [event for event in (self.begun, self.state) if event is not None]
        if self.parts:
            events.append(Text("".join(self.parts), self.tokens, tuple(self.logprobs)))
        if self.end is not None:
            events.append(self.end)
        return events


class Outbox:
    """Collects events by their calls: of several texts one, of several positions in a queue the last.

    Any thread may put events; one thread takes them, and opens and closes calls. `drained` is called with a call whose
    text was MOST_UNREAD, as soon as it has been taken. The first text of a call waits for FIRST_PAUSE_SECONDS at most,
    however many calls there are.
    """

    def __init__(self, drained: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._drained, self._clock = drained, clock
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._waiting: dict[int, _Waiting] = {}
        self._fresh: set[int] = set()  # those that wait, of which no text has been taken yet
        self._begun: set[int] = set()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_interrupted = False
        self._taken_at = self._all_taken_at = -PAUSE_SECONDS

    def open(self, call: int) -> None:
        self._open.add(call)

    def close(self, call: int) -> None:
        """Drop what waits of a call, and what will be put."""
        self._open.discard(call)
        with self._lock:
            self._waiting.pop(call, None)
            self._fresh.discard(call)
            self._begun.discard(call)

    @property
    def is_open(self) -> bool:
        """Whether any call is open."""
        return bool(self._open)

    @property
    def pause(self) -> float:
        """Seconds between two hand-ons."""
        return max(PAUSE_SECONDS, len(self._open) * PAUSE_PER_CALL)

    def put(self, call: int, event: Event) -> bool:
        """Add an event of a call. Return whether more text may be added now."""
        with self._lock:
            if call not in self._open:
                return True
            wakes = not self._waiting
            waiting = self._waiting.get(call)
            if waiting is None:
                waiting = self._waiting[call] = _Waiting()
                if call not in self._begun:
                    wakes = wakes or not self._fresh
                    self._fresh.add(call)
            if isinstance(event, Text):
                waiting.parts.append(event.text)
                waiting.tokens += event.tokens
                waiting.size += len(event.text)
                if event.logprobs:
                    waiting.logprobs.extend(event.logprobs)
                waiting.is_full = waiting.size >= MOST_UNREAD
            elif isinstance(event, ENDS):
                waiting.end = event
            elif isinstance(event, Begun):
                waiting.begun = event
            else:
                waiting.state = event
        if wakes:
            self._wake.put(None)
        return not waiting.is_full

    def take(self) -> list[tuple[int, Event]]:
        """Wait until there are events and the pause since the last ones is over, and return all of them.

        Returns none if it was interrupted.
        """
        while not self._is_interrupted:
            rest = self._rest()
            if rest is not None and rest <= 0:
                return self._take_due()
            try:
                self._wake.get(timeout=rest)
            except queue.Empty:
                continue
        return []

    def _rest(self) -> float | None:
        """Return the seconds until something may be taken, None if nothing waits."""
        if not self._waiting:
            return None
        rest = self._all_taken_at + self.pause
        if self._fresh:
            rest = min(rest, self._taken_at + FIRST_PAUSE_SECONDS)
        return rest - self._clock()

    def _take_due(self) -> list[tuple[int, Event]]:
        now = self._clock()
        with self._lock:
            if now >= self._all_taken_at + self.pause:
                taken, self._waiting = self._waiting, {}
                self._all_taken_at = now
            else:
                taken = {call: self._waiting.pop(call) for call in self._fresh}
            self._fresh -= taken.keys()
            self._begun |= {call for call, waiting in taken.items() if waiting.parts}
        self._taken_at = now
        for call, waiting in taken.items():
            if waiting.is_full:
                self._drained(call)
        return [(call, event) for call, waiting in taken.items() for event in waiting.events()]

    def interrupt(self) -> None:
        """Let `take` return at once, until `resume` is called."""
        self._is_interrupted = True
        self._wake.put(None)

    def resume(self) -> None:
        self._is_interrupted = False
