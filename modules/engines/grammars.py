"""Grammars (GBNF) over the tokens of one model, compiled and matched by llguidance.

It is an optional package, without which a grammar is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import OptionError, Unsupported
from modules.options.option import shortened

PACKAGE = "llguidance==1.9.1"
_REMEMBERED_GRAMMARS = 8
"""A client sends the same grammar with every request."""
_SHOWN_REASON = 300  # characters of a message


class Matcher(Protocol):
    """The state of one text in a grammar."""

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens may come next, shape [tokens of the grammar's tokenizer].

        Raises OptionError if the grammar turns out to be too complex.
        """

    def accept(self, token: int) -> bool:
        """Advance by `token`. False, with nothing changed, if the grammar does not allow it or it ends the text."""

    def may_end(self) -> bool:
        """Return whether the text may end here."""


class Grammars:
    """Compile grammars for one tokenizer of llguidance, whose tokens `ends` end a text."""

    def __init__(self, tokenizer: Any, ends: Sequence[int]) -> None:
        self._llguidance = import_llguidance()
        self._tokenizer, self._ends = tokenizer, frozenset(ends)
        self._compiled = lru_cache(maxsize=_REMEMBERED_GRAMMARS)(self._compile)

    def compile(self, text: str) -> Callable[[], Matcher]:
        """Return a function that starts a matcher of the grammar. Raises OptionError if the grammar is invalid."""
        first = self._compiled(text)
        return lambda: _LlguidanceMatcher(text, first.deep_copy(), self._ends)

    def _compile(self, text: str) -> Any:
        try:
            grammar = self._llguidance.grammar_from("gbnf", text)
        except (ValueError, KeyError, IndexError, AssertionError) as error:
            raise invalid_grammar(text, str(error)) from error
        matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise invalid_grammar(text, matcher.get_error())
        return matcher


class _LlguidanceMatcher:
    def __init__(self, text: str, matcher: Any, ends: frozenset[int]) -> None:
        self._text, self._matcher, self._ends = text, matcher, ends

    def allowed(self) -> NDArray[np.bool_]:
        # One byte per token, 0 if it is not allowed.
        mask: NDArray[np.bool_] = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
        if self._matcher.is_error():  # it would allow nothing but the end from now on
            raise invalid_grammar(self._text, self._matcher.get_error())
        return mask

    def accept(self, token: int) -> bool:
        # Asked first: a token that is not allowed would leave the matcher in an error.
        if token in self._ends or self._matcher.validate_tokens([token]) != 1:
            return False
        return bool(self._matcher.consume_token(token))

    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())


def invalid_grammar(text: str, reason: str) -> OptionError:
    """Return the error for an invalid grammar, with its beginning."""
    detail = " / ".join(reason.split("\n"))[:_SHOWN_REASON]
    expected = {
        "en": f"a GBNF grammar with a rule named root ({detail})",
        "zh": f"含 root 规则的 GBNF 语法（{detail}）",
    }
    return OptionError("grammar_string", shortened(text), expected)


_NOT_INSTALLED = {
    "en": f"Grammars need a package that is not installed. Install it: pip install {PACKAGE}",
    "zh": f"使用语法需要额外的软件包，请安装：pip install {PACKAGE}",
}


def import_llguidance() -> Any:
    """Return the package. Raises Unsupported if it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise Unsupported(_NOT_INSTALLED) from error
    return llguidance
