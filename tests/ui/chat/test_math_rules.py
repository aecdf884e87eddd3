"""Where formulas begin and end."""

from __future__ import annotations

import pytest

from modules.ui.chat.markdown_parser import make_parser


def formulas(text: str) -> list[str]:
    """Return the sources of all formulas, in order."""
    tokens = [inner for token in make_parser().parse(text) for inner in (token, *(token.children or ()))]
    return [token.content.strip() for token in tokens if token.type in ("math_inline", "math_block")]


def test_all_four_delimiters_are_known(subtests: pytest.Subtests) -> None:
    for text in (
        "a $x^2$ b",
        r"a \(x^2\) b",
        r"a \[x^2\] b",
        "a $$x^2$$ b",
        "设$x^2$为",
        "$$\nx^2\n$$",
        "\\[\nx^2\n\\]",
    ):
        with subtests.test(text=text):
            assert formulas(text) == ["x^2"]


def test_prices_and_escaped_signs_are_text(subtests: pytest.Subtests) -> None:
    for text in (
        "$5 and $6",
        "from $5-$6",
        "US$5, or 6$",
        "a $ b $ c",
        r"\$x\$",
        "costs $5 in `$HOME`",
        "$",
        "$ x$",
        "$x $",
    ):
        with subtests.test(text=text):
            assert formulas(text) == []


def test_escaped_brackets_of_references_and_links_are_text(subtests: pytest.Subtests) -> None:
    for text in (r"as shown in \[1\] and \[2, 3\].", r"\[1\]", r"write \[text\](url)"):
        with subtests.test(text=text):
            assert formulas(text) == []
    assert formulas(r"so \[1 + 1\] is two") == ["1 + 1"]


def test_code_contains_no_formulas(subtests: pytest.Subtests) -> None:
    for text in ("`$x$`", "```\n$x$\n\\[\ny\n\\]\n```", "    $$\n    x\n    $$", r"`\(x\)`"):
        with subtests.test(text=text):
            assert formulas(text) == []


def test_a_formula_on_its_own_lines_is_no_list_and_no_paragraph() -> None:
    assert formulas("so\n\\[\na\n\n- b\n= c\n\\]\nand") == ["a\n\n- b\n= c"]
    assert formulas("$$ a\n+ b $$") == ["a\n+ b"]


def test_formulas_work_in_lists_and_quotes() -> None:
    assert formulas("- item\n  $$\n  x\n  $$\n- $y$\n\n> \\[\n> z\n> \\]\n") == ["x", "y", "z"]


def test_in_a_list_a_formula_may_be_indented_like_code() -> None:
    assert formulas("- item\n\n      \\[\n      x\n      \\]\n") == ["x"]


def test_a_formula_without_an_end_takes_only_so_many_lines() -> None:
    assert formulas("$$\nx\n") == ["x"]
    assert formulas("$$\n" + "text\n" * 100) == []
    assert formulas("$$ a\n\ntext") == []


def test_formulas_with_text_after_them_stay_in_their_paragraph() -> None:
    assert formulas("$$a$$ is a sum\nof $b$") == ["a", "b"]
