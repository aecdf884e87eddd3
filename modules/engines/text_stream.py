"""Turn the bytes of tokens into text that may be shown: whole characters, and no part of a stop string."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Iterable, Sequence

from modules.core.events import Text, TokenLogprobs

CHARACTER_TOKENS = 4
"""Tokens that a character may have: one for each of its bytes."""


class TextStream:
    """The text of one answer. `feed` and `finish` return the `Text` that may be shown now, or None.

    A character split between tokens waits for its remaining bytes; text that may begin a stop string waits until it is
    clear that it does not. `stop_string` is the one that ended the text, "" if none has; it is dropped with everything
    after it. `begun` are the bytes of a character in which the prompt ends, which the answer then begins with.
    """

    def __init__(self, stops: Sequence[str], begun: bytes = b"") -> None:
        self._begun = begun
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self._tokens = 0
        self._logprobs: list[TokenLogprobs] = []
        self.stop_string = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return bool(self.stop_string)

    def feed(self, piece: bytes, logprobs: TokenLogprobs | None = None) -> Text | None:
        """Add the bytes of one more token."""
        self._tokens += 1
        piece, self._begun = self._begun + piece, b""
        if logprobs is not None:
            self._logprobs.append(dataclasses.replace(logprobs, piece=piece.hex()))
        return self._add(self._decoder.decode(piece))

    def feed_text(self, text: str, tokens: int, logprobs: Sequence[TokenLogprobs] = ()) -> Text | None:
        """Add the text of so many tokens, whole characters only; `logprobs` have their pieces."""
        self._tokens += tokens
        self._logprobs.extend(logprobs)
        return self._add(text)

    def _add(self, text: str) -> Text | None:
        self._pending += text
        return self._release(self._safe_length() if self._stops else len(self._pending))

    def finish(self, rest: bytes = b"") -> Text | None:
        """Release what was held back, then `rest` of the last token. An incomplete character becomes U+FFFD."""
        if rest and self._logprobs:
            self._logprobs[-1] = dataclasses.replace(self._logprobs[-1], piece=self._logprobs[-1].piece + rest.hex())
        if not self.stopped:
            self._pending += self._decoder.decode(rest, final=True)
            self._safe_length()
        return self._release(len(self._pending), last=True)

    def _safe_length(self) -> int:
        """Return how many pending characters cannot belong to a stop string. Cut the text at a complete one.

        Of several stop strings the one that ends first counts, then the longest, so that the result does not depend on
        how the text is split into tokens.
        """
        starts = {stop: self._pending.find(stop) for stop in self._stops}
        matches = [(start + len(stop), start, stop) for stop, start in starts.items() if start >= 0]
        if matches:
            _, start, self.stop_string = min(matches)
            self._pending = self._pending[:start]
            return len(self._pending)
        return len(self._pending) - max((_overlap(self._pending, stop) for stop in self._stops), default=0)

    def _release(self, length: int, last: bool = False) -> Text | None:
        text, self._pending = self._pending[:length], self._pending[length:]
        if not text and not (last and self._tokens):
            return None
        event = Text(text, self._tokens, tuple(self._logprobs))
        self._tokens = 0
        self._logprobs.clear()
        return event


def begun_character(pieces: Iterable[bytes]) -> bytes:
    """Return the bytes of the character in which these tokens end, b"" if they end with a whole one."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(b"".join(pieces))
    return decoder.getstate()[0]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)
