"""Vocabularies for tests of samplers: of given pieces, and of a small byte-level tokenizer made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules.core.errors import Unsupported, both


@dataclass(eq=False)
class Pieces:
    """`known` gives the tokens of texts; other texts have none."""

    size: int
    pieces: Sequence[str] = ()
    known: Mapping[str, list[int]] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        return self.known.get(text, [])

    def grammar(self, text: str) -> Any:
        raise Unsupported(both("no grammars here"))


def small_tokenizer() -> Any:
    """All bytes, a few merges, and an end token."""
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
