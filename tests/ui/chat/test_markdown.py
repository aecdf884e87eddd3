"""Messages as blocks of HTML, whole and while they are being written."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from modules.ui.chat import markdown
from modules.ui.chat.markdown import MAX_MARKDOWN, MAX_REMEMBERED, Renderer, StreamingMarkdown

PIECES = (
    "# Head\n", "text ", "**bold** ", "中文。", "**重点**，", "`code`", "```python\n", "```\n", "x = 1\n", "\n", "\n\n",
    "- item\n", "- [ ] t\n", "  - sub\n", "1. one\n", "11. b\n", "> q\n", "> - a\n", "| a | b |\n", "|---|--:|\n",
    "| 1 | 2 |\n", "$x$", "$$\n", "$$", "\\[\n", "\\]\n", "\\[", "\\]", "\\(a\\)", "---\n", "===\n", "    code\n",
    "~~~\n", "http://a.b/c ", "[l](http://x)", "![i](http://y)", "\t", "* star\n", "_u_", "\\", "&amp;", "<b>",
    "=\n", "-\n", "+ p\n", " ", "  \n", "a\r\n", "\r", "$5 ", "|", "10) x\n", "   ", "- \n", "```", "~~s~~",
)  # fmt: skip


@pytest.fixture(autouse=True)
def every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no update be left out: the tests make them faster than any model."""
    monkeypatch.setattr(markdown, "SLOW_SECONDS", 1000)


def stream(renderer: Renderer, text: str, cuts: list[int]) -> list[str]:
    """Return the blocks of a page that applies every change, and check that they are those of the text so far."""
    streaming, shown = StreamingMarkdown(renderer), list[str]()
    for cut in cuts:
        first, changed = streaming.update(text[:cut])
        shown[first:] = changed
        assert shown == streaming.blocks
        exact = Renderer("en").render(text[:cut])
        assert shown == exact or "tx-code" in "".join(exact), text[:cut]
    first, changed = streaming.finish(text)
    shown[first:] = changed
    return shown


def test_streaming_ends_with_what_rendering_the_whole_returns() -> None:
    numbers = random.Random(18)
    for _ in range(120):
        text = "".join(numbers.choice(PIECES) for _ in range(numbers.randint(2, 20)))
        cuts = sorted(numbers.randint(0, len(text)) for _ in range(numbers.randint(0, 10)))
        assert stream(Renderer("en"), text, cuts) == Renderer("en").render(text), (text, cuts)


def test_a_number_that_continues_a_list_is_first_a_paragraph() -> None:
    text = "1. a\n\n2. b\n"

    assert stream(Renderer("en"), text, list(range(len(text)))) == Renderer("en").render(text)


def test_a_formula_that_turns_out_to_be_none_joins_the_paragraph_before() -> None:
    text = "a\n\\[b\n- c\n\n"

    assert stream(Renderer("en"), text, list(range(len(text)))) == Renderer("en").render(text)


def test_only_the_last_block_changes() -> None:
    streaming = StreamingMarkdown(Renderer("en"))

    assert streaming.update("one\n\ntwo") == (0, ["<p>one</p>", "<p>two</p>"])
    assert streaming.update("one\n\ntwo more") == (1, ["<p>two more</p>"])
    assert streaming.update("one\n\ntwo more") == (2, [])


def test_blocks_that_vanish_are_replaced_by_nothing() -> None:
    streaming = StreamingMarkdown(Renderer("en"))
    streaming.update("a\n\nb")

    assert streaming.update("") == (0, [])


def test_a_changed_beginning_renders_all_again() -> None:
    streaming = StreamingMarkdown(Renderer("en"))
    streaming.update("one\n\ntwo\n\nthree")

    assert streaming.update("uno\n\ntwo") == (0, ["<p>uno</p>", "<p>two</p>"])


def test_formulas_that_are_drawn_again_count_once() -> None:
    formula, streaming = "$" + "x+" * 400 + "y$", StreamingMarkdown(Renderer("en"))
    for length in range(60):
        streaming.update(formula + "." * length)

    assert "<math" in streaming.blocks[0]


def test_after_a_slow_update_the_next_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(markdown, "SLOWDOWN", 1_000_000_000)
    streaming = StreamingMarkdown(Renderer("en"))

    assert streaming.update("a") == (0, ["<p>a</p>"])
    assert streaming.update("ab") == (1, [])
    assert streaming.finish("abc") == (0, ["<p>abc</p>"])


