"""The vocabulary of llamacpp_HF: a tokenizer's texts, with grammars over the model's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modules.engines.grammars import GrammarRequest, Matcher
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.llamacpp.bindings import Model


class LlamaVocabulary(TokenizerVocabulary):
    """A transformers tokenizer whose token ids are the model's."""

    def __init__(self, tokenizer: Any, model: Model, eos: Sequence[int]) -> None:
        super().__init__(tokenizer, model.n_vocab, eos)
        self._model = model

    def prepare_grammars(self) -> None:
        self._model.grammars.prepare()

    def grammar(self, request: GrammarRequest) -> Callable[[], Matcher]:
        return self._model.grammars.compile(request)
