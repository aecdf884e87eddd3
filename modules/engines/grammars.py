"""Grammars (GBNF, or an `AnswerGrammar`) over the tokens of one model, compiled and matched by llguidance.

It is an optional package, without which they are refused.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.engines.lark import lark_grammar, schemas_of
from modules.engines.time_limit import time_limit
from modules.options.option import shortened

PACKAGE = "llguidance==1.9.1"
_REMEMBERED_GRAMMARS = 8
"""A client sends the same grammar with every request."""
_SHOWN_REASON = 300  # characters of a message
COMPILE_SECONDS = 5.0
MAX_TREE = 1_000_000
"""Characters of the JSON of an `AnswerGrammar`, for which llguidance takes half a second; it has limits of its own."""
_MAX_EXAMINED = 300_000
"""Characters of a tree whose schemas are compiled one by one to find the one that cannot be: that takes longer."""


@dataclass(frozen=True)
class GrammarRequest:
    """A request that an answer matches `text`, a grammar in GBNF or with `is_tree` the JSON of an `AnswerGrammar`.

    `field` of the request asks for it.
    """

    text: str
    is_tree: bool = False
    field: str = "grammar_string"

    @staticmethod
    def of(params: Mapping[str, Json]) -> GrammarRequest | None:
        """Return what the parameters of a generation ask for, None for nothing."""
        if tree := params.get("answer_grammar"):
            text = json.dumps(tree, ensure_ascii=False)
            return GrammarRequest(text, is_tree=True, field=params.get("grammar_field", "response_format"))
        if text := params["grammar_string"]:
            return GrammarRequest(text, field=params.get("grammar_field", "grammar_string"))
        return None


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

    def compile(self, request: GrammarRequest) -> Callable[[], Matcher]:
        """Return a function that starts a matcher of the grammar.

        Raises OptionError if the grammar is invalid, or one of its schemas contains what cannot be enforced.
        """
        first = self._compiled(request)
        return lambda: _LlguidanceMatcher(request, first.deep_copy(), self._ends)

    def _compile(self, request: GrammarRequest) -> Any:
        with time_limit(COMPILE_SECONDS):
            if not request.is_tree:
                return self._matcher(request, "gbnf", lambda: request.text)
            if len(request.text) > MAX_TREE:
                raise refusal(request, f"more than {MAX_TREE} characters in all")
            tree = json.loads(request.text)
            try:
                return self._matcher(request, "lark", lambda: lark_grammar(tree, self._tokenizer))
            except OptionError:
                for schema in schemas_of(tree) if len(request.text) <= _MAX_EXAMINED else ():
                    part = dataclasses.replace(request, text=json.dumps(schema, ensure_ascii=False))
                    self._matcher(part, "lark", partial(lark_grammar, ["json", schema], self._tokenizer))
                raise

    def _matcher(self, request: GrammarRequest, syntax: str, write: Callable[[], str]) -> Any:
        try:
            grammar = self._llguidance.grammar_from(syntax, write())
        except (ValueError, KeyError, IndexError, AssertionError) as error:
            raise refusal(request, str(error)) from error
        matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise refusal(request, matcher.get_error())
        return matcher


class GrammarsOnDemand:
    """The grammars of one model, whose vocabulary `read` reads when it is first needed. Any thread may call."""

    def __init__(self, read: Callable[[], Grammars]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._grammars: Grammars | None = None

    def prepare(self) -> None:
        """Read the vocabulary, unless that was done or `compile` would raise Unsupported."""
        with suppress(Unsupported):
            self._get()

    def compile(self, request: GrammarRequest) -> Callable[[], Matcher]:
        """Do as `Grammars.compile`. Raises Unsupported if the vocabulary cannot be read."""
        return self._get().compile(request)

    def _get(self) -> Grammars:
        with self._lock:
            if self._grammars is None:
                self._grammars = self._read()
            return self._grammars


class _LlguidanceMatcher:
    def __init__(self, request: GrammarRequest, matcher: Any, ends: frozenset[int]) -> None:
        self._request, self._matcher, self._ends = request, matcher, ends

    def allowed(self) -> NDArray[np.bool_]:
        # One byte per token, 0 if it is not allowed.
        mask: NDArray[np.bool_] = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) != 0
        if self._matcher.is_error():  # it would allow nothing but the end from now on
            raise refusal(self._request, self._matcher.get_error())
        return mask

    def accept(self, token: int) -> bool:
        # Asked first: a token that is not allowed would leave the matcher in an error.
        if token in self._ends or self._matcher.validate_tokens([token]) != 1:
            return False
        return bool(self._matcher.consume_token(token))

    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())


def refusal(request: GrammarRequest, reason: str) -> OptionError:
    """Return the error for a grammar or a schema that cannot be matched, with its beginning."""
    if request.is_tree:
        detail = reason.partition("failed to compile JSON schema: ")[2] or reason
        detail = detail.partition("\n   1 | ")[0].replace("\n", " / ")[:_SHOWN_REASON]
        expected = {
            "en": f"a JSON schema that can be enforced ({detail})",
            "zh": f"可以强制执行的 JSON Schema（{detail}）",
        }
        return OptionError(request.field, shortened(request.text), expected)
    detail = reason.replace("\n", " / ")[:_SHOWN_REASON]
    expected = {
        "en": f"a GBNF grammar with a rule named root ({detail})",
        "zh": f"含 root 规则的 GBNF 语法（{detail}）",
    }
    return OptionError(request.field, shortened(request.text), expected)


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
