"""The bytes of single tokens of a transformers tokenizer, which `decode` cannot give: it makes whole characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
"""The character that stands for a space in vocabularies of SentencePiece."""
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that byte-level vocabularies write as the characters of these numbers; the others follow from U+0100 on."""


class TokenBytes:
    """The bytes of tokens by the three ways in which vocabularies write them.

    Byte-level ones have a character for every byte. SentencePiece's have "▁" for a space and "<0xE7>" for a byte. Of
    any other, such as a tokenizer in Python code of the model, only tokens of whole characters have bytes: `decode`
    returns the text of tokens, with special ones if its second argument is true.
    """

    def __init__(self, tokenizer: Any, decode: Callable[[Sequence[int], bool], str]) -> None:
        self._tokenizer, self._decode = tokenizer, decode
        self._decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))

    def of(self, token: int) -> bytes:
        """Return the bytes of `token`, of a special one those of its name."""
        own = getattr(self._tokenizer, "token_bytes", None)
        if own is not None:
            raw: bytes = own(token)
            return raw
        if token in self._added:
            return str(self._added[token].content).encode()
        if "ByteLevel" in self._decoder:
            written = self._tokenizer.convert_ids_to_tokens(token)
            if all(character in _BYTES for character in written):
                return bytes(_BYTES[character] for character in written)
        elif _SPACE in self._decoder or "Metaspace" in self._decoder:
            written = self._tokenizer.convert_ids_to_tokens(token)
            if byte := _BYTE_TOKEN.fullmatch(written):
                return bytes.fromhex(byte[1])
            return str(written).replace(_SPACE, " ").encode()
        text = self._decode([token], True)
        return b"" if "\ufffd" in text else text.encode()

    def is_special(self, token: int) -> bool:
        """Tell whether `token` controls the model and is no text."""
        own = getattr(self._tokenizer, "is_control", None)
        if own is not None:
            return bool(own(token))
        return token in self._added and bool(self._added[token].special)

    @cached_property
    def _added(self) -> dict[int, Any]:
        return dict(getattr(self._tokenizer, "added_tokens_decoder", {}))


def _byte_characters() -> dict[str, int]:
    others = (byte for byte in range(256) if byte not in _PRINTABLE)
    return {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTES = _byte_characters()
