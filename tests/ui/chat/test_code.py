"""Blocks of code."""

from __future__ import annotations

import html
import re
import time

import pytest

from modules.ui.chat import code
from modules.ui.chat.code import (
    CLASSES,
    HIGHLIGHTED,
    MAX_HIGHLIGHTED,
    GrowingCode,
    code_block,
    has_long_lines,
    highlighted,
    language_name,
    languages,
)

PYTHON = 'class A:\n    """Text\n    for x in y\n    """\n    def f(self) -> int:  # <b>\n        return "a" + 1\n\n'


def text(markup: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", markup))


def test_a_block_has_its_language_and_a_button_to_copy() -> None:
    block = code_block("x", "python", "zh")

    assert '<span class="tx-code-language">Python</span>' in block
    assert '<button type="button" class="tx-copy-code">复制代码</button>' in block
    assert 'aria-label="Python 代码"' in block
    assert ">Copy code</button>" in code_block("x", "", "en")


def test_only_a_block_with_long_lines_can_be_wrapped() -> None:
    assert has_long_lines("short\n" + 81 * "x") and has_long_lines(41 * "字")
    assert not has_long_lines(100 * "short\n") and not has_long_lines(80 * "x" + "\n" + 40 * "字")
    assert "Wrap lines" in code_block("x", "", "en", has_long_lines=True)
    assert "tx-wrap-code" not in code_block("x", "", "en")


def test_languages_have_the_names_people_know(subtests: pytest.Subtests) -> None:
    for info, name in (
        ("py", "Python"),
        ("JS", "JavaScript"),
        ("c++", "C++"),
        ("bash title=x", "Bash"),
        ("{.python .numberLines}", "Python"),
        ("r", "R"),
        ("latex", "LaTeX"),
        ("text", "text"),
        ("mylang", "mylang"),
        ("", ""),
    ):
        with subtests.test(info=info):
            assert language_name(info) == name


def test_languages_are_named_by_their_first_alias() -> None:
    assert {alias for _, alias in languages().values()} >= HIGHLIGHTED


def test_colors_are_classes_and_leave_the_text_as_it_is() -> None:
    colored = highlighted(PYTHON, "python")

    assert text(colored) == PYTHON
    assert '<span class="tx-c"># &lt;b&gt;' in colored
    assert set(re.findall(r'class="([^"]*)"', colored)) <= {f"tx-{name}" for name in CLASSES.values()}


def test_what_is_unknown_or_too_long_is_plain(subtests: pytest.Subtests) -> None:
    for source, info in (
        ("def f(): <b>", "mylang"),
        ("def f(): <b>", ""),
        ("def f(): <b>\n" * (MAX_HIGHLIGHTED // 10), "python"),
        ("x" * 3000, "python"),
        ("x" + " " * 500 + "y", "c"),
        ("output", "console"),  # Pygments leaves out what has no newline
        ("\ufeffx", "python"),
    ):
        with subtests.test(source=source[:20], info=info):
            assert highlighted(source, info) == html.escape(source)


def test_code_that_is_slow_to_color_is_given_up(monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    monkeypatch.setattr(code, "MAX_SECONDS", 0.02)
    for info in ("c", "python", "html"):
        for piece in ("(", '"', "<a ", "x" + " " * 190):
            with subtests.test(info=info, piece=piece):
                line = piece * (1900 // len(piece))
                started = time.process_time()
                highlighted(f"{line}\n" * 20, info)
                assert time.process_time() - started < 0.7


def test_a_growing_block_shows_all_of_its_text() -> None:
    growing, source = GrowingCode(), PYTHON * 40
    for length in range(0, len(source), 97):
        assert text(growing.update(source[:length], "python")) == source[:length]


def test_a_growing_block_is_colored_while_it_is_written() -> None:
    line = "x = 1\n"

    assert GrowingCode().update(line + "y", "python") == highlighted(line, "python") + "y"


def test_another_text_begins_a_growing_block_again() -> None:
    growing = GrowingCode()
    growing.update("x = 1\n", "python")

    assert text(growing.update("y = 2\n", "python")) == "y = 2\n"
