"""Prompts of templates as HTML."""

from __future__ import annotations

from modules.ui.locales import translator
from modules.ui.model.template_html import MOST_CHARACTERS, preview

TR = translator("en")


def test_a_long_prompt_is_cut_and_ends_with_dots() -> None:
    parts = [("<s>", True), ("x" * (MOST_CHARACTERS - 3), False)]
    whole = preview(parts, 7, TR)
    assert "<mark>&lt;s&gt;</mark>x" in whole and "…" not in whole
    cut = preview([*parts, ("</s>", True), ("y", False)], 7, TR)
    assert "x<mark></mark>…</pre>" in cut and "y<" not in cut
