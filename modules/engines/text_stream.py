"""From tokens' bytes to text that may be shown: whole characters only, and never a stop string or the start of one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from modules.core.events import Text, TokenChances


class TextStream:
    """Collects one answer. `feed` and `finish` return the `Text` that may go out now, or None.

    A character cut by a token's end waits for its other bytes; text that a stop string may begin with waits until it
    is clear that it does not. `stopped` tells that a stop string was met: it and what follows it are dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._tokens = 0
        self._chances: list[TokenChances] = []
        self.stopped = False

    def feed(self, piece: bytes, chances: TokenChances | None = None) -> Text | None:
        """Take in the bytes of one more token."""
        self._tokens += 1
        if chances is not None:
            self._chances.append(chances)
        self._held += self._decoder.decode(piece)
        if not self._stops:
            return self._release(len(self._held))
        return self._release(self._clear_length())

    def finish(self, rest: bytes = b"") -> Text | None:
        """The end of the answer: what was held back goes out, a half character as U+FFFD, `rest` after it."""
        if not self.stopped:
            self._held += self._decoder.decode(rest, final=True)
            self._clear_length()
        return self._release(len(self._held), last=True)

    def _clear_length(self) -> int:
        """How many characters of the held text are no part of a stop string. Cuts the text where one is met.

        That is the one complete first and of several the longest, so that it does not matter how the tokens fall.
        """
        places = {stop: self._held.find(stop) for stop in self._stops}
        met = [(place + len(stop), place) for stop, place in places.items() if place >= 0]
        if met:
            self.stopped = True
            self._held = self._held[: min(met)[1]]
            return len(self._held)
        return len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)

    def _release(self, length: int, last: bool = False) -> Text | None:
        text, self._held = self._held[:length], self._held[length:]
        if not text and not (last and self._tokens):
            return None
        event = Text(text, self._tokens, tuple(self._chances))
        self._tokens = 0
        self._chances.clear()
        return event


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)
