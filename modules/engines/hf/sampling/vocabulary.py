"""What samplers ask of a vocabulary: the texts of its tokens, and the tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, Protocol

from modules.engines.hf.sampling.grammar import Grammars, Matcher


class Vocabulary(Hashable, Protocol):
    """`size` is how many logits a step has, which may be more than the tokenizer has tokens."""

    size: int

    @property
    def pieces(self) -> Sequence[str]:
        """The text of each token, special ones by their names; half a character is U+FFFD."""

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without any that mark a beginning or an end."""

    def grammar(self, text: str) -> Callable[[], Matcher]:
        """What begins an answer by that GBNF grammar. OptionError if it is none, Unsupported if there can be none."""


class TokenizerVocabulary:
    """That of a tokenizer of transformers; `eos` are the tokens that end an answer.

    To be kept with the model: what is first asked for takes half a second to collect.
    """

    def __init__(self, tokenizer: Any, size: int, eos: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self._eos = eos

    @cached_property
    def pieces(self) -> Sequence[str]:
        # A text by itself may lose its leading space; after another it keeps that.
        (anchor,) = self.encode("x")[-1:]
        count = min(self.size, len(self.tokenizer))
        after = self._decoded([[anchor, token] for token in range(count)])
        prefix = len(self._decoded([[anchor]])[0])
        return [text[prefix:] for text in after]

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def grammar(self, text: str) -> Callable[[], Matcher]:
        return self._grammars.start(text)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer, self.size, list(self._eos))

    def _decoded(self, lists: list[list[int]]) -> list[str]:
        words = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        texts: list[str] = self.tokenizer.batch_decode(lists, **words)
        return texts
