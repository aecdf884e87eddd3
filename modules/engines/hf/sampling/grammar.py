"""A logits processor that allows only the tokens with which a grammar (GBNF) can continue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from modules.core.errors import Unsupported
from modules.engines.grammars import Grammars, Matcher, import_llguidance
from modules.engines.time_limit import time_limit


class Grammar(LogitsProcessor):
    """Constrain every row to a grammar, from the end of the prompt of `prompt_length` tokens on.

    `start` makes the matcher of one row. A row that has ended, and is only padded while others continue, stays as it
    is. Tokens may be taken back. A text that is complete, and cannot go on, ends with one of the tokens `ends` even if
    they were banned before.
    """

    def __init__(self, start: Callable[[], Matcher], prompt_length: int, ends: Sequence[int] = ()) -> None:
        self._start, self._prompt_length, self._ends = start, prompt_length, list(ends)
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
                allowed = torch.from_numpy(row.matcher.allowed()[: scores.shape[1]])
                constrained[number, : len(allowed)].masked_fill_(~allowed.to(scores.device), -math.inf)
                constrained[number, len(allowed) :] = -math.inf
                if self._ends and constrained[number].max() == -math.inf and row.matcher.may_end():
                    constrained[number, self._ends] = 0
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


def grammars_of(tokenizer: Any, size: int, ends: Sequence[int]) -> Grammars:
    """Return the grammars over a tokenizer of transformers, for `size` logits.

    Keep them with the model: reading the vocabulary takes a second. Raises Unsupported.
    """
    import_llguidance()
    if not getattr(tokenizer, "is_fast", False):
        raise Unsupported(_SLOW_TOKENIZER)
    import llguidance.hf

    return Grammars(llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=list(ends)), ends)


_SLOW_TOKENIZER = {
    "en": "A grammar needs a fast tokenizer; load the model without no_use_fast.",
    "zh": "使用语法需要快速词符化器，请取消勾选“不使用快速词符化器”后重新加载模型。",
}
