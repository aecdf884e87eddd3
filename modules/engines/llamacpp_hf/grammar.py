"""Grammars under llamacpp_HF: llguidance's, which takes a tenth of a millisecond per token, or else llama.cpp's own."""

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
from modules.engines.llamacpp.sampler import Candidates, create_grammar


class LlamaVocabulary(TokenizerVocabulary):
    """A transformers tokenizer whose token ids are the model's; llama.cpp parses the grammars llguidance rejects."""

    def __init__(self, tokenizer: Any, model: Model, eos: Sequence[int]) -> None:
        super().__init__(tokenizer, model.n_vocab, eos)
        self._model = model

    def grammar(self, text: str) -> Callable[[], Matcher]:
        try:
            return super().grammar(text)
        except (Unsupported, OptionError):
            model, initial = self._model, _OwnedSampler(create_grammar(self._model, text))
            return lambda: _LlamaMatcher(model, initial.copy())


class _OwnedSampler:
    """A llama.cpp sampler that is freed when this object is garbage collected."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        weakref.finalize(self, native.llama_sampler_free, sampler)

    def copy(self) -> _OwnedSampler:
        return _OwnedSampler(native.llama_sampler_clone(self.sampler))


class _LlamaMatcher:
    """A Matcher by llama.cpp's grammar sampler, which goes through the whole vocabulary: 50 ms per token."""

    def __init__(self, model: Model, grammar: _OwnedSampler) -> None:
        self._model, self._grammar = model, grammar
        self._candidates, self._single = Candidates(model.n_vocab), Candidates(1)
        self._zeros = np.zeros(model.n_vocab, np.float32)

    def allowed(self) -> Tensor:
        """Return which tokens may come next, shape [n_vocab], bool."""
        self._candidates.fill(self._zeros)
        self._candidates.apply(self._grammar.sampler)
        return torch.from_numpy(np.isfinite(self._candidates.logits))

    def accept(self, token: int) -> bool:
        # Asked first, because llama.cpp ends the process over a token that the grammar does not accept.
        self._single.fill(np.zeros(1, np.float32), np.array([token], np.int32))
        self._single.apply(self._grammar.sampler)
        if self._model.vocabulary.is_end_token(token) or not self._single:
            return False
        native.llama_sampler_accept(self._grammar.sampler, token)
        return True
