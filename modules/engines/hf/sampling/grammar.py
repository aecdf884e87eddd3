"""Grammars (GBNF) in the family of Transformers: only what the grammar takes stays within reach.

The grammars themselves are llguidance's work, which takes the tokenizer of transformers. It comes as a package of its
own, without which a grammar is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor

from modules.core.errors import OptionError, Unsupported

PACKAGE = "llguidance==1.9.1"


class Matcher(Protocol):
    """One text on its way through a grammar."""

    def allowed(self) -> Tensor:
        """Which tokens may come next: booleans, as many as the grammar's tokenizer has, on the CPU."""

    def accept(self, token: int) -> bool:
        """Go on by that token. False if it cannot be, or if the text is at its end."""


class Grammar(LogitsProcessor):
    """Holds each row to a grammar of its own, which `start` makes, from the end of the prompt on: `prompt` tokens.

    A row that has ended, and is only filled up while others go on, is left alone. Tokens may be taken back.
    """

    def __init__(self, start: Callable[[], Matcher], prompt: int) -> None:
        self._start, self._prompt = start, prompt
        self._rows: dict[int, _Row] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = scores.clone()
        for number, tokens in enumerate(input_ids[:, self._prompt :].tolist()):
            row = self._rows.get(number)
            if row is None or not row.leads_to(tokens):
                row = self._rows[number] = _Row(self._start())
            if row.follow(tokens):
                allowed = row.matcher.allowed()[: scores.shape[1]]
                changed[number, : len(allowed)].masked_fill_(~allowed.to(scores.device), -math.inf)
                changed[number, len(allowed) :] = -math.inf
        return changed


class _Row:
    """The text of one row so far."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self._taken: list[int] = []
        self._ended = False

    def leads_to(self, tokens: list[int]) -> bool:
        return tokens[: len(self._taken)] == self._taken

    def follow(self, tokens: list[int]) -> bool:
        """Take in what is new in `tokens`; whether more may come."""
        for token in tokens[len(self._taken) :]:
            self._ended = self._ended or not self.matcher.accept(token)
            self._taken.append(token)
        return not self._ended


class Grammars:
    """The grammars of one tokenizer. To be kept with the model: reading the vocabulary takes a second."""

    def __init__(self, tokenizer: Any, size: int, eos: list[int]) -> None:
        library = _library()
        if hasattr(tokenizer, "for_grammars"):  # one that is none of transformers'
            self._tokenizer = tokenizer.for_grammars(eos)
        elif getattr(tokenizer, "is_fast", False):
            self._tokenizer = library.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=eos)
        else:
            raise Unsupported(_SLOW)
        self._library, self._eos = library, frozenset(eos)

    def start(self, text: str) -> Callable[[], Matcher]:
        """What begins a text by that grammar. OptionError if it is none."""
        try:
            words = self._library.grammar_from("gbnf", text)
        except (ValueError, KeyError, IndexError, AssertionError) as error:
            raise refused(text, str(error)) from error
        first = self._library.LLMatcher(self._tokenizer, words, log_level=0)
        if first.is_error():
            raise refused(text, first.get_error())
        return lambda: _Guided(first.deep_copy(), self._eos)


class _Guided:
    """A matcher of llguidance's."""

    def __init__(self, matcher: Any, eos: frozenset[int]) -> None:
        self._matcher, self._eos = matcher, eos

    def allowed(self) -> Tensor:
        # One byte a token, 0 for what may not be.
        return torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()

    def accept(self, token: int) -> bool:
        return token not in self._eos and bool(self._matcher.consume_token(token))


def refused(text: str, reason: str) -> OptionError:
    """The error of a grammar that is none."""
    shown = text if len(text) <= 60 else text[:60] + "…"
    said = " / ".join(reason.split("\n"))[:300]
    wish = {"en": f"a GBNF grammar with a rule named root ({said})", "zh": f"含 root 规则的 GBNF 语法（{said}）"}
    return OptionError("grammar_string", shown, wish)


_SLOW = {
    "en": "A grammar needs a fast tokenizer; load the model without no_use_fast.",
    "zh": "语法需要快速分词器，请取消 no_use_fast 后重新加载模型。",
}
_MISSING = {
    "en": f"A grammar needs a package that is not installed. To install: pip install {PACKAGE}",
    "zh": f"使用语法需要安装：pip install {PACKAGE}",
}


def _library() -> Any:
    try:
        import llguidance
        import llguidance.hf
    except ImportError as error:
        raise Unsupported(_MISSING) from error
    return llguidance
