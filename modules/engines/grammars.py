"""Grammars (GBNF) and JSON schemas over the tokens of one model, compiled and matched by llguidance.

It is an optional package, without which they are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.core.reasoning import ReasoningMarkers
from modules.options.option import shortened

PACKAGE = "llguidance==1.9.1"
_REMEMBERED_GRAMMARS = 8
"""A client sends the same grammar with every request."""
_SHOWN_REASON = 300  # characters of a message
_WHITE_SPACE = r"[ \n\r\t]{0,20}"
"""Between the parts of JSON. Small models would otherwise go on with white space for ever."""


@dataclass(frozen=True)
class GrammarRequest:
    """A request that an answer matches `text`, a grammar in GBNF or with `is_schema` a JSON schema.

    Before JSON there may be a thought between `markers`, which the prompt has opened already if it is `inside`.
    """

    text: str
    is_schema: bool = False
    markers: ReasoningMarkers | None = None
    inside: bool = False

    @staticmethod
    def of(params: Mapping[str, Json]) -> GrammarRequest | None:
        """Return what the parameters of a generation ask for, None for nothing."""
        if not params.get("json_schema"):
            return GrammarRequest(params["grammar_string"]) if params["grammar_string"] else None
        thought = params.get("thought")
        if not thought:
            return GrammarRequest(params["json_schema"], is_schema=True)
        markers = ReasoningMarkers(thought["open"], thought["close"], tuple(thought["headers"]))
        return GrammarRequest(params["json_schema"], True, markers, thought["inside"])


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

        Raises OptionError if the grammar is invalid, or the schema contains what cannot be enforced.
        """
        first = self._compiled(request)
        return lambda: _LlguidanceMatcher(request, first.deep_copy(), self._ends)

    def _compile(self, request: GrammarRequest) -> Any:
        try:
            text, syntax = (self._lark(request), "lark") if request.is_schema else (request.text, "gbnf")
            grammar = self._llguidance.grammar_from(syntax, text)
        except (ValueError, KeyError, IndexError, AssertionError) as error:
            raise refusal(request, str(error)) from error
        matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise refusal(request, matcher.get_error())
        return matcher

    def _lark(self, request: GrammarRequest) -> str:
        """Return the grammar, in llguidance's form of Lark, of JSON after an optional thought."""
        schema = json.loads(request.text)
        guidance = {"x-guidance": {"whitespace_pattern": _WHITE_SPACE}}
        answer = f"%json {json.dumps({**schema, **guidance} if isinstance(schema, dict) else schema)}"
        if request.markers is None:
            return f"start: {answer}"
        opening = "" if request.inside else " ".join(self._parts(request.markers.open))
        headers = " | ".join(" ".join(self._parts(header)) for header in request.markers.headers)
        thought = f"{opening} thought SPACE? {f'({headers})? SPACE?' if headers else ''}"
        return "\n".join(
            (
                f"start: {thought if request.inside else f'({thought})?'} answer",
                self._thought_rule(request.markers.close),
                r"SPACE: /[ \n\r\t]{1,20}/",
                f"answer: {answer}",
            )
        )

    def _thought_rule(self, close: str) -> str:
        """Return the rule of a thought and the marker that ends it."""
        parts, anything = self._parts(close), r"/(.|\n)*/"
        if len(parts) == 1 and parts[0].startswith('"'):
            return f"thought[suffix={parts[0]}]: {anything}"
        return f"thought: {anything} {' '.join(parts)}"

    def _parts(self, marker: str) -> list[str]:
        """Return the special tokens of a marker, by their ids, and the texts between them, as they are in Lark."""
        parts, text = [], ""
        for token in self._tokenizer.tokenize_str(marker, parse_special=True):
            if self._tokenizer.is_special_token(token):
                parts += [*([json.dumps(text)] if text else []), f"<[{token}]>"]
                text = ""
            else:
                text += self._tokenizer.decode_str([token])
        return [*parts, *([json.dumps(text)] if text else [])]


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
    if request.is_schema:
        detail = reason.partition("failed to compile JSON schema: ")[2] or reason
        detail = detail.partition("\n   1 | ")[0].replace("\n", " / ")[:_SHOWN_REASON]
        expected = {
            "en": f"a JSON schema that can be enforced ({detail})",
            "zh": f"可以强制执行的 JSON Schema（{detail}）",
        }
        return OptionError("response_format", shortened(request.text), expected)
    detail = reason.replace("\n", " / ")[:_SHOWN_REASON]
    expected = {
        "en": f"a GBNF grammar with a rule named root ({detail})",
        "zh": f"含 root 规则的 GBNF 语法（{detail}）",
    }
    return OptionError("grammar_string", shortened(request.text), expected)


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
