"""Figures of two models that cannot be compared token by token are refused with the reason."""

from __future__ import annotations

import dataclasses

from modules.evaluation.prepared import PreparedText, explain_difference
from modules.evaluation.windows import WindowPlan, plan_windows

WINDOWS: WindowPlan = plan_windows([1, 2, 3, 4], "rolling", 2, 4, None, False)
TEXT = PreparedText(WINDOWS, 2, 4, None, "", 4, "x")


def test_a_difference_is_explained_by_bos_or_else_by_the_windows() -> None:
    assert "same windows" in explain_difference(TEXT, TEXT)["en"] and "窗口不同" in explain_difference(TEXT, TEXT)["zh"]
    with_bos = dataclasses.replace(TEXT, bos=1, bos_text="<s>")
    cases = ((with_bos, TEXT, "begin with BOS (none), these with <s>"), (TEXT, with_bos, "with BOS <s>, these"))
    for one, other, words in cases:
        assert words in explain_difference(one, other)["en"] and "never" in explain_difference(one, other)["zh"]
