"""Windows of a text: which tokens are scored together, and what the model reads before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def plan_windows(
    ids: Sequence[int], method: str, stride: int, length: int, bos: int | None = None, bos_once: bool = False
) -> list[Window]:
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
        return list(_chunks(ids, length, bos))
    return list(_rolling(ids, stride, length, bos, bos_once))


def _rolling(ids: Sequence[int], stride: int, length: int, bos: int | None, bos_once: bool) -> Iterator[Window]:
    prefix = [] if bos is None else [bos]
    end = min(length - len(prefix), len(ids))
    if len(prefix) + end > 1:
        yield Window([*prefix, *ids[:end]], 1, 1 - len(prefix))
    prefix = [] if bos_once else prefix
    room = length - len(prefix)
    while end < len(ids):
        scored, end = end, min(end + min(stride, room if prefix else room - 1), len(ids))
        begin = max(end - room, 0)
        yield Window([*prefix, *ids[begin:end]], len(prefix) + scored - begin, scored)


def _chunks(ids: Sequence[int], length: int, bos: int | None) -> Iterator[Window]:
    offset = 0 if bos is None else 1  # of the text's first token
    tokens = [*([] if bos is None else [bos]), *ids]
    for begin in range(0, len(tokens) - length + 1, length):
        chunk = tokens[begin : begin + length]
        if bos is not None:
            chunk[0] = bos
        first = length // 2 + 1
        yield Window(chunk, first, begin + first - offset)
