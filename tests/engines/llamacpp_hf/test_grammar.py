"""Grammars in llamacpp_HF without llguidance: llama.cpp's own implementation with the samplers of transformers."""

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


def generate_texts(grammar: str, texts: int) -> Any:
    """Run tests/support/llama_grammar_probe.py."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.support.llama_grammar_probe"],
        cwd=ROOT,
        input=json.dumps({"path": str(SMOLLM2), "grammar": grammar, "texts": texts}),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", ["yes or no", "chinese"])
def test_generated_text_follows_the_grammar(name: str) -> None:
    grammar, shape = SHAPES[name]
    texts = generate_texts(grammar, 4)
    assert all(ended and re.fullmatch(shape, text) for text, ended, _ in texts), texts


def test_an_invalid_grammar_is_refused_by_name() -> None:
    assert "grammar_string" in generate_texts("root ::= (", 1)["error"]
