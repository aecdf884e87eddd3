"""The vocabulary of a GGUF model: text to tokens, tokens to bytes, and its special tokens."""

from __future__ import annotations

import ctypes
from array import array
from functools import cached_property

import llama_cpp.llama_cpp as native

from modules.core.fill_in_middle import FimTokens
from modules.engines.fill_in_middle import find_fim_tokens
from modules.engines.token_ids import check_token_id

_EXTRA_TOKENS = 8
"""Tokens that a text may have beyond its bytes: BOS, EOS, and a space that some tokenizers put in front."""
_PIECE_BYTES = 64
"""Buffer size that fits almost every token."""


class Vocabulary:
    """The vocabulary of a loaded model; `handle` is its `llama_vocab`. Any thread may use it, also during a decode."""

    def __init__(self, model: object) -> None:
        self.handle = native.llama_model_get_vocab(model)
        self.size: int = native.llama_vocab_n_tokens(self.handle)
        self.bos = int(native.llama_vocab_bos(self.handle))
        self.eos = int(native.llama_vocab_eos(self.handle))
        self.adds_bos = bool(native.llama_vocab_get_add_bos(self.handle))
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, add_special: bool) -> array[int]:
        """Return the tokens of `text` as int32; names of special tokens in it become those tokens.

        With `add_special`, BOS and EOS are added as the model's metadata say.
        """
        raw = text.encode("utf-8", "replace")  # JSON can carry half a surrogate pair
        capacity = len(raw) + _EXTRA_TOKENS
        while True:
            tokens = (native.llama_token * capacity)()
            count = native.llama_tokenize(self.handle, raw, len(raw), tokens, capacity, add_special, True)
            if count >= 0:
                return array("i", tokens[:count])
            capacity = -count

    def piece(self, token: int, special: bool = False) -> bytes:
        """Return the bytes of one token; those of a control token are empty unless `special`."""
        if special:
            return self._read_piece(token, True)
        if token not in self._pieces:
            self._pieces[token] = self._read_piece(token, False)
        return self._pieces[token]

    def _read_piece(self, token: int, special: bool) -> bytes:
        capacity = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            length = native.llama_token_to_piece(self.handle, token, buffer, capacity, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            capacity = -length

    def raw_text(self, token: int) -> str | None:
        """Return a token as the vocabulary stores it, such as "▁the" or "Ġthe"; None for one marked unused."""
        if native.llama_vocab_get_attr(self.handle, token) & native.LLAMA_TOKEN_ATTR_UNUSED:
            return None
        text: bytes = native.llama_vocab_get_text(self.handle, token)
        return text.decode("utf-8", "replace")

    @cached_property
    def used_size(self) -> int:
        """The number of tokens without the unused ones at the end, to which the file's vocabulary was padded."""
        return next(token for token in range(self.size, 0, -1) if self.raw_text(token - 1) is not None)

    def special_text(self, token: int) -> str:
        """Return the text of a special token; "" for -1, which stands for a token that the vocabulary lacks."""
        return self.shown_text(token) if token >= 0 else ""

    def shown_text(self, token: int) -> str:
        """Return the text of a token, a control token's name; an incomplete character is U+FFFD."""
        return self.piece(token, special=True).decode("utf-8", "replace")

    def is_control(self, token: int) -> bool:
        """Tell whether `token` controls the model, such as BOS, and is no text."""
        return bool(native.llama_vocab_is_control(self.handle, token))

    @property
    def special_tokens(self) -> dict[str, str]:
        """The texts of those tokens for which llama.cpp has defaults; the file's header has the others."""
        return {"bos_token": self.special_text(self.bos), "eos_token": self.special_text(self.eos)}

    @property
    def fim_tokens(self) -> FimTokens | None:
        """The tokens for filling in the middle of a text: those of the file's header, else by their names.

        Names also tell the order of the texts, and at which tokens to stop; llama.cpp itself stops at most of them.
        """
        named = find_fim_tokens(lambda text: self.tokenize(text, False))
        prefix, suffix, middle = (
            int(token(self.handle))
            for token in (native.llama_vocab_fim_pre, native.llama_vocab_fim_suf, native.llama_vocab_fim_mid)
        )
        same = named is not None and (named.prefix, named.suffix) == (prefix, suffix)
        return named if same or min(prefix, suffix, middle) < 0 else FimTokens(prefix, suffix, middle)

    def check_token(self, option: str, token: int) -> None:
        """Raise OptionError for a token id outside the vocabulary: llama.cpp would abort the process."""
        check_token_id(option, token, self.size)

    def is_end_token(self, token: int) -> bool:
        """Tell whether `token` is one of the model's end-of-generation tokens."""
        return bool(native.llama_vocab_is_eog(self.handle, token))

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """All end-of-generation tokens."""
        return tuple(token for token in range(self.size) if self.is_end_token(token))

    @property
    def filler_token(self) -> int:
        """The token to evaluate where a text has no tokens at all: BOS, else EOS, else 0."""
        return max(self.bos, self.eos, 0)
