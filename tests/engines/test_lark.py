"""Each kind of node of an `AnswerGrammar`, as llguidance enforces it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from modules.core.answer_grammar import AnswerGrammar
from tests.support.token_grammars import matches

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
JSON: AnswerGrammar = ["json", SCHEMA]
CALL: AnswerGrammar = ["all", ["text", "<c>"], JSON, ["text", "</c>"]]


def test_json_matches_its_schema_with_little_white_space() -> None:
    assert matches(JSON, '{"a": 1}') and matches(JSON, '{\n  "a": 1\n}')
    assert not matches(JSON, '{"a": 2}') and not matches(JSON, '{"a": ' + " " * 30 + "1}")
    assert matches(["json", True], "null") and matches(["json", True], '[{"b": "c"}]')


def test_markup_is_matched_by_special_tokens_and_text() -> None:
    header = ["text", '<|channel|>to="a\\b" /x\n<|message|>']
    assert matches(header, '<|channel|>to="a\\b" /x\n<|message|>')
    assert not matches(header, '<|channel|>to="ab" /x\n<|message|>')
    assert matches(["all", ["text", ""], JSON], '{"a": 1}')


def test_any_text_goes_until_a_text_occurs(subtests: pytest.Subtests) -> None:
    for end in ("</think>", "<|message|>", "so:<|message|>", "<|message|>\n", ".*/"):
        node = ["all", ["until", end], JSON]
        with subtests.test(end=end):
            assert matches(node, f'Is it {{"a": 2}}?\n </ no{end}{{"a": 1}}')
            assert matches(node, f'{end}{{"a": 1}}')
            assert not matches(node, '{"a": 1}')
            assert not matches(node, f'no{end}no{end}{{"a": 1}}')


def test_nodes_follow_each_other_or_are_left_out_or_repeated(subtests: pytest.Subtests) -> None:
    one = '<c>{"a": 1}</c>'
    cases: list[tuple[Any, tuple[str, ...], tuple[str, ...]]] = [
        (["all", ["maybe", ["text", "x"]], CALL], (one, f"x{one}"), (f"xx{one}", "x")),
        (["many", ["all", CALL, ["space"]]], (one, f"{one}\n\n{one}", one * 3), ("", f"{one},{one}")),
        (["any", CALL, JSON, ["text", "x"]], (one, '{"a": 1}', "x"), (f"{one}x", "")),
        (["all", ["space"], CALL], (one, f" \n{one}"), (f"{' ' * 30}{one}",)),
    ]
    for node, good, bad in cases:
        with subtests.test(node=node):
            assert all(matches(node, text) for text in good)
            assert not any(matches(node, text) for text in bad)


def test_any_text_may_end_an_answer_if_it_does_not_begin_a_call(subtests: pytest.Subtests) -> None:
    for begin in ("<c>", "<|channel|>"):
        call = ["all", ["until", begin], JSON, ["text", "</c>"]]
        with subtests.test(begin=begin):
            node = ["any", call, ["rest"]]
            assert matches(node, "Hello, <c or <") and matches(node, "")
            assert matches(node, f'Well{begin}{{"a": 1}}</c>')
            assert not matches(node, f'Well{begin}{{"a": 2}}</c>') and not matches(node, f"Well{begin}")
