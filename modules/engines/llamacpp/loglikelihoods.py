"""The operation "loglikelihoods" of llama.cpp: windows are evaluated in slots of the KV cache, between two steps.

The context is that of the generations, whose conversations stay: a window takes a slot that nobody uses, whose cells
are saved to main memory before, and leaves it empty. Logits are computed for the targets only.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence

from modules.core.events import Json
from modules.core.worker_errors import GenerationFailed
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import ABORTED, CACHE_FULL, DECODED, Model
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.scheduler import Scheduler
from modules.engines.llamacpp.slots import Slot
from modules.engines.loglikelihoods import Window
from modules.engines.target_scores import TargetScores


class WindowEvaluator:
    """Evaluates windows in the context of `model`. `batch` is the one of the engine's steps, used between them."""

    def __init__(self, model: Model, cache: KVCache, scheduler: Scheduler, batch: Batch) -> None:
        self._model, self._cache, self._scheduler, self._batch = model, cache, scheduler, batch
        self._slots: dict[Window, Slot] = {}

    @property
    def running(self) -> bool:
        """Whether a window is being evaluated."""
        return bool(self._slots)

    def loglikelihoods(
        self, tokens: Sequence[int], first: int, keep: str = "", against: str = ""
    ) -> Generator[None, None, Json]:
        """See `engine_protocol.Operations`."""
        vocabulary = self._model.vocabulary
        window = Window(tokens, first, self._model.n_ctx, vocabulary.size, self._model.n_vocab)
        with TargetScores("llama.cpp", window, vocabulary.used_size, keep, against) as scores:
            try:
                while not window.complete:
                    if slot := self._slot_of(window):
                        self._evaluate_piece(window, slot, scores)
                    yield
            finally:
                self._release(window)
            return scores.result()

    def _slot_of(self, window: Window) -> Slot | None:
        """Return the slot with what has been evaluated of the window, or an empty one; None if it has to wait."""
        if window not in self._slots and self._fits(window) and (slot := self._cache.take_empty()) is not None:
            self._slots[window] = slot
        return self._slots.get(window)

    def _fits(self, window: Window) -> bool:
        """Tell whether the cells suffice for it beside what runs. A single window always fits."""
        if not self._model.is_unified:
            return True
        taken = sum(request.cells_needed for request in self._scheduler.running)
        taken += sum(len(other.tokens) for other in self._slots)
        return not taken or taken + len(window.tokens) <= self._model.n_ctx

    def _evaluate_piece(self, window: Window, slot: Slot, scores: TargetScores) -> None:
        """Evaluate one batch, unless it is interrupted or must wait for cells of generations."""
        evaluated = len(slot.cells)
        chunk = self._scheduler.chunk.tokens if self._scheduler.running else self._batch.capacity
        tokens, targets = window.next_piece(evaluated, chunk)
        self._fill(array("i", tokens), targets, evaluated, slot.number)
        status = self._model.decode(self._batch)
        self._batch.clear()
        if status == DECODED:
            slot.cells.extend(tokens)
            if targets:
                scores.add_logits(self._model.all_logits(targets))
        elif status == ABORTED:
            self._drop_unrecorded(slot)
        elif status != CACHE_FULL or not (self._cache.free_cells() or self._wait_for_cells(window)):
            raise GenerationFailed("llama.cpp", f"llama_decode failed with status {status}")

    def _fill(self, tokens: array[int], targets: int, position: int, sequence: int) -> None:
        """Put `tokens` into the batch; the last ones, as many as there are `targets`, ask for logits."""
        self._batch.clear()
        silent = len(tokens) - targets
        if silent:
            self._batch.add(tokens[:silent], position, sequence, wants_logits=False)
        if targets:
            self._batch.add_outputs(tokens[silent:], position + silent, sequence)

    def _drop_unrecorded(self, slot: Slot) -> None:
        """Drop what an aborted batch has left in the slot, or all if that is impossible."""
        if not self._cache.drop_unrecorded(slot):
            self._cache.truncate(slot, 0)
            self._model.truncate(slot.number, 0)

    def _wait_for_cells(self, window: Window) -> bool:
        """Give the slot back until running generations leave more cells. Return False if there are none running."""
        if len(self._slots) == 1 and not self._scheduler.running:
            return False
        self._release(window)
        return True

    def free_cells(self) -> bool:
        """Empty the slot of the window that began last, for a generation; it is evaluated again later.

        Return False if no window has a slot.
        """
        if not self._slots:
            return False
        self._release(next(reversed(self._slots)))
        return True

    def _release(self, window: Window) -> None:
        if (slot := self._slots.pop(window, None)) is not None:
            self._cache.release_empty(slot)
