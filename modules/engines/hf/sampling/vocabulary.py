"""The vocabulary as samplers see it: the texts of its tokens, the tokens of a text, and grammars over it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, Protocol

from modules.engines.grammars import GrammarRequest, GrammarsOnDemand, Matcher
from modules.engines.hf.sampling.grammar import grammars_of


class Vocabulary(Hashable, Protocol):
    """`size` is the number of logits, which may exceed the number of tokens of the tokenizer."""

    size: int

    @property
    def pieces(self) -> Sequence[str]:
        """The text of every token; special tokens by name, an incomplete character as U+FFFD."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`, without special tokens around it."""

    def prepare_grammars(self) -> None:
        """Read what `grammar` needs, unless that was done. Any thread may call."""

    def grammar(self, request: GrammarRequest) -> Callable[[], Matcher]:
        """Return what starts a matcher of that grammar.

        Raises OptionError if it is invalid, Unsupported if this vocabulary cannot have grammars.
        """


class TokenizerVocabulary:
    """The vocabulary of a tokenizer of transformers; `eos` are the tokens that end an answer.

    Keep it with the model: its first use takes half a second.
    """

    def __init__(self, tokenizer: Any, size: int, eos: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self._grammars = GrammarsOnDemand(lambda: grammars_of(self.tokenizer, size, eos))

    @cached_property
    def pieces(self) -> Sequence[str]:
        # A token decoded by itself may lose its leading space, which it keeps after another token.
        (anchor,) = self.encode("x")[-1:]
        count = min(self.size, len(self.tokenizer))
        texts = self._decode_all([[anchor, token] for token in range(count)])
        anchor_length = len(self._decode_all([[anchor]])[0])
        return [text[anchor_length:] for text in texts]

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def prepare_grammars(self) -> None:
        self._grammars.prepare()

    def grammar(self, request: GrammarRequest) -> Callable[[], Matcher]:
        return self._grammars.compile(request)

    def _decode_all(self, sequences: list[list[int]]) -> list[str]:
        arguments = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        texts: list[str] = self.tokenizer.batch_decode(sequences, **arguments)
        return texts
