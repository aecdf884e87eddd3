"""Text to tokens and tokens to text, by a tokenizer of transformers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from modules.core.events import Json
from modules.core.fill_in_middle import FimTokens
from modules.engines.engine_protocol import Operations
from modules.engines.fill_in_middle import find_fim_tokens
from modules.engines.hf.token_bytes import TokenBytes
from modules.engines.text_stream import CHARACTER_TOKENS, begun_character
from modules.engines.token_ids import check_token_id, token_pieces

_CONTEXT_TOKENS = 6
"""Tokens of the prompt that are decoded together with the first token of the answer."""
_MAX_CHARACTER_TOKENS = 5
"""Tokens after which an incomplete character is given up. UTF-8 takes four bytes at most."""


class TextTokenizer:
    """A tokenizer of transformers that any thread may use."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._bytes = TokenBytes(tokenizer, self.decode)
        self._lock = threading.Lock()
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()

    @cached_property
    def vocabulary_size(self) -> int:
        """The number of tokens, added ones included. Transformers 4 takes 23 ms to count 49,152 of them."""
        return len(self.tokenizer)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the tokens of `text`; with `special`, also those that the model expects around it, BOS only once."""
        text = text.encode("utf-8", "replace").decode()  # an unpaired surrogate cannot be encoded
        if self._fast is not None:  # this call changes no state of the tokenizer and needs no lock
            tokens: list[int] = self._fast.encode(text, add_special_tokens=special).ids
        else:
            with self._lock:
                tokens = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return tokens[1:] if special and bos is not None and tokens[:2] == [bos, bos] else tokens

    def decode(self, tokens: Sequence[int], special: bool) -> str:
        """Return the text of `tokens`; special tokens appear by name if `special`, else they are left out."""
        if self._fast is not None:
            text: str = self._fast.decode(tokens, skip_special_tokens=not special)
            return text
        with self._lock:
            arguments = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
            text = self.tokenizer.decode(list(tokens), **arguments)
            return text

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a token, of a special one those of its name."""
        return self._bytes.of(token)

    def shown_text(self, token: int) -> str:
        """Return the text of a token, a special one's name; "" for a logit to which no token belongs."""
        return self.decode([token], special=True) if token < self.vocabulary_size else ""

    @property
    def questions(self) -> Operations:
        """The tokenizer's operations that a worker answers at any time."""

        def encode(text: str, add_special: bool = True) -> list[int]:
            return self.encode(text, add_special)

        def count(text: str) -> int:
            return len(self.encode(text))

        def decode(tokens: list[int]) -> str:
            """Return the text of `tokens`, special ones by name. Raises OptionError for a number outside the range."""
            for token in tokens:
                self.check_token("tokens", token)
            return self.decode(tokens, special=True)

        def pieces(text: str, add_special: bool = True) -> list[list[Json]]:
            special = self._bytes.is_special
            return token_pieces((token, self.token_bytes(token), special(token)) for token in encode(text, add_special))

        return {"encode": encode, "count": count, "decode": decode, "pieces": pieces}

    def check_token(self, option: str, token: int) -> None:
        """Raise OptionError, in the name of `option`, if `token` is not in the vocabulary."""
        check_token_id(option, token, self.vocabulary_size)

    @property
    def fim_tokens(self) -> FimTokens | None:
        """The tokens for filling in the middle of a text, by their names."""
        return find_fim_tokens(lambda text: self.encode(text, special=False))

    @property
    def special_tokens(self) -> dict[str, str | list[str]]:
        """The texts of its special tokens, by transformers' names; additional ones are a list in Transformers 4."""
        named = self.tokenizer.special_tokens_map
        return {
            name: [str(token) for token in value] if isinstance(value, (list, tuple)) else str(value)
            for name, value in named.items()
        }

    @property
    def chat_template(self) -> str:
        template = self.tokenizer.chat_template
        return (template.get("default", "") if isinstance(template, dict) else template) or ""


class Detokenizer:
    """Decode one answer token by token into UTF-8 bytes that never end inside a character.

    Some tokenizers write a token differently where a text begins, so every token is decoded together with those before.
    Special tokens are left out unless `special`, except for those of the `visible` texts.
    """

    def __init__(
        self, tokenizer: TextTokenizer, prompt: Sequence[int], special: bool, visible: Sequence[str] = ()
    ) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._visible = {} if special else _hidden_texts(tokenizer, visible)
        self._tokens = list(prompt[-_CONTEXT_TOKENS:])
        self._begin, self._end = 0, len(self._tokens) - self._begun_tokens()

    def _begun_tokens(self) -> int:
        """Return how many tokens are of a character that the prompt does not complete: the answer begins with it."""
        pieces = [self._tokenizer.token_bytes(token) for token in self._tokens[-CHARACTER_TOKENS:]]
        rest, count = len(begun_character(pieces)), 0
        while rest > 0:
            count += 1
            rest -= len(pieces[-count])
        return count

    def feed(self, token: int) -> bytes:
        """Return the bytes that `token` completes, which may be none."""
        if token in self._visible:
            rest = self.flush()
            self._tokens, self._begin, self._end = [token], 0, 1
            return rest + self._visible[token]
        self._tokens.append(token)
        before, after = self._text(self._end), self._text(len(self._tokens))
        if after.endswith("\ufffd") and len(self._tokens) - self._end < _MAX_CHARACTER_TOKENS:
            return b""
        self._begin, self._end = self._end, len(self._tokens)
        return after[len(before) :].encode("utf-8", "replace")

    def flush(self) -> bytes:
        """Return what is left at the end: the bytes of a character that was never completed."""
        return self._text(len(self._tokens))[len(self._text(self._end)) :].encode("utf-8", "replace")

    def _text(self, end: int) -> str:
        return self._tokenizer.decode(self._tokens[self._begin : end], self._special)


def _hidden_texts(tokenizer: TextTokenizer, texts: Sequence[str]) -> dict[int, bytes]:
    """Return the names of those tokens of `texts` that decoding leaves out."""
    tokens = {token for text in texts for token in tokenizer.encode(text, special=False)}
    return {
        token: tokenizer.decode([token], special=True).encode("utf-8", "replace")
        for token in tokens
        if not tokenizer.decode([token], special=False)
    }
