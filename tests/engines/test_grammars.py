"""Grammars by llguidance, without a model: its version, and what a matcher says of tokens."""

from __future__ import annotations

import importlib.util

import pytest

from modules.core.errors import OptionError
from modules.core.paths import ROOT
from modules.engines.grammars import PACKAGE, Grammars, import_llguidance

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")

TOKENS = ["a", "b", "ab", "x", ""]
END = 4


def grammars() -> Grammars:
    class Tokenizer:
        """What llguidance asks of a tokenizer: one byte string a token."""

        eos_token_id, bos_token_id, special_token_ids = END, None, [END]
        tokens = [token.encode() for token in TOKENS]

        def __call__(self, text: str) -> list[int]:
            return [TOKENS.index(character) for character in text]

    llguidance = import_llguidance()
    wrapper = llguidance.TokenizerWrapper(Tokenizer())
    return Grammars(llguidance.LLTokenizer(wrapper, n_vocab=len(TOKENS), eos_token=[END]), [END])


def test_the_package_is_pinned_in_the_requirements() -> None:
    assert PACKAGE in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


def test_a_matcher_allows_the_tokens_with_which_the_text_can_go_on() -> None:
    matcher = grammars().compile('root ::= "ab" | "b"')()
    assert matcher.allowed().tolist() == [True, True, True, False, False]
    assert not matcher.may_end()
    assert matcher.accept(0)
    assert matcher.allowed().tolist() == [False, True, False, False, False]
    assert matcher.accept(1)
    assert matcher.may_end()


def test_a_refused_token_leaves_the_matcher_as_it_was() -> None:
    matcher = grammars().compile('root ::= "ab"')()
    assert not matcher.accept(3)
    assert not matcher.accept(END)
    assert matcher.accept(2)
    assert matcher.allowed().tolist() == [False, False, False, False, True]


def test_each_text_has_a_matcher_of_its_own_though_the_grammar_is_compiled_once() -> None:
    compiled = grammars()
    first, second = compiled.compile('root ::= "ab"')(), compiled.compile('root ::= "ab"')()
    first.accept(2)
    assert second.accept(0)


def test_an_invalid_grammar_is_refused_with_the_reason() -> None:
    with pytest.raises(OptionError, match="missing"):
        grammars().compile("root ::= missing")
