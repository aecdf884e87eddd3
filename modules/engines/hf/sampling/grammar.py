"""Grammars (GBNF): a logits processor that allows only the tokens with which a grammar can continue.

llguidance compiles and matches the grammars with the tokenizer of transformers. It is an optional package, without
which a grammar is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor

from modules.core.errors import OptionError, Unsupported
from modules.engines.time_limit import time_limit
from modules.options.option import shortened

PACKAGE = "llguidance==1.9.1"


class Matcher(Protocol):
    """The state of one text in a grammar."""

    def allowed(self) -> Tensor:
        """Return which tokens may come next: bool [tokens of the grammar's tokenizer], on the CPU."""

    def accept(self, token: int) -> bool:
        """Advance by `token`. False if the grammar does not allow it, or if the text has ended."""


class Grammar(LogitsProcessor):
    """Constrain every row to a grammar, from the end of the prompt of `prompt_length` tokens on.

    `start` makes the matcher of one row. A row that has ended, and is only padded while others continue, stays as it
    is. Tokens may be taken back.
    """

    def __init__(self, start: Callable[[], Matcher], prompt_length: int) -> None:
        self._start, self._prompt_length = start, prompt_length
        self._rows: dict[int, _Row] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with time_limit():
            return self._constrained(input_ids, scores)

    def _constrained(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        constrained = scores.clone()
        for number, tokens in enumerate(input_ids[:, self._prompt_length :].tolist()):
            row = self._rows.get(number)
            if row is None or not row.is_prefix_of(tokens):
                row = self._rows[number] = _Row(self._start())
            if row.advance(tokens):
                allowed = row.matcher.allowed()[: scores.shape[1]]
                constrained[number, : len(allowed)].masked_fill_(~allowed.to(scores.device), -math.inf)
                constrained[number, len(allowed) :] = -math.inf
        return constrained


class _Row:
    """The text of one row so far, with its matcher."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self._tokens: list[int] = []
        self._ended = False

    def is_prefix_of(self, tokens: list[int]) -> bool:
        return tokens[: len(self._tokens)] == self._tokens

    def advance(self, tokens: list[int]) -> bool:
        """Advance by the tokens that are new. False if the text has ended."""
        for token in tokens[len(self._tokens) :]:
            self._ended = self._ended or not self.matcher.accept(token)
            self._tokens.append(token)
        return not self._ended


class Grammars:
    """Compile grammars for one tokenizer. Keep it with the model: reading the vocabulary takes a second."""

    def __init__(self, tokenizer: Any, size: int, eos: list[int]) -> None:
        llguidance = _import_llguidance()
        if hasattr(tokenizer, "for_grammars"):  # a tokenizer that is not one of transformers
            self._tokenizer = tokenizer.for_grammars(eos)
        elif getattr(tokenizer, "is_fast", False):
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=eos)
        else:
            raise Unsupported(_SLOW_TOKENIZER)
        self._llguidance, self._eos = llguidance, frozenset(eos)

    def compile(self, text: str) -> Callable[[], Matcher]:
        """Return what starts a matcher of that grammar. Raises OptionError if it is invalid."""
        try:
            compiled = self._llguidance.grammar_from("gbnf", text)
        except (ValueError, KeyError, IndexError, AssertionError) as error:
            raise invalid_grammar(text, str(error)) from error
        first = self._llguidance.LLMatcher(self._tokenizer, compiled, log_level=0)
        if first.is_error():
            raise invalid_grammar(text, first.get_error())
        return lambda: _LlguidanceMatcher(first.deep_copy(), self._eos)


class _LlguidanceMatcher:
    def __init__(self, matcher: Any, eos: frozenset[int]) -> None:
        self._matcher, self._eos = matcher, eos

    def allowed(self) -> Tensor:
        # One byte per token, 0 if it is not allowed.
        return torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()

    def accept(self, token: int) -> bool:
        return token not in self._eos and bool(self._matcher.consume_token(token))


def invalid_grammar(text: str, reason: str) -> OptionError:
    """Return the error for an invalid grammar, with its beginning."""
    detail = " / ".join(reason.split("\n"))[:300]
    expected = {
        "en": f"a GBNF grammar with a rule named root ({detail})",
        "zh": f"含 root 规则的 GBNF 语法（{detail}）",
    }
    return OptionError("grammar_string", shortened(text), expected)


_SLOW_TOKENIZER = {
    "en": "A grammar needs a fast tokenizer; load the model without no_use_fast.",
    "zh": "使用语法需要快速分词器，请取消勾选 no_use_fast 后重新加载模型。",
}
_NOT_INSTALLED = {
    "en": f"Grammars need a package that is not installed. Install it: pip install {PACKAGE}",
    "zh": f"使用语法需要额外的软件包，请安装：pip install {PACKAGE}",
}


def _import_llguidance() -> Any:
    try:
        import llguidance
        import llguidance.hf
    except ImportError as error:
        raise Unsupported(_NOT_INSTALLED) from error
    return llguidance
