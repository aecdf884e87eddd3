"""DRY samplers of one model, which remember where its vocabulary has the sequence breakers.

llama.cpp looks for each breaker in every token of the vocabulary, whenever a sampler is made: 25 ms a breaker for
49,000 tokens, during which no answer goes on. A copy of a sampler takes what was found.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import llama_cpp.llama_cpp as native

from modules.engines.llamacpp.grammar import OwnedSampler
from modules.engines.llamacpp.vocabulary import Vocabulary

_REMEMBERED = 4


class DrySamplers:
    """Make DRY samplers for a model with that `vocabulary`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._make)

    def start(
        self, multiplier: float, base: float, allowed_length: int, lookback: int, breakers: tuple[str, ...]
    ) -> Any:
        """Return a sampler that has seen no token, for a chain, which frees it."""
        made = self._remembered(multiplier, base, allowed_length, lookback, breakers)
        return native.llama_sampler_clone(made.sampler)

    def _make(
        self, multiplier: float, base: float, allowed_length: int, lookback: int, breakers: tuple[str, ...]
    ) -> OwnedSampler:
        pointers = (ctypes.c_char_p * len(breakers))(*(breaker.encode() for breaker in breakers))
        settings = (multiplier, base, allowed_length, lookback)
        return OwnedSampler(native.llama_sampler_init_dry(self._vocabulary.handle, *settings, pointers, len(breakers)))
