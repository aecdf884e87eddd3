"""Windows of a text: which tokens are scored together, and what the model reads before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

ROLLING, CHUNKS = "rolling", "chunks"
METHODS = (ROLLING, CHUNKS)
"""Ways of cutting a text into windows: see `plan_windows`."""
CHUNK_LENGTH = 512
"""Tokens of a chunk, unless the user says otherwise; the default of llama-perplexity."""
MIN_LENGTH = 4
"""Fewest tokens of a window; a chunk of 4 has one target."""


@dataclass(frozen=True)
class Window:
    """Tokens for one call of the engine. Those from index `first` on are scored, each given all tokens before it.

    The text's tokens with the indexes `start` to `start + targets` (exclusive) are scored.
    """

    tokens: Sequence[int]
    first: int
    start: int

    @property
    def targets(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.first


@dataclass(frozen=True)
class Span:
    """A window by indexes of the text's tokens: `begin` to `end` are read, those from `start` on are scored.

    With `has_bos`, BOS comes before them.
    """

    begin: int
    start: int
    end: int
    has_bos: bool


class WindowPlan(Sequence[Window]):
    """The windows of a text, made when they are asked for: with a small stride they repeat every token many times."""

    def __init__(self, ids: Sequence[int], bos: int | None, spans: Sequence[Span]) -> None:
        self.ids, self.bos, self.spans = ids, bos, spans

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, index: int) -> Window: ...
    @overload
    def __getitem__(self, index: slice) -> WindowPlan: ...
    def __getitem__(self, index: int | slice) -> Window | WindowPlan:
        if isinstance(index, slice):
            return WindowPlan(self.ids, self.bos, self.spans[index])
        span = self.spans[index]
        prefix = [self.bos] if span.has_bos and self.bos is not None else []
        return Window([*prefix, *self.ids[span.begin : span.end]], len(prefix) + span.start - span.begin, span.start)


def plan_windows(
    ids: Sequence[int], method: str, stride: int, length: int, bos: int | None = None, bos_once: bool = False
) -> WindowPlan:
    """Cut the tokens of a text, which has no special ones, into windows of at most `length` tokens.

    "rolling": every token is scored once, the first ones in one window and then `stride` at a time, with all tokens
    before them that fit. Without a BOS token the very first has nothing before it, so it is not scored; and a window
    begins with at least one token that was scored before, so that at most `length` - 1 are new. With `bos_once`, only
    the first window begins with BOS; with a stride of `length` - 1 these are the windows of lm-eval.

    "chunks": those of llama-perplexity. The text, after BOS if there is one, is cut into pieces of `length` tokens, and
    an incomplete last one is dropped. BOS replaces the first token of every chunk. Scored are the tokens after the one
    in the middle; `stride` has no effect.

    Returns no windows for a text that is too short.
    """
    if method == CHUNKS:
        return WindowPlan(ids, bos, list(_chunks(len(ids), length, bos is not None)))
    return WindowPlan(ids, bos, list(_rolling(len(ids), stride, length, bos is not None, bos_once)))


def _rolling(count: int, stride: int, length: int, has_bos: bool, bos_once: bool) -> Iterator[Span]:
    end = min(length - has_bos, count)
    if has_bos + end > 1:
        yield Span(0, 1 - has_bos, end, has_bos)
    has_bos = has_bos and not bos_once
    room = length - has_bos
    step = min(stride, room if has_bos else room - 1)
    while end < count:
        start, end = end, min(end + step, count)
        yield Span(max(end - room, 0), start, end, has_bos)


def _chunks(count: int, length: int, has_bos: bool) -> Iterator[Span]:
    for chunk in range((count + has_bos) // length):
        end = (chunk + 1) * length - has_bos
        begin = end - length + has_bos
        yield Span(begin, end - length + length // 2 + 1, end, has_bos)
