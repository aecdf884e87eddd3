"""A model of ExLlamaV2's as the engine of the Transformers family drives it: its logits as tensors.

A cache of ExLlamaV2's has all its memory from the beginning, so there are as many as were made when loading: one for
the answer under way and, for CFG, one for its negative prompt. What they hold stays for the next turn.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modules.engines.exllamav2.build import Loaded
from modules.engines.hf.evaluator import Evaluator, Interrupted, PrefixStore
from modules.engines.token_ids import common_prefix_length


@dataclass(eq=False)
class Held:
    """A cache, and the tokens that it held when it was put back."""

    cache: Any
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0


class ExLlamaModel(Evaluator):
    name = "ExLlamav2_HF"

    def __init__(self, loaded: Loaded, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.native = loaded.model
        self.loras: list[Any] = []
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.eos_tokens = loaded.ends | frozenset(own)
        self.vocab_size, self.prefill_chunk = int(loaded.config.vocab_size), int(loaded.config.max_input_len)
        self.can_guide = len(loaded.caches) > 1
        self.device = torch.device(loaded.model.modules[-1].device())
        self.caches = Caches(loaded.caches)
        self._wanted_elsewhere = threading.Event()

    def new_prefix_store(self, max_bytes: int) -> Caches:
        """The memory has been taken already."""
        return self.caches

    # -- evaluating -----------------------------------------------------------------------------------------------

    def forward(self, tokens: Sequence[int], cache: Held, encoder_output: Any = None, last: int = 1) -> Tensor:
        return self._evaluate(tokens, cache, last, None)

    def forward_interruptible(self, tokens: Sequence[int], cache: Held, encoder_output: Any = None) -> Tensor:
        """It ends after the layer under way; the cache's own length is then as before the piece."""
        return self._evaluate(tokens, cache, 1, self._wanted_elsewhere)

    def interrupt(self, requested: bool) -> None:
        if requested:
            self._wanted_elsewhere.set()
        else:
            self._wanted_elsewhere.clear()

    def _evaluate(self, tokens: Sequence[int], held: Held, last: int, unless: threading.Event | None) -> Tensor:
        ids = torch.tensor([tokens], dtype=torch.long)
        words = {"loras": self.loras or None, "last_id_only": last == 1, "abort_event": unless}
        logits = self.native.forward(ids, held.cache, **words)
        if logits is None or not isinstance(logits, Tensor):
            raise Interrupted
        return logits[0, -last:, : self.vocab_size].to(self.device).float()

    # -- what was computed ----------------------------------------------------------------------------------------

    def truncate(self, cache: Held, length: int) -> tuple[Held, int]:
        cache.cache.current_seq_len = length
        return cache, length

    def can_truncate(self, cache: Held) -> bool:
        return True


class Caches(PrefixStore):
    """A `PrefixStore` of as many caches as there are."""

    def __init__(self, caches: Sequence[Any]) -> None:
        self._held = [Held(cache) for cache in caches]
        self._uses = 0

    def take(self, tokens: list[int]) -> tuple[Held, int]:
        """The one that holds most of their beginning, else the one that was used longest ago."""
        free = [each for each in self._held if not each.busy]
        best = max(free, key=lambda each: (common_prefix_length(each.tokens, tokens), -each.used))
        length = min(common_prefix_length(best.tokens, tokens), len(tokens) - 1)
        self._uses += 1
        best.busy, best.used = True, self._uses
        best.cache.current_seq_len = length
        return best, length

    def store(self, tokens: list[int], cache: Held) -> None:
        cache.tokens, cache.busy = list(tokens), False

    def clear(self) -> None:
        for each in self._held:
            each.tokens, each.busy = [], False
            each.cache.current_seq_len = 0