def test_late_updates_of_a_long_answer_are_cheap(subtests: pytest.Subtests) -> None:
    section = (
        "## Head\n\nSome **bold** text, `code` and $x^2$.\n\n- one\n- two \\(a_i\\)\n\n```python\nx = [1, 'a']\n```\n\n"
    )
    for name, text in (
        ("many blocks", section * 100),
        ("one list", "".join(f"- **item {number}** with `code` and some words\n" for number in range(250))),
        ("one block of code", "```python\n" + "def f(x): return [x, 'text']\n" * 700),
    ):
        with subtests.test(name):
            streaming = StreamingMarkdown(Renderer("en"))
            streaming.update(text[:-3000])
            started, updates = time.thread_time(), 0
            for cut in range(len(text) - 3000, len(text), 35):
                streaming.update(text[:cut])
                updates += 1
            assert (time.thread_time() - started) / updates < 0.02


def test_text_beyond_the_limit_is_plain_and_streams_as_well() -> None:
    text = "*word* and more\n" * (MAX_MARKDOWN // 16 + 5000)
    blocks = Renderer("en").render(text)

    assert blocks[0].startswith("<p><em>word</em>")
    assert blocks[-1].startswith('<div class="tx-plain">*word* and more\n')
    streaming = StreamingMarkdown(Renderer("en"))
    for cut in (MAX_MARKDOWN - 5, MAX_MARKDOWN + 5, MAX_MARKDOWN + 40_000, len(text)):
        streaming.update(text[:cut])
    assert streaming.blocks == blocks
    streaming.finish(text)
    assert streaming.blocks == blocks


def assert_quick(texts: dict[str, str], subtests: pytest.Subtests) -> None:
    for name, text in texts.items():
        with subtests.test(name):
            started = time.thread_time()
            assert Renderer("en").render(text)
            assert Renderer("en").render_user(text)
            assert time.thread_time() - started < 3  # one second on an idle machine


def test_a_megabyte_takes_a_bounded_time(subtests: pytest.Subtests) -> None:
    texts = {"words": "word **bold** `x` $a$ [l](http://a.b) " * 26_000, "blocks": "a\n\n" * 333_333}

    assert_quick(texts, subtests)


def test_deep_nesting_takes_a_bounded_time(subtests: pytest.Subtests) -> None:
    texts = {
        "quotes": "> " * 5000 + "x",
        "lists": "\n".join("  " * level + "- x" for level in range(2000)),
        "lists in a line": "- " * 5000 + "x",
        "images": "![" * 500 + "a" + "](http://b)" * 500,
    }

    assert_quick(texts, subtests)


def test_many_marks_take_a_bounded_time(subtests: pytest.Subtests) -> None:
    texts = {
        "backticks": "`" * 100_000,
        "dollars": "$" * 10_000,
        "dollars and words": "$a " * 10_000,
        "brackets": "[" * 50_000,
        "formulas": "".join(f"$x_{{{number}}}$ " for number in range(7000)),
    }

    assert_quick(texts, subtests)


def test_a_users_message_is_shown_as_it_was_typed() -> None:
    assert Renderer("en").render_user("**a**\n  b <b> # c") == ['<div class="tx-plain">**a**\n  b &lt;b&gt; # c</div>']


def test_a_users_message_has_links_and_blocks_of_code() -> None:
    before, code, after = Renderer("en").render_user("see https://a.cn\n\n```python\nx = 1\n```\nthanks")

    assert '<a href="https://a.cn"' in before
    assert code.startswith('<div class="tx-code">')
    assert after == '<div class="tx-plain">thanks</div>'


def test_a_users_code_without_an_end_reaches_to_the_end() -> None:
    (code,) = Renderer("en").render_user("````\n```\nx")

    assert "```\nx" in code


def test_half_a_character_is_replaced() -> None:
    assert Renderer("en").render("a\ud800b") == ["<p>a\ufffdb</p>"]


def test_empty_messages_have_no_blocks() -> None:
    assert Renderer("en").render("") == Renderer("en").render_user(" \n") == []


def test_finished_messages_are_remembered_within_bounds() -> None:
    renderer = Renderer("en")
    first = renderer.render("first")
    for number in range(30):
        renderer.render(f"{number} " + "x" * (MAX_REMEMBERED // 40))

    assert renderer.render("first") == first
    assert renderer._size <= MAX_REMEMBERED


def test_the_caller_may_change_the_list_it_gets() -> None:
    renderer = Renderer("en")
    renderer.render("a").clear()
    renderer.render("a").clear()

    assert renderer.render("a") == ["<p>a</p>"]


def test_one_renderer_serves_several_threads() -> None:
    renderer, texts = Renderer("en"), [f"**{number}** $x_{number}$ `{number}`\n\n- a\n" for number in range(60)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(renderer.render, texts)) == [Renderer("en").render(text) for text in texts]


def test_a_line_of_code_of_a_user_does_not_begin_a_block() -> None:
    (block,) = Renderer("en").render_user("```a``` b\nand more")
    assert "tx-code" not in block and "```a``` b\nand more" in block
