"""Grammars over a GGUF model's tokens: by llguidance, and by llama.cpp's own implementation where that takes over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from modules.core.paths import ROOT
from tests.conftest import SMOLLM2
from tests.engines.hf.sampling.test_grammar import SHAPES

pytestmark = pytest.mark.usefixtures("smollm2")

FORKS = 'root ::= [a-z ] root "b" | [a-z ] root "c" | "x"'
"""A grammar for which llama.cpp's own matcher keeps twice as many states after each character."""
TOKEN_BY_NUMBER = 'root ::= "yes" | <[19]>'
"""llguidance does not take this form."""
IMPLEMENTATIONS = {"llguidance": True, "llama.cpp": False}


def generate_texts(grammar: str, texts: int, llguidance: bool = True) -> Any:
    """Run tests/support/llama_grammar_probe.py."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.support.llama_grammar_probe"],
        cwd=ROOT,
        input=json.dumps({"path": str(SMOLLM2), "grammar": grammar, "texts": texts, "llguidance": llguidance}),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


def test_generated_text_follows_the_grammar(subtests: pytest.Subtests) -> None:
    for implementation, installed in IMPLEMENTATIONS.items():
        for name in ("yes or no", "chinese"):
            grammar, shape = SHAPES[name]
            with subtests.test(implementation=implementation, grammar=name):
                texts = generate_texts(grammar, 4, installed)
                assert all(ended and re.fullmatch(shape, text) for text, ended in texts), texts


def test_a_grammar_that_llguidance_does_not_take_is_left_to_llama_cpp() -> None:
    assert all(ended for _, ended in generate_texts(TOKEN_BY_NUMBER, 3))


def test_a_text_follows_a_grammar_that_forks_at_each_character() -> None:
    ((text, ended),) = generate_texts(FORKS, 1)
    assert re.fullmatch(r"[a-z ]*(x[bc]*)?", text) and (ended or len(text) >= 50)


def test_an_invalid_grammar_is_refused_by_name(subtests: pytest.Subtests) -> None:
    for implementation, installed in IMPLEMENTATIONS.items():
        with subtests.test(implementation=implementation):
            assert "grammar_string" in generate_texts("root ::= (", 1, installed)["error"]
