"""Speculative decoding: which draft tokens the next batch evaluates beside the last token of each answer.

A draft is evaluated only where it is expected to pay, by how often such drafts were right in this answer and by the
measured cost of batches. Whether a draft would have been right is seen without evaluating it, as the answer goes on.
Every token is sampled from the logits at its own position, so that drafts change neither the distribution nor what a
seed draws: a draft token only saves a batch if it equals the token that was sampled before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from modules.engines.llamacpp.batch_costs import BatchCosts
from modules.engines.llamacpp.scheduler import Request

MIN_GAIN = 1.03
"""Expected speed, relative to that without the draft, from which on it is evaluated."""


class DraftPlanner:
    """Chooses the drafts of a batch of at most `capacity` tokens; the context has `n_ctx` cells."""

    def __init__(self, capacity: int, n_ctx: int) -> None:
        self.costs = BatchCosts()
        self._capacity, self._n_ctx = capacity, n_ctx
        self._suspended = False

    def plan(self, running: Sequence[Request]) -> None:
        """Set the draft of each request: "" for none.

        Batches with parts of prompts get none: what they cost is not comparable.
        """
        for request in running:
            request.draft = array("i")
        suspended, self._suspended = self._suspended, False
        if suspended or any(request.pending > 1 for request in running):
            return
        tokens, size = float(len(running)), len(running)
        for request in running:
            if request.drafter is None:
                continue
            draft, right = request.drafter.draft(min(request.draft_room(self._n_ctx), self._capacity - size))
            length = self._best_length(tokens, size, right)
            if length:
                request.draft = array("i", draft[:length])
                tokens, size = tokens + right[length - 1], size + length

    def _best_length(self, tokens: float, size: int, right: Sequence[float]) -> int:
        """Return how many of a request's draft tokens make the whole batch fastest, 0 if none do.

        The batch without them has `size` tokens, and is expected to advance all answers by `tokens`.
        """
        best, best_speed = 0, MIN_GAIN * tokens / self.costs.estimate(size)
        for length, expected in enumerate(right, 1):
            speed = (tokens + expected) / self.costs.estimate(size + length)
            if speed > best_speed:
                best, best_speed = length, speed
        return best

    def suspend(self, running: Sequence[Request]) -> bool:
        """Plan no drafts for the next batch, as the cells were short. Return False if there were none in this one."""
        self._suspended = any(request.draft for request in running)
        return self._suspended
