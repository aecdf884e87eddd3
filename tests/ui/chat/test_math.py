"""Formulas in LaTeX as MathML."""

from __future__ import annotations

import re
import time

import pytest

from modules.ui.chat.math import MAX_LENGTH, formula_html, source_html


def drawn(latex: str) -> str:
    """Return the MathML inside of <math>."""
    html = formula_html(latex, display=False)
    assert "<math " in html, f"{latex} is not drawn"
    return re.sub(r"^.*?<math [^>]*>|</math>.*$", "", html)


def test_what_models_write_is_drawn(subtests: pytest.Subtests) -> None:
    for latex in (
        r"x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}",
        r"\sum_{i=1}^{n} \int_0^\infty \lim_{x \to 0} \prod",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}^{-1}",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{否则} \end{cases}",
        r"\begin{aligned} a &= b \\ &= c \end{aligned}",
        r"\begin{align*} a &= b \nonumber \\ c &= d \label{x} \end{align*}",
        r"\begin{gathered} a \\ b \end{gathered}",
        r"\operatorname*{arg\,max}_\theta \arg\min_x \log p(x \mid \theta)",
        r"\left. \frac{\partial f}{\partial x} \right|_{x=0} \middle| y",
        r"\mathbb{E}_{x \sim p}[x] \in \mathbb{R}^{n \times n}, \mathcal{L}, \mathbf{W}^\top",
        r"\hat{x} \bar{x} \vec{v} \dot{x} \tilde{x} \overline{AB} \underbrace{a+b}_{n}",
        r"\boxed{42} \xrightarrow{f} \binom{n}{k} \lfloor x \rfloor \| x \|_2",
        r"30^\circ, 100\%, \$5",
    ):
        with subtests.test(latex=latex):
            assert drawn(latex)


def test_lines_and_columns_outside_of_an_environment_are_drawn_as_a_table() -> None:
    html = drawn(r"a &= b \\ c &= d")

    assert html.count("<mtr>") == 2
    assert '<mtd class="tx-right"><mi>a</mi></mtd>' in html


def test_lines_within_a_part_that_has_one_line_show_the_source(subtests: pytest.Subtests) -> None:
    for latex in (r"\sqrt{a \\ b}", r"\frac{a & b}{c}", r"x^{a \\ b}"):
        with subtests.test(latex=latex):
            assert formula_html(latex, display=True) == source_html(latex)


def test_characters_that_an_alphabet_lacks_stay_as_they_are() -> None:
    assert "<mi>é</mi>" in drawn(r"\mathbf{é}") and "<mi>𝐱</mi>" in drawn(r"\mathbf{x}")


def test_a_negative_space_and_an_operator_of_ones_own_are_drawn() -> None:
    assert '<mspace width="-0.167em">' in drawn(r"a\!b")
    assert re.fullmatch(r"(<mrow>)+<mi>x</mi>(</mrow>)+", drawn(r"\mathop{x}"))


def test_a_matrix_is_one_base_of_its_exponent() -> None:
    assert "<msup><mrow><mo>[</mo><mtable>" in drawn(r"\begin{bmatrix} 1 \end{bmatrix}^{-1}")


def test_letters_of_mathematical_alphabets_are_characters(subtests: pytest.Subtests) -> None:
    for latex, characters in (
        (r"\mathbf{AB}", "𝐀𝐁"),
        (r"\mathbb{1}", "𝟙"),
        (r"\mathscr{FLa}", "ℱℒ𝒶"),
        (r"\mathfrak{CH}", "ℭℌ"),
        (r"\textbf{Ab1}", "𝐀𝐛𝟏"),
    ):
        with subtests.test(latex=latex):
            assert re.sub("<[^>]*>", "", drawn(latex)) == characters


def test_upright_letters_and_relations_are_marked() -> None:
    assert drawn(r"\mathrm{d}x") == '<mrow><mi mathvariant="normal">d</mi><mi>x</mi></mrow>'
    assert '<mo stretchy="false">∼</mo>' in drawn(r"x \sim p")
    assert "<mi>∞</mi>" in drawn(r"\infty")


def test_the_source_is_the_alternative_text() -> None:
    assert 'alttext="a&lt;b"' in formula_html("a<b", display=False)


def test_display_formulas_can_be_scrolled_by_keyboard_if_they_are_long() -> None:
    assert formula_html("x", display=True).startswith('<span class="tx-math-display"><math display="block"')
    assert '<span class="tx-math-display" tabindex="0">' in formula_html("x + " * 30 + "y", display=True)


def test_what_cannot_be_drawn_is_shown_as_its_source(subtests: pytest.Subtests) -> None:
    for latex in (
        r"\ce{H2O}",
        r"\frac{1}",
        r"\left( x",
        r"x^2^3",
        r"\begin{matrix} 1",
        "",
        r"\newcommand{\a}{xx} \a",
        r"\def\a{xx} \a",
        "x" * (MAX_LENGTH + 1),
        r"\sqrt" * 500 + "x",
        "{" * 500 + "}" * 500,
    ):
        with subtests.test(latex=latex[:40]):
            assert formula_html(latex, display=True) == source_html(latex)


def test_no_attribute_or_markup_comes_from_a_formula(subtests: pytest.Subtests) -> None:
    for latex in (
        r"\href{javascript:alert(1)}{x}",
        r"\style{background:url(//evil)}{x}",
        r"\class{evil}{x}",
        r"\color{red}{x}",
        r"\text{&lt;img src=evil onerror=alert(1)&gt;}",
        r"\text{<img src=evil onerror=alert(1)>}",
        r"\hspace{evil}x",
        r"\rule{1em}{1em}",
    ):
        with subtests.test(latex=latex):
            html = formula_html(latex, display=True)
            shown = re.sub(r' alttext="[^"]*"|<code.*</code>', "", html)
            assert not re.search(r"href|style=|evil\"|evil;|red|<img", shown)


def test_no_formula_takes_long(subtests: pytest.Subtests) -> None:
    for piece in ("[", "&", "'", r"\\ ", "{", "^", r"\text{", "x^{a}", r"\left(", r"\not", r"\frac"):
        with subtests.test(piece=piece):
            started = time.process_time()
            formula_html(piece * (MAX_LENGTH // len(piece)), display=True)
            assert time.process_time() - started < 1
