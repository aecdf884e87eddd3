"""Grammars under llamacpp_HF: llguidance's, which takes a tenth of a millisecond a token, or else llama.cpp's own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
import torch
from torch import Tensor

from modules.core.errors import OptionError, Unsupported
from modules.engines.hf.sampling.grammar import Matcher
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.sampler import Candidates, grammar


class LlamaVocabulary(TokenizerVocabulary):
    """The tokenizer is transformers'. llama.cpp, which numbers the tokens alike, reads what llguidance does not."""

    def __init__(self, tokenizer: Any, model: Model, eos: Sequence[int]) -> None:
        super().__init__(tokenizer, model.n_vocab, eos)
        self._model = model

    def grammar(self, text: str) -> Callable[[], Matcher]:
        try:
            return super().grammar(text)
        except (Unsupported, OptionError):
            model, first = self._model, _Owned(grammar(self._model, text))
            return lambda: _LlamaMatcher(model, first.copy())


class _Owned:
    """A sampler of llama.cpp's that is freed when nobody holds it any more."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        weakref.finalize(self, native.llama_sampler_free, sampler)

    def copy(self) -> _Owned:
        return _Owned(native.llama_sampler_clone(self.sampler))


class _LlamaMatcher:
    """llama.cpp walks the whole vocabulary to tell what may come next: 50 ms a token."""

    def __init__(self, model: Model, owned: _Owned) -> None:
        self._model, self._owned = model, owned
        self._candidates, self._asked = Candidates(model.n_vocab), Candidates(1)
        self._level = np.zeros(model.n_vocab, np.float32)

    def allowed(self) -> Tensor:
        self._candidates.fill(self._level)
        self._candidates.apply(self._owned.sampler)
        return torch.from_numpy(np.isfinite(self._candidates.logits))

    def accept(self, token: int) -> bool:
        # llama.cpp ends the process over a token that the grammar does not take.
        self._asked.fill(np.zeros(1, np.float32), np.array([token], np.int32))
        self._asked.apply(self._owned.sampler)
        if self._model.ends(token) or not self._asked:
            return False
        native.llama_sampler_accept(self._owned.sampler, token)
        return True
