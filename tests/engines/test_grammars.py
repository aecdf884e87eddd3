"""Grammars by llguidance, without a model: its version, and what a matcher says of tokens."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from modules.core.errors import OptionError
from modules.core.paths import ROOT
from modules.core.reasoning import ReasoningMarkers
from modules.engines.grammars import PACKAGE, GrammarRequest, Grammars, Matcher, import_llguidance

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")

SPECIAL = ("<end>", "<|channel|>", "<|message|>")
TOKENS = [*SPECIAL, "ab", *(chr(code) for code in range(32, 127)), "\n"]
END = 0
A, B, AB, X = (TOKENS.index(text) for text in ("a", "b", "ab", "x"))

SCHEMA = json.dumps(
    {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
)
TAGS = ReasoningMarkers("<think>", "</think>")
CHANNELS = ReasoningMarkers("<|channel|>analysis<|message|>", "<|message|>", ("<|channel|>final<|message|>",))


def tokens_of(text: str) -> list[int]:
    found = re.findall("|".join(map(re.escape, SPECIAL)) + "|.", text, re.DOTALL)
    return [TOKENS.index(token) for token in found]


def grammars() -> Grammars:
    class Tokenizer:
        """What llguidance asks of a tokenizer: one byte string a token, and the tokens of a text."""

        eos_token_id, bos_token_id, special_token_ids = END, None, list(range(len(SPECIAL)))
        tokens = [token.encode() for token in TOKENS]

        def __call__(self, text: str) -> list[int]:
            return tokens_of(text)

    llguidance = import_llguidance()
    wrapper = llguidance.TokenizerWrapper(Tokenizer())
    return Grammars(llguidance.LLTokenizer(wrapper, n_vocab=len(TOKENS), eos_token=[END]), [END])


def allowed(matcher: Matcher) -> set[int]:
    return set(matcher.allowed().nonzero()[0].tolist())


def matches(request: GrammarRequest, text: str) -> bool:
    """Return whether `text` is complete under the grammar."""
    matcher = grammars().compile(request)()
    return all(map(matcher.accept, tokens_of(text))) and matcher.may_end()


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


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_an_answer_matches_the_schema_with_little_white_space() -> None:
    request = GrammarRequest(SCHEMA, is_schema=True)
    assert matches(request, '{"a": 1}') and matches(request, '{\n  "a": 1\n}')
    assert not matches(request, '{"a": 2}') and not matches(request, '{"a": ' + " " * 30 + "1}")
    assert not matches(request, '<think>hm</think>{"a": 1}')


def test_a_thought_may_precede_the_json(subtests: pytest.Subtests) -> None:
    texts = {
        TAGS: '<think>Is it {"a": 2}? </ no</think>\n\n{"a": 1}',
        CHANNELS: '<|channel|>analysis<|message|>Is it {"a": 2}?<|message|><|channel|>final<|message|>{"a": 1}',
    }
    for markers, text in texts.items():
        with subtests.test(markers=markers.open):
            request = GrammarRequest(SCHEMA, True, markers)
            assert matches(request, text)
            assert matches(request, '{"a": 1}')
            assert not matches(request, text + "}")
            assert not matches(request, text.replace("{", "", 2))


def test_a_thought_that_the_prompt_has_opened_must_be_closed() -> None:
    request = GrammarRequest(SCHEMA, True, TAGS, inside=True)
    assert matches(request, 'Is it 2?</think>{"a": 1}')
    assert not matches(request, '{"a": 1}')


def test_a_schema_that_cannot_be_enforced_is_refused_with_the_word(subtests: pytest.Subtests) -> None:
    for word, schema in {
        "uniqueItems": {"type": "array", "uniqueItems": True},
        "not": {"not": {"type": "string"}},
        "strin": {"type": "strin"},
        "/nowhere": {"$ref": "#/nowhere"},
    }.items():
        with subtests.test(word), pytest.raises(OptionError, match=word) as error:
            grammars().compile(GrammarRequest(json.dumps(schema), is_schema=True))
        assert error.value.option == "response_format"
        assert "start:" not in error.value.say("en")
