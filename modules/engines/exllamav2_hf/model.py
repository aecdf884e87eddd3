"""An ExLlamaV2 model as the Transformers engine drives it: its logits as tensors.

An ExLlamaV2 cache allocates all its memory at once, so there are only those made when loading: one for the running
answer and, for CFG, one for its negative prompt. They keep their content for the next turn.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modules.engines.exllamav2.arguments import window_chunk
from modules.engines.exllamav2.build import LoadedModel
from modules.engines.hf.evaluator import Evaluator, Interrupted, PrefixStore
from modules.engines.token_ids import common_prefix_length


@dataclass(eq=False)
class PooledCache:
    """A cache of ExLlamaV2's and the tokens it held when it was last stored. A larger `last_use` is later."""

    cache: Any
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    last_use: int = 0


class ExLlamaModel(Evaluator):
    """An ExLlamaV2 model with its tokenizer. `loras` are those that forward passes apply."""

    name = "ExLlamav2_HF"
    computes_all_logits = True

    def __init__(self, loaded: LoadedModel, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.native = loaded.model
        self.loras: list[Any] = []
        tokenizer_end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.eos_tokens = loaded.ends | frozenset(tokenizer_end)
        self.vocab_size, self.prefill_chunk = int(loaded.config.vocab_size), int(loaded.config.max_input_len)
        self.can_guide = len(loaded.caches) > 1
        self._window_chunk = window_chunk(type(loaded.caches[0]).__name__)
        self.device = torch.device(loaded.model.modules[-1].device())
        self.caches = CachePool(loaded.caches)
        self._interrupted = threading.Event()

    def new_prefix_store(self, max_bytes: int) -> CachePool:
        """Return the caches made when loading; `max_bytes` does not matter, because their memory is allocated."""
        return self.caches

    @property
    def window_chunk(self) -> int:
        return self._window_chunk

    # -- evaluation -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: PooledCache, encoder_output: Any = None, last: int = 1) -> Tensor:
        return self._evaluate(tokens, cache, last, None)

    def forward_interruptible(
        self, tokens: Sequence[int], cache: PooledCache, encoder_output: Any = None, last: int = 1
    ) -> Tensor:
        """Raise Interrupted after the current layer; the length of the cache is then as before."""
        return self._evaluate(tokens, cache, last, self._interrupted)

    def interrupt(self, requested: bool) -> None:
        if requested:
            self._interrupted.set()
        else:
            self._interrupted.clear()

    def _evaluate(self, tokens: Sequence[int], pooled: PooledCache, last: int, abort: threading.Event | None) -> Tensor:
        """Return the logits after the `last` tokens, shape [last, vocabulary], float32."""
        ids = torch.tensor([tokens], dtype=torch.long)
        logits = self.native.forward(
            ids, pooled.cache, loras=self.loras or None, last_id_only=last == 1, abort_event=abort
        )
        if logits is None or not isinstance(logits, Tensor):
            raise Interrupted
        return logits[0, -last:, : self.vocab_size].to(self.device).float()

    # -- the caches -----------------------------------------------------------------------------------------------

    def truncate(self, cache: PooledCache, length: int) -> tuple[PooledCache, int]:
        cache.cache.current_seq_len = length
        return cache, length

    def can_truncate(self, cache: PooledCache) -> bool:
        return True


class CachePool(PrefixStore):
    """A PrefixStore of a fixed number of caches."""

    def __init__(self, caches: Sequence[Any]) -> None:
        self._caches = [PooledCache(cache) for cache in caches]
        self._uses = 0

    def take(self, tokens: list[int]) -> tuple[PooledCache, int]:
        """Return the idle cache with the longest common prefix, or else the one used longest ago; and that length."""
        idle = [pooled for pooled in self._caches if not pooled.busy]
        best = max(idle, key=lambda pooled: (common_prefix_length(pooled.tokens, tokens), -pooled.last_use))
        length = min(common_prefix_length(best.tokens, tokens), len(tokens) - 1)
        self._uses += 1
        best.busy, best.last_use = True, self._uses
        best.cache.current_seq_len = length
        return best, length

    def store(self, tokens: list[int], cache: PooledCache) -> None:
        cache.tokens, cache.busy = list(tokens), False

    def clear(self) -> None:
        for pooled in self._caches:
            pooled.tokens, pooled.busy = [], False
            pooled.cache.current_seq_len = 0
