"""Speculative decoding: which draft tokens the next batch evaluates beside the last token of each answer.

A draft is evaluated only where it is expected to pay, by how often such drafts were right in this answer and by the
measured cost of batches. Whether a copy of earlier text would have been right is seen without evaluating it, as the
answer goes on. Every token is sampled from the logits at its own position, so that drafts change neither the
distribution nor what a seed draws: a draft token only saves a batch if it equals the token that was sampled before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from modules.engines.llamacpp.batch_costs import BatchCosts
from modules.engines.llamacpp.draft_model import DraftModel, ModelDrafter
from modules.engines.llamacpp.lookup_drafter import LookupDrafter
from modules.engines.llamacpp.scheduler import Request

MIN_GAIN = 1.1
"""Expected speed, relative to that without the draft, from which on it is evaluated."""
GOOD_ACCEPTANCE = 0.9
"""If even drafts that are right as often would not pay, none is tried."""


class DraftPlanner:
    """Chooses the drafts of a batch of at most `capacity` tokens; the context has `n_ctx` cells."""

    def __init__(self, capacity: int, n_ctx: int, model: DraftModel | None = None) -> None:
        self.costs = BatchCosts()
        self._capacity, self._n_ctx, self._model = capacity, n_ctx, model
        self._suspended = False

    def prepare(self, request: Request) -> None:
        """Give a new request what drafts for it."""
        if max_tokens := request.params["prompt_lookup_num_tokens"]:
            request.lookup_drafter = LookupDrafter(request.tokens, max_tokens)
        if self._model is not None:
            request.model_drafter = ModelDrafter(self._model, request.tokens)

    def plan(self, running: Sequence[Request]) -> None:
        """Set the draft of each request, which is empty where none pays.

        Batches with parts of prompts get none: what they cost is not comparable.
        """
        for request in running:
            request.draft = array("i")
            if request.model_drafter is not None:
                request.model_drafter.learn()
        suspended, self._suspended = self._suspended, False
        if suspended or any(request.pending > 1 for request in running):
            return
        by_model: dict[ModelDrafter, int] = {}
        tokens, size = float(len(running)), len(running)
        for request in running:
            room = min(request.draft_room(self._n_ctx), self._capacity - size)
            looked_up, right = request.lookup_drafter.draft(room) if request.lookup_drafter else ([], [])
            length, speed = self._best_length(tokens, size, right)
            drafter = self._usable_drafter(request, running)
            guessed, guessed_right = self._model_length(drafter, tokens, size, room, speed) if drafter else (0, 0.0)
            if drafter is not None and guessed:
                by_model[drafter], length = guessed, guessed
                tokens += guessed_right
            elif length:
                request.draft = array("i", looked_up[:length])
                tokens += right[length - 1]
            size += length
        if by_model:
            self._draft_by_model(by_model, tokens, size)
            for request in running:
                if request.model_drafter in by_model:
                    request.draft = request.model_drafter.draft[:]

    def _best_length(
        self, tokens: float, size: int, right: Sequence[float], drafting_seconds: float = 0.0
    ) -> tuple[int, float]:
        """Return how many of a request's draft tokens make the whole batch fastest, 0 if none do; and that speed.

        The batch without them has `size` tokens, and is expected to advance all answers by `tokens`. Each draft token
        takes `drafting_seconds` before the batch.
        """
        best, best_speed = 0, MIN_GAIN * tokens / self.costs.seconds(size)
        for length, expected in enumerate(right, 1):
            speed = (tokens + expected) / (self.costs.seconds(size + length) + length * drafting_seconds)
            if speed > best_speed:
                best, best_speed = length, speed
        return best, best_speed

    # -- the draft model ------------------------------------------------------------------------------------------

    def _usable_drafter(self, request: Request, running: Sequence[Request]) -> ModelDrafter | None:
        """Return what drafts for `request` by the draft model, if there is one and it has room for all texts."""
        drafter, model = request.model_drafter, self._model
        if drafter is None or model is None or request.slot is None or not self.costs.is_known(len(running)):
            return None
        if sum(len(other.tokens) + model.max_tokens for other in running) > model.n_ctx:
            return None
        drafter.sequence = request.slot.number
        return drafter

    def _model_length(
        self, drafter: ModelDrafter, tokens: float, size: int, room: int, least_speed: float
    ) -> tuple[int, float]:
        """Return how many tokens the draft model should draft for a request, and how many right ones to expect.

        That is 0 if they would not be faster than `least_speed`. If its text is not evaluated yet, a part of it is.
        """
        assert self._model is not None
        most, seconds = min(room, self._model.max_tokens), self._model.costs.seconds(1)
        right = _expected(drafter.acceptance, most)
        length, speed = self._best_length(tokens, size, right, seconds)
        if speed <= least_speed:
            hopeful, speed = self._best_length(tokens, size, _expected(GOOD_ACCEPTANCE, most), seconds)
            length = 1 if hopeful and speed > least_speed and drafter.may_try() else 0
        if length and self._model.missing(drafter) > self._model.few_tokens:
            self._model.catch_up(drafter)
            length = 0
        return length, right[length - 1] if length else 0.0

    def _draft_by_model(self, lengths: dict[ModelDrafter, int], tokens: float, size: int) -> None:
        """Let the draft model draft, until a further token would not be worth its time and its share of the batch."""
        assert self._model is not None
        further = self.costs.seconds(size + 1) - self.costs.seconds(size)
        price = max(further, 0.0) + self._model.costs.seconds(len(lengths)) / len(lengths)
        self._model.draft(lengths, min(price * tokens / self.costs.seconds(size), GOOD_ACCEPTANCE))

    def suspend(self, running: Sequence[Request]) -> bool:
        """Plan no drafts for the next batch, as the cells were short. Return False if there were none in this one."""
        self._suspended = any(request.draft for request in running)
        return self._suspended


def _expected(acceptance: float, count: int) -> list[float]:
    """Return how many right ones to expect of the first 1, 2, … draft tokens, each right with this probability."""
    expected, right = 0.0, []
    for length in range(1, count + 1):
        expected += acceptance**length
        right.append(expected)
    return right
