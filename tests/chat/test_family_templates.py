"""Templates in the formats of ten families of models give the prompts that transformers renders, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.paths import ROOT
from tests.support.template_comparison import CASES, compare

FOLDER = ROOT / "tests" / "support" / "family_templates"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
REFUSING = {("gemma-2", "a call and its result")}
"""Gemma 2 has no role for the results of tools."""
VARIABLES = {
    "deepseek-r1": [],
    "gemma-2": [],
    "gemma-4": ["enable_thinking"],
    "glm-4": ["enable_thinking", "clear_thinking"],
    "gpt-oss": ["reasoning_effort", "model_identity"],
    "llama-3": ["date_string"],
    "mistral-v3": [],
    "mistral-v7": [],
    "phi-3": [],
    "qwen-3": ["enable_thinking", "preserve_thinking"],
}
THOUGHTS = {
    "deepseek-r1": "<think>",
    "gemma-4": "<|channel>thought",
    "glm-4": "<think>",
    "gpt-oss": "<|channel|>analysis<|message|>",
    "mistral-v7": "[THINK]",
    "qwen-3": "<think>",
}


@pytest.mark.usefixtures("backend")
def test_prompts_are_those_of_transformers(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, cases in compare(SOURCES, tmp_path / "tiny").items():
        for case, (ours, theirs) in cases.items():
            with subtests.test(name, case=case):
                assert ours == theirs
                assert isinstance(ours, list) == ((name, case) in REFUSING)
    assert set(SOURCES) == set(VARIABLES) and len(CASES) == 10


def test_what_a_family_s_template_can_do_is_found_by_probing(subtests: pytest.Subtests) -> None:
    templates = ChatTemplates()
    for name, source in SOURCES.items():
        with subtests.test(name):
            template = ModelTemplate(name, source)
            features = templates.features(template)
            assert [variable.name for variable in templates.variables(template)] == VARIABLES[name]
            assert (features.markers.open if features.markers else "") == THOUGHTS.get(name, "")
            assert features.system == (name != "gemma-2")
