"""The candidates for the next token and the samplers that remove some of them: cpp/sampling.cpp.

Only the first `count` elements of the arrays are candidates. The arrays keep their length, because the extension reads
beyond `count`: see `_keep_above` and `exclude_top`. The order matters too, because a token is chosen by a point between
0 and 1 of the cumulative probabilities.
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
        masked = logits if allowed is None else np.where(allowed, logits, -np.inf).astype(np.float32)
        distance = masked - masked.max()
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
        """Sort by descending probability and drop candidates below TINY."""
        order = np.argsort(-self.probs[: self.count], kind="stable")
        self._rearrange(order)
        self.count = int((self.probs[: self.count] >= TINY).sum())

    def _rearrange(self, order: Ints) -> None:
        self.probs[: len(order)], self.tokens[: len(order)] = self.probs[order], self.tokens[order]

    def _normalize(self) -> None:
        self.probs[: self.count] /= self.probs[: self.count].sum()

    # -- truncation ---------------------------------------------------------------------------------------------------

    def truncate(self, top_k: int, top_p: float, top_a: float, min_p: float, tfs: float, typical: float) -> None:
        """Apply each sampler that is enabled, while several candidates remain, and normalize after each."""
        largest = float(self.probs.max())
        steps = [
            (0 < top_k < self.size, lambda: self._top_k(top_k)),
            (0 < top_p < 1, lambda: self._top_p(top_p)),
            (top_a > 0, lambda: self._keep_above(top_a * float(self.probs[: self.count].max()) ** 2)),
            (0 < min_p < 1, lambda: self._keep_above(min_p * float(self.probs[: self.count].max()))),
            (0 < tfs < 1, lambda: self._tail_free(tfs)),
            (0 < typical < 1, lambda: self._typical(typical)),
        ]
        assert largest > 0, "no token is allowed"
        for enabled, step in steps:
            if enabled and self.count > 1:
                step()
                self._normalize()

    def _top_k(self, top_k: int) -> None:
        if top_k == 1:
            best = int(self.probs[: self.count].argmax())
            for array in (self.probs, self.tokens):
                array[[0, best]] = array[[best, 0]]
        else:
            order = np.argsort(-self.probs[: self.count], kind="stable")[:top_k]
            self._rearrange(order)
        self.count = top_k

    def _top_p(self, top_p: float) -> None:
        """Keep the most likely candidates whose sum does not exceed `top_p`, but at least one."""
        heap: list[tuple[float, int]] = []
        total = 0.0
        for index in np.flatnonzero(self.probs[: self.count] >= 1e-6):
            probability = float(self.probs[index])
            if total > top_p and probability < heap[0][0]:
                continue
            heapq.heappush(heap, (probability, int(self.tokens[index])))
            total += probability
            while total > top_p and len(heap) > 1:
                total -= heapq.heappop(heap)[0]
        heap.sort(reverse=True)
        self.count = len(heap)
        self.probs[: self.count], self.tokens[: self.count] = zip(*heap, strict=True)

    def _keep_above(self, threshold: float) -> None:
        """Move the candidates that are not below `threshold` to the front, and sometimes keep one more.

        As in the extension, a last swap may happen after the two pointers have passed each other, and `count` may be
        too large by one.
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
        """Keep the most typical candidates; the one with which their sum reaches `typical` is dropped, too."""
        self.sort()
        probs = self.probs[: self.count]
        surprise = probs + np.log(probs + 1e-10)
        order = np.argsort(np.abs(surprise - (probs * surprise).sum()), kind="stable")
        reached = np.flatnonzero(np.cumsum(probs[order]) >= typical)
        self._rearrange(order)
        self.count = max(int(reached[0]) if len(reached) else len(order), 1)

    # -- samplers after the truncation ---------------------------------------------------------------------------------

    def mirostat(self, mu: float) -> None:
        self.sort()
        self.count = max(int((self.probs[: self.count] >= 2.0**-mu).sum()), 1)
        self._normalize()

    def apply_temperature(self, temperature: float, low: float, high: float, exponent: float) -> None:
        """Apply `temperature`, or, if `high` is above `low`, one between them that depends on the entropy."""
        probs = self.probs[: self.count]
        if high > low:
            positive = probs[probs > 0]
            entropy = float(-(positive * np.log(positive)).sum())
            temperature = low + (high - low) * (entropy / (math.log(self.count) or 1.0)) ** exponent
        powers = probs ** np.float32(1 / temperature)
        self.probs[: self.count] = powers / powers.sum()

    def exclude_top(self, mask: NDArray[Any], probability: float, threshold: float) -> None:
        """Apply XTC. As in the extension, the probability of the next candidate decides whether a token is weakened."""
        probs, free = self.probs[: self.count], mask[self.tokens[: self.count]]
        above = (probs >= threshold) & free
        if above.sum() <= 1:
            return
        mass = float(probs[above].sum() - probs[above].min())
        following = np.append(self.probs, np.float32(0))[1 : self.count + 1]
        weakened = (following >= threshold) & free
        self.probs[: self.count] = np.where(
            weakened, probs * (1 - probability), probs * (1 + probability * mass / (1 - mass))
        )

    def token_at(self, point: float) -> tuple[int, float]:
        """Return the token at `point` of the cumulative probabilities and its probability.

        If their sum is less, this is the last token whose probability is not 0.
        """
        probs = self.probs[: self.count]
        possible = np.flatnonzero(np.cumsum(probs) >= point)[:1] if point <= probs.sum() else np.flatnonzero(probs)[-1:]
        index = int(possible[0]) if len(possible) else 0
        return int(self.tokens[index]), float(self.probs[index])
