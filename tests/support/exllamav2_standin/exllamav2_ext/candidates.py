"""The candidates for the next token, and what the samplers leave of them: cpp/sampling.cpp.

The arrays stay whole, and only the first `count` count, because the extension looks at what lies behind them: see
`_keep` and `exclude_top`. The order matters as well: a point between 0 and 1 picks the token.
"""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

TINY = 1e-8
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Candidates:
    def __init__(self, logits: Floats, temperature: float, allowed: NDArray[Any] | None, exponent: int) -> None:
        shown = logits if allowed is None else np.where(allowed, logits, -np.inf).astype(np.float32)
        distance = shown - shown.max()
        if exponent == 2:
            distance = -(distance * distance)
        powers = np.exp(distance / np.float32(temperature))
        self.probs: Floats = (powers / powers.sum()).astype(np.float32)
        self.tokens: Ints = np.arange(len(logits))
        self.size = self.count = len(logits)

    def first(self, number: int) -> tuple[Ints, Floats]:
        number = min(number, self.count)
        return self.tokens[:number], self.probs[:number]

    def sort(self) -> None:
        """The likeliest first; the hopeless fall out."""
        order = np.argsort(-self.probs[: self.count], kind="stable")
        self._rearrange(order)
        self.count = int((self.probs[: self.count] >= TINY).sum())

    def _rearrange(self, order: Ints) -> None:
        self.probs[: len(order)], self.tokens[: len(order)] = self.probs[order], self.tokens[order]

    def _normalise(self) -> None:
        self.probs[: self.count] /= self.probs[: self.count].sum()

    # -- cutting -------------------------------------------------------------------------------------------------------

    def cut(self, top_k: int, top_p: float, top_a: float, min_p: float, tfs: float, typical: float) -> None:
        """Each only if there is still a choice, and each normalises."""
        largest = float(self.probs.max())
        steps = [
            (0 < top_k < self.size, lambda: self._top_k(top_k)),
            (0 < top_p < 1, lambda: self._top_p(top_p)),
            (top_a > 0, lambda: self._keep(top_a * float(self.probs[: self.count].max()) ** 2)),
            (0 < min_p < 1, lambda: self._keep(min_p * float(self.probs[: self.count].max()))),
            (0 < tfs < 1, lambda: self._tail_free(tfs)),
            (0 < typical < 1, lambda: self._typical(typical)),
        ]
        assert largest > 0, "no token is allowed"
        for wanted, step in steps:
            if wanted and self.count > 1:
                step()
                self._normalise()

    def _top_k(self, top_k: int) -> None:
        if top_k == 1:
            best = int(self.probs[: self.count].argmax())
            for array in (self.probs, self.tokens):
                array[[0, best]] = array[[best, 0]]
        else:
            best_ones = np.argsort(-self.probs[: self.count], kind="stable")[:top_k]
            self._rearrange(best_ones)
        self.count = top_k

    def _top_p(self, top_p: float) -> None:
        """As many as do not exceed `top_p` together, but one at least."""
        heap: list[tuple[float, int]] = []
        total = 0.0
        for place in np.flatnonzero(self.probs[: self.count] >= 1e-6):
            probability = float(self.probs[place])
            if total > top_p and probability < heap[0][0]:
                continue
            heapq.heappush(heap, (probability, int(self.tokens[place])))
            total += probability
            while total > top_p and len(heap) > 1:
                total -= heapq.heappop(heap)[0]
        heap.sort(reverse=True)
        self.count = len(heap)
        self.probs[: self.count], self.tokens[: self.count] = zip(*heap, strict=True)

    def _keep(self, threshold: float) -> None:
        """Those not below it, to the front; and, when its two pointers meet in one way, one more that is below.

        The swap after the pointers have passed each other is the extension's own; so is a `count` larger by one.
        """
        probs, tokens = self.probs, self.tokens
        i, j = 0, self.count - 1
        while j >= i:
            while i < self.size and probs[i] >= threshold and j >= i:
                i += 1
            if probs[j] >= threshold:
                if i < self.size:
                    probs[i], probs[j] = probs[j], probs[i]
                    tokens[i], tokens[j] = tokens[j], tokens[i]
                i += 1
            j -= 1
        self.count = min(i, self.size)

    def _tail_free(self, tfs: float) -> None:
        if self.count < 3:
            return
        self.sort()
        bends = np.abs(np.diff(self.probs[: self.count], 2))
        total = np.cumsum(bends / bends.sum()) if len(bends) else bends
        self.count = int((total <= tfs).sum()) + 1

    def _typical(self, typical: float) -> None:
        """By how far from the rest each one is; the last, that reaches `typical`, stays out."""
        self.sort()
        probs = self.probs[: self.count]
        surprise = probs + np.log(probs + 1e-10)
        order = np.argsort(np.abs(surprise - (probs * surprise).sum()), kind="stable")
        reached = np.flatnonzero(np.cumsum(probs[order]) >= typical)
        self._rearrange(order)
        self.count = max(int(reached[0]) if len(reached) else len(order), 1)

    # -- the rest of the chain -----------------------------------------------------------------------------------------

    def mirostat(self, mu: float) -> None:
        self.sort()
        self.count = max(int((self.probs[: self.count] >= 2.0**-mu).sum()), 1)
        self._normalise()

    def warm(self, temperature: float, low: float, high: float, exponent: float) -> None:
        """By `temperature`, or, with `high` above `low`, by one between them that the entropy says."""
        probs = self.probs[: self.count]
        if high > low:
            some = probs[probs > 0]
            entropy = float(-(some * np.log(some)).sum())
            temperature = low + (high - low) * (entropy / (math.log(self.count) or 1.0)) ** exponent
        powers = probs ** np.float32(1 / temperature)
        self.probs[: self.count] = powers / powers.sum()

    def exclude_top(self, mask: NDArray[Any], probability: float, threshold: float) -> None:
        """XTC. Whether a token is weakened is asked of its successor's probability: so it is in the extension."""
        probs, free = self.probs[: self.count], mask[self.tokens[: self.count]]
        over = (probs >= threshold) & free
        if over.sum() <= 1:
            return
        mass = float(probs[over].sum() - probs[over].min())
        following = np.append(self.probs, np.float32(0))[1 : self.count + 1]
        less = (following >= threshold) & free
        self.probs[: self.count] = np.where(
            less, probs * (1 - probability), probs * (1 + probability * mass / (1 - mass))
        )

    def pick(self, point: float) -> tuple[int, float]:
        """The token at `point` of the sums from the first on; the last of any probability if they do not reach it."""
        probs = self.probs[: self.count]
        possible = np.flatnonzero(np.cumsum(probs) >= point)[:1] if point <= probs.sum() else np.flatnonzero(probs)[-1:]
        place = int(possible[0]) if len(possible) else 0
        return int(self.tokens[place]), float(self.probs[place])
