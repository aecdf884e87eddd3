"""A llama.cpp model as the Transformers engine drives it: its logits as tensors.

The prefix cache between turns is llama.cpp's KV cache with all that `llamacpp.kv_cache` can do. One answer runs at a
time.
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

from modules.core.errors import Unsupported
from modules.core.worker_errors import PromptTooLong
from modules.engines.hf.evaluator import Evaluator, Interrupted, PrefixStore
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import ABORTED, DECODED, Model
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.slots import Reuse, Slot


@dataclass(eq=False)
class AcquiredSlot:
    """A slot in use. It holds `extra_cells` more than the tokens it was acquired for: streaming_llm's kept tokens."""

    slot: Slot
    extra_cells: int


class LlamaModel(Evaluator):
    """A llama.cpp model with its tokenizer. The context has `sequences`: two if one is for negative prompts.

    `attention_sink_size` is streaming_llm's, in tokens; None without streaming_llm.
    """

    name = "llamacpp_HF"

    def __init__(self, model: Model, tokenizer: Any, sequences: int, attention_sink_size: int | None) -> None:
        super().__init__(tokenizer)
        self.model = model
        self.device = torch.device("cpu")
        tokenizer_end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.eos_tokens = frozenset((*model.vocabulary.end_tokens, *tokenizer_end))
        self.vocab_size, self.prefill_chunk = model.n_vocab, model.n_batch
        self.can_guide = sequences > 1
        self._sequences, self._attention_sink_size = sequences, attention_sink_size
        self._batch = Batch(model.n_batch)

    @property
    def used_tokens(self) -> int:
        return min(self.vocabulary_size, self.model.vocabulary.used_size)

    def new_prefix_store(self, max_bytes: int) -> SlotPrefixCache:
        self.prefix_cache = SlotPrefixCache(KVCache(self.model, self._sequences, self._attention_sink_size, max_bytes))
        return self.prefix_cache

    # -- evaluation -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: AcquiredSlot, encoder_output: Any = None, last: int = 1) -> Tensor:
        return self._evaluate(tokens, cache.slot, last, interruptible=False)

    def forward_interruptible(
        self, tokens: Sequence[int], cache: AcquiredSlot, encoder_output: Any = None, last: int = 1
    ) -> Tensor:
        return self._evaluate(tokens, cache.slot, last, interruptible=True)

    def interrupt(self, requested: bool) -> None:
        if requested:
            self.model.interrupt()
        else:
            self.model.resume()

    def _evaluate(self, tokens: Sequence[int], slot: Slot, last: int, interruptible: bool) -> Tensor:
        """Append `tokens` to `slot`. Return the logits after the `last` of them, shape [last, n_vocab], float32."""
        rows: list[NDArray[np.float32]] = []
        first_output = len(tokens) - last
        for begin in range(0, len(tokens), self._batch.capacity):
            chunk = array("i", tokens[begin : begin + self._batch.capacity])
            self._fill_batch(chunk, slot, min(max(first_output - begin, 0), len(chunk)))
            self._decode(slot, interruptible)
            slot.cells.extend(chunk)
            rows += [self.model.logits(row).copy() for row in range(self._batch.outputs)]
        return torch.from_numpy(np.stack(rows))

    def _fill_batch(self, tokens: array[int], slot: Slot, without_logits: int) -> None:
        """Put `tokens` into the batch; all but the first `without_logits` ask for logits."""
        self._batch.clear()
        position = len(slot.cells)
        if without_logits:
            self._batch.add(tokens[:without_logits], position, slot.number, wants_logits=False)
        for offset, token in enumerate(tokens[without_logits:], without_logits):
            self._batch.add_one(token, position + offset, slot.number)

    def _decode(self, slot: Slot, interruptible: bool) -> None:
        """Evaluate the batch. After a failure `slot` holds what it held before, or nothing.

        Raises Interrupted, or RuntimeError with llama.cpp's status.
        """
        status = self.model.decode(self._batch, interruptible)
        if status == DECODED:
            return
        if not self.model.truncate(slot.number, len(slot.cells)):
            self.model.truncate(slot.number, 0)
            del slot.cells[:]
        if status == ABORTED:
            raise Interrupted
        raise RuntimeError(f"llama_decode failed with status {status}")

    def all_logits(self, tokens: list[int]) -> list[list[float]]:
        """Return the logits after each of `tokens`, shape [tokens, n_vocab]: the operation "logits".

        Raises PromptTooLong, OptionError for an invalid token id, Unsupported while an answer is running.
        """
        for token in tokens:
            self.check_token("tokens", token)
        if len(tokens) > self.model.n_ctx:
            raise PromptTooLong(len(tokens), self.model.n_ctx)
        if not tokens:
            return []
        acquired = self.prefix_cache.acquire_empty()
        try:
            logits: list[list[float]] = self.forward(tokens, acquired, last=len(tokens)).tolist()
        finally:
            self.prefix_cache.store(tokens, acquired)
        return logits

    # -- the cache ------------------------------------------------------------------------------------------------

    def truncate(self, cache: AcquiredSlot, length: int) -> tuple[AcquiredSlot, int]:
        return cache, self.prefix_cache.truncate(cache, length)

    def can_truncate(self, cache: AcquiredSlot) -> bool:
        return self.model.can_truncate


class SlotPrefixCache(PrefixStore):
    """A `PrefixStore` made of the slots of llama.cpp's KV cache."""

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

    def take(self, tokens: list[int]) -> tuple[AcquiredSlot, int]:
        slot, length = self._cache.take(array("i", tokens))
        return AcquiredSlot(slot, len(slot.cells) - length), length

    def acquire_empty(self) -> AcquiredSlot:
        """Return an empty slot. Raises Unsupported if all are busy."""
        if self._cache.full:
            raise Unsupported(_BUSY)
        return AcquiredSlot(self._cache.acquire(Reuse())[0], 0)

    def store(self, tokens: list[int], cache: AcquiredSlot) -> None:
        cache.slot.busy = False

    def truncate(self, acquired: AcquiredSlot, length: int) -> int:
        """Keep the first `length` tokens the slot was acquired for. Return how many are left: 0 if it was emptied."""
        wanted = length + acquired.extra_cells
        if self._cache.truncate(acquired.slot, wanted) == wanted == len(acquired.slot.cells):
            return length
        self._cache.truncate(acquired.slot, 0)
        acquired.extra_cells = 0
        return 0

    def clear(self) -> None:
        self._cache.clear()
        for slot in self._cache.slots:
            slot.busy = False


_BUSY = {
    "en": "An answer is being generated; ask for the logits once it has ended.",
    "zh": "正在生成回复，请等其结束后再读取 logits。",
}
