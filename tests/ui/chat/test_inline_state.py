"""Delimiters of emphasis beside Chinese characters."""

from __future__ import annotations

import pytest

from modules.ui.chat.markdown_parser import make_parser


def test_emphasis_works_beside_chinese_punctuation(subtests: pytest.Subtests) -> None:
    parser = make_parser()
    for text, html in (
        ("**中文**。", "<strong>中文</strong>。"),
        ("是**「重点」**很", "是<strong>「重点」</strong>很"),
        ("**注意：**请看", "<strong>注意：</strong>请看"),
        ("用**`code`**吧", "用<strong><code>code</code></strong>吧"),
        ("*强调*后", "<em>强调</em>后"),
        ("한국어**(강조)**는", "한국어<strong>(강조)</strong>는"),
    ):
        with subtests.test(text=text):
            assert parser.renderInline(text) == html


def test_emphasis_in_english_is_as_in_commonmark(subtests: pytest.Subtests) -> None:
    parser = make_parser()
    for text, html in (
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("snake_case_name", "snake_case_name"),
        ("**bold**, *it*", "<strong>bold</strong>, <em>it</em>"),
        ('a*"foo"*', "a*&quot;foo&quot;*"),
        ("~~gone~~", "<s>gone</s>"),
    ):
        with subtests.test(text=text):
            assert parser.renderInline(text) == html
