"""The tokenizer of a GGUF model under llamacpp_HF: transformers', if its files match the model, or llama.cpp's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.engines.llamacpp.vocabulary import Vocabulary

MIN_EQUAL_FRACTION = 0.99
"""Fraction of the tokens that must have the same text; special tokens may have been renamed."""


def matches_vocabulary(tokenizer: Any, vocabulary: Vocabulary) -> bool:
    """Tell whether a transformers tokenizer has the token ids of `vocabulary`.

    Its size alone does not show it: Llama 2 and Mistral have 32,000 tokens each.
    """
    size = len(tokenizer)
    if size > vocabulary.size or any(vocabulary.raw_text(token) is not None for token in range(size, vocabulary.size)):
        return False
    texts = tokenizer.convert_ids_to_tokens(list(range(size)))
    equal = sum(vocabulary.raw_text(token) in (text, None) for token, text in enumerate(texts))
    return equal >= MIN_EQUAL_FRACTION * size


class LlamaTokenizer:
    """llama.cpp's tokenizer behind the methods of transformers' tokenizers that the Transformers engine calls."""

    is_fast = False
    chat_template = None  # the main process reads it from the GGUF file

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.bos_token_id = vocabulary.bos if vocabulary.bos >= 0 else None
        self.eos_token_id = vocabulary.eos if vocabulary.eos >= 0 else None
        self.special_tokens_map = vocabulary.special_tokens

    def __len__(self) -> int:
        return self._vocabulary.size

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text, add_special_tokens)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self._vocabulary.tokenize(text, add_special_tokens).tolist()

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False, **_: object) -> str:
        pieces = (self._vocabulary.piece(token, special=not skip_special_tokens) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return self._vocabulary.piece(token, special=True)

    def is_control(self, token: int) -> bool:
        return self._vocabulary.is_control(token)

    def batch_decode(self, lists: Sequence[Sequence[int]], skip_special_tokens: bool = False, **_: object) -> list[str]:
        return [self.decode(tokens, skip_special_tokens) for tokens in lists]
