"""Evaluate what will follow an answer while its reader thinks about the next question.

A template puts a few tokens between an answer and the next question: marks of the end of a message and of the role of
the next one. The last token of the answer is not in the KV cache either. Evaluated with the next question, each of them
would delay the next answer by a millisecond or more; evaluated when nothing else runs, they delay nobody.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass

from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import ABORTED, DECODED, Model
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.scheduler import Request
from modules.engines.llamacpp.slots import Slot

QUIET_SECONDS = 0.03
"""Time without a request before it begins: a program that sends the next question at once is not delayed."""


@dataclass(frozen=True)
class _Following:
    """The tokens that follow the first `length` cells of `slot`."""

    slot: Slot
    length: int
    tokens: array[int]


class NextTurn:
    """The tokens that follow the answer that ended last, until they are evaluated or something else is to be done."""

    def __init__(self, model: Model, cache: KVCache, batch: Batch) -> None:
        self._model, self._cache, self._batch = model, cache, batch
        self._following: _Following | None = None
        self._interrupted = threading.Event()
        self.running = False
        """Whether it is being evaluated, so that a request should interrupt."""

    @property
    def pending(self) -> bool:
        return self._following is not None

    def interrupt(self) -> None:
        """End the wait for a quiet moment, as a request has arrived. Called from another thread."""
        self._interrupted.set()

    def resume(self) -> None:
        self._interrupted.clear()

    def drop(self) -> None:
        self._following = None

    def expect(self, request: Request) -> None:
        """Remember what follows the answer of `request`, which has ended, if its parameters tell.

        Nothing is evaluated after an answer that was cut at a stop string, of which the conversation has a part only;
        with pictures; and in recurrent models, whose state cannot be cut back if another text follows.
        """
        text, slot = request.params.get("next_turn", ""), request.slot
        if not text or slot is None or request.images or request.stream.stopped or not self._model.can_truncate:
            return
        tokens = request.tokens[request.evaluated :] + self._model.vocabulary.tokenize(text, False)
        if len(slot.cells) + len(tokens) < self._model.n_ctx and len(tokens) <= self._batch.capacity:
            self._following = _Following(slot, len(slot.cells), tokens)

    def evaluate(self) -> None:
        """Evaluate it in a quiet moment, unless its slot holds something else. If interrupted, it stays pending.

        Any other failure only means that it is not there.
        """
        if self._interrupted.wait(QUIET_SECONDS):
            return
        following, self._following = self._following, None
        if following is None or following.slot.busy or len(following.slot.cells) != following.length:
            return
        slot, tokens = following.slot, following.tokens
        self._batch.clear()
        self._batch.add(tokens, self._cache.position(slot), slot.number, wants_logits=False)
        self.running = True
        status = self._model.decode(self._batch)
        self.running = False
        self._batch.clear()
        if status == DECODED:
            slot.cells.extend(tokens)
            return
        self._cache.drop_unrecorded(slot)
        self._following = following if status == ABORTED else None
