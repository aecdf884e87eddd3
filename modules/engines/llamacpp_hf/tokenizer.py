"""Which tokenizer a GGUF file goes with: transformers', of files that fit it, or llama.cpp's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.engines.llamacpp.bindings import Model

ALIKE = 0.99
"""The part of the tokens that must be written alike: special ones may have been renamed."""


def fits(tokenizer: Any, model: Model) -> bool:
    """Whether a tokenizer of transformers numbers the tokens as `model` does. Its size alone would not tell:
    Llama 2 and Mistral have 32,000 tokens each."""
    size = len(tokenizer)
    if size > model.n_vocab or any(model.written(token) is not None for token in range(size, model.n_vocab)):
        return False
    theirs = tokenizer.convert_ids_to_tokens(list(range(size)))
    return sum(model.written(token) in (text, None) for token, text in enumerate(theirs)) >= ALIKE * size


class LlamaTokenizer:
    """llama.cpp's own, under the names of transformers' that `hf_texts` and `hf_vocabulary` use."""

    is_fast = False
    chat_template = None  # the main process reads it in the GGUF file

    def __init__(self, model: Model) -> None:
        self.model = model
        self.bos_token_id = model.bos if model.bos >= 0 else None
        self.eos_token_id = model.eos if model.eos >= 0 else None
        self.bos_token, self.eos_token = model.special(model.bos), model.special(model.eos)

    def __len__(self) -> int:
        return self.model.n_vocab

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self.encode(text, add_special_tokens)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.model.tokenize(text, add_special_tokens).tolist()

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False, **_: object) -> str:
        pieces = (self.model.piece(token, special=not skip_special_tokens) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def for_grammars(self, ends: list[int]) -> Any:
        """As llguidance takes it; that must be installed."""
        import llguidance.llamacpp

        return llguidance.llamacpp.lltokenizer_from_vocab(self.model.vocab, eos_token=ends)

    def batch_decode(self, lists: Sequence[Sequence[int]], skip_special_tokens: bool = False, **_: object) -> list[str]:
        return [self.decode(tokens, skip_special_tokens) for tokens in lists]
