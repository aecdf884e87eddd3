"""Links in messages."""

from __future__ import annotations

import pytest

from modules.ui.chat.links import is_allowed, linked, opening_tag, url_at


def test_only_pages_and_mail_can_be_linked_to(subtests: pytest.Subtests) -> None:
    for url, allowed in (
        ("https://example.org/a?b=c#d", True),
        ("HTTP://EXAMPLE.ORG", True),
        ("mailto:a@b.cn", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("vbscript:x", False),
        ("file:///etc/passwd", False),
        ("/logout", False),
        ("//example.org", False),
        ("https://" + "a" * 3000, False),
    ):
        with subtests.test(url=url[:40]):
            assert is_allowed(url) is allowed


def test_an_address_ends_before_the_punctuation_of_its_sentence(subtests: pytest.Subtests) -> None:
    for text, url in (
        ("https://a.cn/b。然后", "https://a.cn/b"),
        ("https://a.cn看", "https://a.cn"),
        ("https://a.cn/b, and", "https://a.cn/b"),
        ("https://a.cn/b_(c)", "https://a.cn/b_(c)"),
        ("https://a.cn/b)", "https://a.cn/b"),
        ("https://a.cn/**", "https://a.cn/"),
        ("http://localhost:5000/v1", "http://localhost:5000/v1"),
        ("http://", ""),
        ("https://.", ""),
        ("ftp://a.cn", ""),
    ):
        with subtests.test(text=text):
            assert url_at(text, 0) == url


def test_an_address_does_not_begin_inside_a_word() -> None:
    assert url_at("xhttps://a.cn", 1) == ""


def test_a_plain_text_is_escaped_and_its_addresses_are_links() -> None:
    html = linked('<b> https://a.cn/?a=1&b="x" end')

    assert html.startswith('&lt;b&gt; <a href="https://a.cn/?a=1&amp;b=" target="_blank" rel="noopener')
    assert html.endswith("</a>&quot;x&quot; end")


def test_a_title_cannot_leave_its_attribute() -> None:
    assert opening_tag("https://a.cn", 'x" onclick="y').count('"') == opening_tag("https://a.cn", "x").count('"')
