"""The questions about tokens, asked of servers that have the tokenizer of a Hugging Face model: vLLM and SGLang."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from modules.core.events import Json
from modules.engines.engine_protocol import Operations
from modules.engines.served.prompts import ids_in, is_special
from modules.engines.served.server_kind import Ask, ServerFacts
from modules.engines.token_ids import token_pieces

_SPACE = "▁"
_MOST_DECODED = 256
"""Tokens whose texts are asked for one by one."""


class HfTokens:
    """Asks a server to tokenize and to decode. `text_field` is where its answer to /detokenize has the text."""

    def __init__(self, ask: Ask, facts: ServerFacts, text_field: str) -> None:
        self._ask, self._model, self._text_field = ask, facts.model, text_field
        self._special = facts.special_tokens
        self.questions: Operations = {
            "encode": self.encode,
            "decode": self.decode,
            "count": lambda text: len(self.encode(text)),
            "pieces": self.pieces,
        }

    def tokenize(self, text: str, bos: str = "") -> list[int]:
        """Return the tokens of a prompt, which the server puts a BOS token before unless it begins with `bos`."""
        return self.encode(text, add_special=not (bos and text.startswith(bos)))

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Return the tokens of a text. Raises the errors of `Ask`."""
        body = {"model": self._model, "prompt": text, "add_special_tokens": add_special}
        return ids_in(self._ask("/tokenize", body))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones by name. Raises the errors of `Ask`."""
        if not tokens:
            return ""
        body = {"model": self._model, "tokens": list(tokens), "skip_special_tokens": False}
        return str(self._ask("/detokenize", body).value.get(self._text_field, ""))

    def pieces(self, text: str, add_special: bool = True) -> list[list[Json]]:
        """Return the tokens of a text with what they stand for: see `engine_protocol.Operations`."""
        body = {"model": self._model, "prompt": text, "add_special_tokens": add_special, "return_token_strs": True}
        answer = self._ask("/tokenize", body)
        tokens, names = ids_in(answer), answer.value.get("token_strs")
        if isinstance(names, list) and len(names) == len(tokens):
            parts = _bytes_of([str(name) for name in names])
        else:
            parts = [self.decode([token]).encode() for token in tokens[:_MOST_DECODED]]
        named = zip(tokens, parts, strict=False)
        return token_pieces((token, part, is_special(part, self._special)) for token, part in named)


def _bytes_of(names: Sequence[str]) -> list[bytes]:
    """Return the bytes of tokens by their names in the vocabulary: of SentencePiece, or bytes written as letters."""
    if any(_SPACE in name for name in names):
        return [_of_sentencepiece(name) for name in names]
    letters = _byte_letters()
    return [
        bytes(letters[letter] for letter in name) if all(map(letters.__contains__, name)) else name.encode()
        for name in names
    ]


def _of_sentencepiece(name: str) -> bytes:
    if len(name) == len("<0xFF>") and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    return name.replace(_SPACE, " ").encode()


@cache
def _byte_letters() -> dict[str, int]:
    """Return the bytes by the letters that byte-level BPE writes for them: itself if it is printable, else from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}
