"""Vocabularies for tests of samplers: one of fixed pieces, and a small byte-level tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import Unsupported, both


@dataclass(eq=False)
class Pieces:
    """A vocabulary of fixed pieces. Texts missing from `encodings` have no tokens."""

    size: int
    pieces: Sequence[str] = ()
    encodings: Mapping[str, list[int]] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        return self.encodings.get(text, [])

    def grammar(self, text: str) -> Any:
        raise Unsupported(both("this vocabulary supports no grammars"))


def small_tokenizer() -> Any:
    """Train a byte-level tokenizer with a few merges and an EOS token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    text = [
        "the year 2024 was a good year: yes, yes. no? 你好，世界！\n- one\n- two\n- three\n",
        '{"name": "x", "age": 12}\n',
    ] * 20
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
