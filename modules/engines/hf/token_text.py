"""What the family of Transformers asks of a model: the texts of its tokens, which a tokenizer knows, and its logits."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.core.errors import OptionError
from modules.core.events import Logprob, TokenChances
from modules.engines.engine_protocol import Operations


class Texts:
    """A tokenizer of transformers. Any thread may ask it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._locked = threading.Lock()
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()

    def encode(self, text: str, special: bool = True) -> list[int]:
        """The tokens of `text`, with those around it that the model wants; none of them twice at the beginning."""
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        if self._fast is not None:  # never a method that sets its state: then no other thread may look at it
            tokens: list[int] = self._fast.encode(text, add_special_tokens=special).ids
        else:
            with self._locked:
                tokens = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return tokens[1:] if special and bos is not None and tokens[:2] == [bos, bos] else tokens

    def decode(self, tokens: Sequence[int], special: bool) -> str:
        """Their text; what only marks something by its name if `special`, else left out."""
        if self._fast is not None:
            text: str = self._fast.decode(tokens, skip_special_tokens=not special)
            return text
        with self._locked:
            words = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
            text = self.tokenizer.decode(list(tokens), **words)
            return text

    @property
    def questions(self) -> Operations:
        """What a worker is asked of texts, at any time."""

        def encode(text: str, add_special: bool = True) -> list[int]:
            return self.encode(text, add_special)

        def count(text: str) -> int:
            return len(self.encode(text))

        def decode(tokens: list[int]) -> str:
            """The text of `tokens`, special ones by their names. OptionError for a number that is no token."""
            for token in tokens:
                self.check_token("tokens", token)
            return self.decode(tokens, special=True)

        return {"encode": encode, "count": count, "decode": decode}

    def check_token(self, option: str, token: int) -> None:
        if not 0 <= token < len(self.tokenizer):
            last = len(self.tokenizer) - 1
            raise OptionError(option, token, {"en": f"tokens from 0 to {last}", "zh": f" 0 到 {last} 之间的词符编号"})

    def special(self, which: str) -> str:
        """The text of the "bos" or "eos" token, "" if there is none."""
        return str(getattr(self.tokenizer, f"{which}_token") or "")

    @property
    def chat_template(self) -> str:
        template = self.tokenizer.chat_template
        return (template.get("default", "") if isinstance(template, dict) else template) or ""

    def chances(self, logits: Tensor, token: int, top: int) -> TokenChances:
        """How likely `token` was by these logits (of one row, before any sampler), and the `top` likeliest."""
        logprobs = logits.double().log_softmax(dim=-1)
        values, best = logprobs.topk(top)
        ranked = (self._chance(each, value) for each, value in zip(best.tolist(), values.tolist(), strict=True))
        return TokenChances(self._chance(token, float(logprobs[token])), tuple(ranked))

    def _chance(self, token: int, logprob: float) -> Logprob:
        known = token < len(self.tokenizer)  # there may be more logits than tokens
        return Logprob(self.decode([token], special=True) if known else "", round(logprob, 6))


class Interrupted(Exception):
    """Somebody wants something more urgent. The cache may hold any part of what was to be evaluated."""


class Shelf(Protocol):
    """What has been computed in answers that have ended, for what goes on from them."""

    def take(self, tokens: list[int]) -> tuple[Any, int]:
        """A cache for `tokens`, and how many of them it holds: at least the last one must still be evaluated."""

    def keep(self, tokens: list[int], cache: Any) -> None:
        """Take that cache back; it holds exactly `tokens`."""

    def clear(self) -> None:
        """Forget everything. Nobody has a cache any more."""


class Evaluator(Texts, ABC):
    """A model with its tokenizer. Not for several threads, but for the texts and for `interrupt`.

    What it makes as a cache is its own business. Only a model that `can_batch` has a cache of `hf_cache`.
    """

    name: str
    """Of the loader, for errors."""
    device: torch.device
    ends: frozenset[int]
    """The tokens that end an answer."""
    size: int
    """How many logits there are, which may be more than the tokenizer has tokens."""
    piece = 512
    """Tokens of a prompt that are read at once."""
    can_batch = False
    """Whether answers of different lengths can be padded to be written together."""
    can_guide = True
    """Whether it can hold a negative prompt beside an answer."""
    writes_apart = False
    """Whether it reads the prompt in one part and writes the answer, from its first token on, in another."""

    @abstractmethod
    def forward(self, tokens: Sequence[int], cache: Any, source: Any = None, last: int = 1) -> Tensor:
        """Evaluate `tokens` after what `cache` holds; the logits after the `last` ones, shape (last, size), float32.

        `source` is what `read` made of the prompt, for a model that writes apart.
        """

    @abstractmethod
    def interrupt(self, wanted: bool) -> None:
        """From any thread: have `forward_or_break_off` end early, until it is not wanted any more."""

    @abstractmethod
    def forward_or_break_off(self, tokens: Sequence[int], cache: Any, source: Any = None) -> Tensor:
        """`forward`, which takes long for many tokens; or Interrupted."""

    @abstractmethod
    def shelf(self, budget: int) -> Shelf:
        """An empty one, which may hold so many bytes."""

    @abstractmethod
    def cut_back(self, cache: Any, length: int) -> tuple[Any, int]:
        """Forget what `cache` holds beyond so many tokens. The cache to go on with, and how many tokens it holds."""

    @abstractmethod
    def can_cut(self, cache: Any) -> bool:
        """Whether it can be cut back anywhere."""

    def sums_up(self, _cache: Any) -> bool:
        """Whether several tokens at once are read right from nothing only."""
        return False

    # -- of a model that can batch, or writes apart -----------------------------------------------------------------

    def forward_padded(self, tokens: Sequence[int], starts: Sequence[int], end: int, cache: Any) -> Tensor:
        """One token a row; row r of the cache holds something from place `starts[r]` to place `end`.
        Shape (rows, size)."""
        raise NotImplementedError

    def read(self, tokens: Sequence[int]) -> Any:
        """The prompt as the part that reads passes it on."""
        raise NotImplementedError

    @property
    def first_written(self) -> int:
        """The token that the part that writes begins with."""
        raise NotImplementedError

    def fresh(self) -> Any:
        """An empty cache."""
        raise NotImplementedError


class Words:
    """The tokens of one answer, one after the other, as bytes of UTF-8: whole characters only.

    Some tokenizers write a token otherwise where a text begins, so each is decoded together with those before it.
    """

    def __init__(self, model: Texts, prompt: Sequence[int], special: bool) -> None:
        self._model, self._special = model, special
        self._tokens = list(prompt[-_LOOK_BACK:])
        self._begin, self._end = 0, len(self._tokens)

    def feed(self, token: int) -> bytes:
        self._tokens.append(token)
        before, now = self._text(self._end), self._text(len(self._tokens))
        if now.endswith("\ufffd") and len(self._tokens) - self._end < _LONGEST_CHARACTER:
            return b""
        self._begin, self._end = self._end, len(self._tokens)
        return now[len(before) :].encode("utf-8", "replace")

    def rest(self) -> bytes:
        """Of a character that never became whole."""
        return self._text(len(self._tokens))[len(self._text(self._end)) :].encode("utf-8", "replace")

    def _text(self, end: int) -> str:
        return self._model.decode(self._tokens[self._begin : end], self._special)


_LOOK_BACK, _LONGEST_CHARACTER = 6, 5  # tokens; a character has four bytes at most
