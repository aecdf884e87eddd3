"""A model of llama.cpp's as the engine of the Transformers family drives it: its logits as tensors.

What is kept between turns is llama.cpp's cache, with all that `llamacpp_cache` can do; one answer runs at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.core.errors import PromptTooLong, Unsupported
from modules.engines.hf.token_text import Evaluator, Interrupted
from modules.engines.llamacpp.bindings import ABORTED, DECODED, Batch, Model
from modules.engines.llamacpp.kv_cache import Cache, Reuse, Slot


@dataclass(eq=False)
class Held:
    """A slot in use. It holds `ahead` cells more than the tokens that it is held for, which streaming_llm kept."""

    slot: Slot
    ahead: int


class LlamaModel(Evaluator):
    """`sequences` is how many the context was made for: two if there is one for a negative prompt.

    `sinks` is streaming_llm's attention_sink_size, None without streaming_llm.
    """

    name = "llamacpp_HF"

    def __init__(self, model: Model, tokenizer: Any, sequences: int, sinks: int | None) -> None:
        super().__init__(tokenizer)
        self.model = model
        self.device = torch.device("cpu")
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.ends = frozenset((*model.end_tokens, *own))
        self.size, self.piece = model.n_vocab, model.n_batch
        self.can_guide = sequences > 1
        self._sequences, self._sinks = sequences, sinks
        self._batch = Batch(model.n_batch)

    def shelf(self, budget: int) -> Slots:
        self.slots = Slots(Cache(self.model, self._sequences, self._sinks, budget))
        return self.slots

    # -- evaluating -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: Held, source: Any = None, last: int = 1) -> Tensor:
        return self._evaluate(tokens, cache.slot, last, may_break_off=False)

    def forward_or_break_off(self, tokens: Sequence[int], cache: Held, source: Any = None) -> Tensor:
        return self._evaluate(tokens, cache.slot, 1, may_break_off=True)

    def interrupt(self, wanted: bool) -> None:
        if wanted:
            self.model.interrupt()
        else:
            self.model.resume()

    def _evaluate(self, tokens: Sequence[int], slot: Slot, last: int, may_break_off: bool) -> Tensor:
        rows: list[NDArray[np.float32]] = []
        first_asked = len(tokens) - last
        for begin in range(0, len(tokens), self._batch.capacity):
            part = array("i", tokens[begin : begin + self._batch.capacity])
            self._fill(part, slot, min(max(first_asked - begin, 0), len(part)))
            self._decode(slot, may_break_off)
            slot.cells.extend(part)
            rows += [self.model.logits(row).copy() for row in range(self._batch.outputs)]
        return torch.from_numpy(np.stack(rows))

    def _fill(self, tokens: array[int], slot: Slot, quiet: int) -> None:
        """Put `tokens` into the batch; all but the first `quiet` ask for logits."""
        self._batch.clear()
        place = len(slot.cells)
        if quiet:
            self._batch.add(tokens[:quiet], place, slot.number, wants_logits=False)
        for number, token in enumerate(tokens[quiet:], place + quiet):
            self._batch.add_one(token, number, slot.number)

    def _decode(self, slot: Slot, may_break_off: bool) -> None:
        """Evaluate the batch. If that fails, `slot` holds what it held before, or nothing."""
        status = self.model.decode(self._batch, may_break_off)
        if status == DECODED:
            return
        if not self.model.keep(slot.number, len(slot.cells)):
            self.model.keep(slot.number, 0)
            del slot.cells[:]
        if status == ABORTED:
            raise Interrupted
        raise RuntimeError(f"llama_decode answered {status}")

    def logits(self, tokens: list[int]) -> list[list[float]]:
        """Those after each of `tokens`."""
        for token in tokens:
            self.check_token("tokens", token)
        if len(tokens) > self.model.n_ctx:
            raise PromptTooLong(len(tokens), self.model.n_ctx)
        if not tokens:
            return []
        held = self.slots.empty()
        try:
            every: list[list[float]] = self.forward(tokens, held, last=len(tokens)).tolist()
        finally:
            self.slots.keep(tokens, held)
        return every

    # -- what was computed ----------------------------------------------------------------------------------------

    def cut_back(self, cache: Held, length: int) -> tuple[Held, int]:
        return cache, self.slots.cut(cache, length)

    def can_cut(self, cache: Held) -> bool:
        return self.model.can_cut


class Slots:
    """A `Shelf` whose caches are slots of llama.cpp's cache."""

    def __init__(self, cells: Cache) -> None:
        self._cells = cells

    def take(self, tokens: list[int]) -> tuple[Held, int]:
        slot, length = self._cells.take(self._cells.reusable(array("i", tokens)))
        return Held(slot, len(slot.cells) - length), length

    def empty(self) -> Held:
        """A slot that holds nothing. Unsupported if all are in use."""
        if self._cells.full:
            raise Unsupported(_BUSY)
        return Held(self._cells.take(Reuse())[0], 0)

    def keep(self, tokens: list[int], cache: Held) -> None:
        cache.slot.busy = False

    def cut(self, held: Held, length: int) -> int:
        """Leave so many of the tokens it is held for; how many there are: none if it could only be emptied."""
        if self._cells.cut(held.slot, length + held.ahead) == length + held.ahead == len(held.slot.cells):
            return length
        self._cells.cut(held.slot, 0)
        held.ahead = 0
        return 0

    def clear(self) -> None:
        self._cells.clear()
        for slot in self._cells.slots:
            slot.busy = False


_BUSY = {
    "en": "An answer is being written; ask for the logits once it has ended.",
    "zh": "正在生成回答，请等其结束后再读取 logits。",
}
