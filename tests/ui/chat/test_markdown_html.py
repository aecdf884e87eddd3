"""HTML of answers: what is in it, and what can never be in it."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser

import pytest

from modules.ui.chat.markdown import Renderer
from modules.ui.chat.markdown_html import MAX_MATH

TEXT_TAGS = {
    *("a", "blockquote", "br", "button", "code", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre"),
    *("s", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
}
MATH_TAGS = {
    *("math", "mfrac", "mi", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "mspace", "msqrt", "mstyle"),
    *("msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover", "menclose"),
}
TEXT_ATTRIBUTES = {
    *("aria-label", "class", "href", "rel", "role", "scope", "start", "tabindex", "target", "title", "type"),
}
MATH_ATTRIBUTES = {
    *("accent", "alttext", "class", "depth", "display", "displaystyle", "fence", "form", "height", "largeop"),
    *("linethickness", "lspace", "mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rspace"),
    *("scriptlevel", "stretchy", "voffset", "width"),
}
VOID = {"br", "hr"}

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<a href=\"javascript:x\" onclick=x>",
    "${alert(1)}", "{{constructor}}", "[x](javascript:alert(1))", "[x](data:text/html,<script>)",
    "![x](https://a.cn/x.png)", "[x](https://a.cn \"t\\\" onclick=y\")", "<https://a.cn/\"onclick=x>",
    "[x](https://a.cn/'\"><b>)", "`<b>`", "```html\n<script>\n", "```\"><img src=x>\n", "~~~x onload=y\n", "```\n",
    "$\\href{javascript:x}{y}$", "$\\text{</math><script>alert(1)</script>}$", "$$\\style{color:red}{x}$$",
    "\\(a<b>c</b>\\)", "\\[\\class{x}{y}\\]", "$\"><img>$", "&lt;b&gt;", "&#60;b&#62;", "\\<b\\>", "<!-- -->",
    "<![CDATA[", "| <b> | `|` |\n|---|:-:|\n| <i> | x |\n", "- [x] <b>\n", "> <b>\n", "# <b>\n", "\n", "\n\n", "**",
    "_", "]", "(", ")", "[", "!", "<", ">", "\"", "'", "`", "$", "\\", "https://a.cn/<b>", "https://a.cn/\"x",
    "\u0000", "\ud800", "\u202e", "1. x\n", "    x\n", "vbscript:x", " ",
)  # fmt: skip


class Checker(HTMLParser):
    """Collects what a whitelist does not contain, and elements that do not end."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        is_math = tag in MATH_TAGS
        if tag not in TEXT_TAGS | MATH_TAGS:
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name not in (MATH_ATTRIBUTES if is_math else TEXT_ATTRIBUTES):
                self.faults.append(f"{tag} {name}")
            if name == "href" and not re.match("(https?://|mailto:)", value or "", re.IGNORECASE):
                self.faults.append(f"{tag} href={value}")
            if name == "class" and not re.fullmatch(r"(tx-[a-z-]+ ?)+", value or ""):
                self.faults.append(f"{tag} class={value}")
        if tag == "a" and dict(attrs).get("rel") != "noopener noreferrer nofollow":
            self.faults.append("a without rel")
        if tag == "a" and "a" in self.open:
            self.faults.append("a in a")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")


def faults(html: str) -> list[str]:
    checker = Checker()
    checker.feed(html)
    checker.close()
    html.encode()
    return [*checker.faults, *(f"<{tag}> stays open" for tag in checker.open)]


def one(text: str) -> str:
    (block,) = Renderer("en").render(text)
    return block.strip()


def test_hostile_text_adds_no_element_and_no_attribute() -> None:
    numbers, renderer = random.Random(18), Renderer("zh")
    for _ in range(1500):
        text = "".join(numbers.choice(HOSTILE) for _ in range(numbers.randint(1, 8)))
        for block in (*renderer.render(text), *renderer.render_user(text)):
            assert faults(block) == [], f"{text!r}: {block}"


def test_markup_of_the_page_is_text() -> None:
    assert one("${alert(1)} {{constructor}} <b>") == "<p>${alert(1)} {{constructor}} &lt;b&gt;</p>"


def test_links_open_elsewhere_and_tell_nobody() -> None:
    attributes = 'target="_blank" rel="noopener noreferrer nofollow"'
    assert one("[x](https://a.cn)") == f'<p><a href="https://a.cn" {attributes}>x</a></p>'
    assert one('[x](https://a.cn "y")') == f'<p><a href="https://a.cn" title="y" {attributes}>x</a></p>'


def test_a_link_without_text_shows_its_address() -> None:
    assert ">https://a.cn</a>" in one("[](https://a.cn)")


def test_an_image_is_a_link_with_its_description(subtests: pytest.Subtests) -> None:
    for text, shown in (
        ("![a cat](https://a.cn/c.png)", '<span class="tx-image">a cat</span></a>'),
        ("![](https://a.cn/c.png)", '<span class="tx-image">https://a.cn/c.png</span></a>'),
        ("[![a cat](https://a.cn/c.png)](https://b.cn)", 'nofollow">a cat</a>'),
    ):
        with subtests.test(text=text):
            assert shown in one(text)
            assert one(text).count("<a ") == 1


def test_headings_begin_below_those_of_the_page() -> None:
    assert one("# A") == "<h3>A</h3>"
    assert one("###### A") == "<h6>A</h6>"


def test_tables_scroll_and_keep_their_alignment() -> None:
    html = one("| a | b | c |\n|---|:-:|--:|\n| 1 | 2 | 3 |")

    assert html.startswith('<div class="tx-table" tabindex="0" role="group" aria-label="Table"><table>')
    assert '<td>1</td><td class="tx-center">2</td><td class="tx-right">3</td>' in html
    assert '<th scope="col" class="tx-right">c</th>' in html


def test_only_in_a_table_br_is_a_line_break() -> None:
    assert "<td>1<br>2 &lt;br x&gt;</td><td><code>&lt;br&gt;</code></td>" in one(
        "|a|b|\n|-|-|\n|1<br/>2 <br x>|`<br>`|"
    )
    assert one("1<br>2") == "<p>1&lt;br&gt;2</p>"


def test_tasks_are_named_for_a_screen_reader() -> None:
    html = one("- [x] a\n- [ ] b")

    assert 'class="tx-check tx-checked" role="img" aria-label="Done"' in html
    assert 'class="tx-check" role="img" aria-label="Not done"' in html


def test_a_single_newline_is_no_line_break_but_two_spaces_are() -> None:
    assert one("a\nb") == "<p>a\nb</p>"
    assert one("a  \nb") == "<p>a<br>b</p>"


def test_a_list_keeps_its_first_number() -> None:
    assert one("3. a") == '<ol start="3"><li>a</li></ol>'


def test_code_is_shown_as_a_block_even_if_its_fence_is_not_closed() -> None:
    assert '<pre tabindex="0"' in one("```python\nx = 1")


def test_beyond_a_limit_formulas_are_shown_as_their_sources() -> None:
    formula = "$" + "x+" * 400 + "y$"
    blocks = Renderer("en").render(f"{formula}\n\n" * (MAX_MATH // 800 + 3))

    assert "<math" in blocks[0]
    assert "<math" not in blocks[-1]
    assert "tx-math-source" in blocks[-1]
