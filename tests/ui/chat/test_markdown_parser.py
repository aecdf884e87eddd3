"""The Markdown that is understood in answers."""

from __future__ import annotations

import pytest

from modules.ui.chat.markdown_parser import MAX_LEVEL, make_parser


def types(text: str) -> list[str]:
    return [token.type for token in make_parser().parse(text)]


def test_html_and_definitions_of_links_are_text(subtests: pytest.Subtests) -> None:
    for text in ("<div>\nx\n</div>", "<b>x</b>", "<!-- x -->", "[a]: https://b.cn"):
        with subtests.test(text=text):
            assert types(text) == ["paragraph_open", "inline", "paragraph_close"]


def test_links_to_scripts_data_and_this_program_are_text(subtests: pytest.Subtests) -> None:
    parser = make_parser()
    for url in ("javascript:alert(1)", "JaVaScRiPt:x", "data:text/html,x", "vbscript:x", "/logout", "file:///etc"):
        for text in (f"[x]({url})", f"<{url}>", f"![x]({url})"):
            with subtests.test(text=text):
                assert "<a" not in parser.render(text)
                assert "<img" not in parser.render(text)


def test_addresses_in_the_text_are_links_once() -> None:
    html = make_parser().renderInline("see https://a.cn/b, [or https://c.cn](https://d.cn)")

    assert html.count("<a ") == 2
    assert 'href="https://a.cn/b"' in html
    assert 'href="https://d.cn"' in html


def test_what_is_nested_too_deep_stays_in_the_text() -> None:
    html = make_parser().render("> " * 100 + "deepest")

    assert html.count("<blockquote>") == MAX_LEVEL
    assert "&gt; deepest" in html


def test_images_in_images_end_somewhere() -> None:
    assert "deepest" in str(make_parser().parse("![" * 50 + "deepest" + "](http://a.cn)" * 50))
