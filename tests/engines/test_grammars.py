"""Grammars by llguidance, without a model: its version, and what a matcher says of tokens."""

from __future__ import annotations

import importlib.util
import json

import pytest

from modules.core.answer_grammar import LENIENT
from modules.core.errors import OptionError
from modules.core.paths import ROOT
from modules.engines.grammars import PACKAGE, GrammarRequest, Matcher
from tests.support.token_grammars import END, TOKENS, grammars, matches, request_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")

A, B, AB, X = (TOKENS.index(text) for text in ("a", "b", "ab", "x"))


UNENFORCEABLE = {
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "not": {"not": {"type": "string"}},
    "strin": {"type": "strin"},
    "/nowhere": {"$ref": "#/nowhere"},
}


def allowed(matcher: Matcher) -> set[int]:
    return set(matcher.allowed().nonzero()[0].tolist())


def test_the_package_is_pinned_in_the_requirements() -> None:
    assert PACKAGE in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def test_a_matcher_allows_the_tokens_with_which_the_text_can_go_on() -> None:
    matcher = grammars().compile(GrammarRequest('root ::= "ab" | "b"'))()
    assert allowed(matcher) == {A, B, AB}
    assert not matcher.may_end()
    assert matcher.accept(A)
    assert allowed(matcher) == {B}
    assert matcher.accept(B)
    assert matcher.may_end()


def test_a_refused_token_leaves_the_matcher_as_it_was() -> None:
    matcher = grammars().compile(GrammarRequest('root ::= "ab"'))()
    assert not matcher.accept(X)
    assert not matcher.accept(END)
    assert matcher.accept(AB)
    assert allowed(matcher) == {END}


def test_each_text_has_a_matcher_of_its_own_though_the_grammar_is_compiled_once() -> None:
    compiled = grammars()
    first, second = (compiled.compile(GrammarRequest('root ::= "ab"'))() for _ in range(2))
    first.accept(AB)
    assert second.accept(A)


def test_an_invalid_grammar_is_refused_with_the_reason() -> None:
    with pytest.raises(OptionError, match="missing"):
        grammars().compile(GrammarRequest("root ::= missing"))


# -- schemas -----------------------------------------------------------------------------------------------------------


def test_a_schema_that_cannot_be_enforced_is_refused_with_the_word(subtests: pytest.Subtests) -> None:
    for word, schema in UNENFORCEABLE.items():
        with subtests.test(word), pytest.raises(OptionError, match=word) as error:
            grammars().compile(request_of(["json", schema]))
        assert error.value.option == "response_format"
        assert "start:" not in error.value.say("en")


def test_of_several_schemas_the_one_that_cannot_be_enforced_is_named() -> None:
    tree = ["any", ["json", {"type": "string"}], ["all", ["text", "a"], ["json", {"not": {}, "title": "bad"}]]]
    with pytest.raises(OptionError, match="bad") as error:
        grammars().compile(GrammarRequest(json.dumps(tree), is_tree=True, field="tools"))
    assert error.value.option == "tools"


def test_what_cannot_be_enforced_of_a_lenient_schema_is_done_without() -> None:
    schema = {"type": "array", "uniqueItems": True, "maxItems": 2, LENIENT: True}
    assert matches(["json", schema], "[1, 1]")
    assert not matches(["json", schema], "[1, 1, 1]")


def test_the_parameters_of_a_generation_say_what_its_grammar_is() -> None:
    tree = ["json", {"type": "string"}]
    assert GrammarRequest.of({"grammar_string": ""}) is None
    assert GrammarRequest.of({"grammar_string": "root ::= x"}) == GrammarRequest("root ::= x")
    by_alias = GrammarRequest.of({"grammar_string": "root ::= x", "grammar_field": "guided_grammar"})
    assert by_alias == GrammarRequest("root ::= x", field="guided_grammar")
    assert GrammarRequest.of({"grammar_string": "", "answer_grammar": tree}) == request_of(tree)
    request = GrammarRequest.of({"grammar_string": "", "answer_grammar": tree, "grammar_field": "tools"})
    assert request is not None and request.field == "tools"


def test_schemas_that_are_too_large_together_are_refused() -> None:
    tools = [["json", {"title": str(number) + "x" * 60_000}] for number in range(17)]
    with pytest.raises(OptionError, match=r"tools: .*1000000 characters"):
        grammars().compile(GrammarRequest(json.dumps(["any", *tools]), is_tree=True, field="tools"))
