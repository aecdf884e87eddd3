"""Write parsed Markdown as HTML that is safe to insert into the page: nothing in it is loaded or run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from modules.core.errors import Words
from modules.ui.chat import links
from modules.ui.chat.code import GrowingCode, code_block, has_long_lines, highlighted
from modules.ui.chat.markdown_parser import CELL
from modules.ui.chat.math import formula_html, source_html

DONE: Words = {"en": "Done", "zh": "已完成"}
NOT_DONE: Words = {"en": "Not done", "zh": "未完成"}
TABLE: Words = {"en": "Table", "zh": "表格"}

MAX_CODE, MAX_MATH = 100_000, 25_000
"""Characters of one message that are colored as code, and drawn as formulas. Beyond them the sources are shown."""

_MARKUP = re.compile(r"[\n!$&*:<\[\\_`~]")
"""What a text without any markup does not contain."""
_FIXED = {
    **{
        f"{name}_open": f"<{tag}>"
        for name, tag in (("paragraph", "p"), ("thead", "thead"), ("tbody", "tbody"), ("tr", "tr"))
    },
    **{
        f"{name}_close": f"</{tag}>"
        for name, tag in (
            *(("paragraph", "p"), ("thead", "thead"), ("tbody", "tbody"), ("tr", "tr"), ("th", "th"), ("td", "td")),
            *(("list_item", "li"), ("bullet_list", "ul"), ("ordered_list", "ol"), ("blockquote", "blockquote")),
        )
    },
}


@dataclass
class Budget:
    """The rest of MAX_CODE and MAX_MATH for the rest of a message."""

    code: int = MAX_CODE
    math: int = MAX_MATH

    def copy(self) -> Budget:
        return Budget(self.code, self.math)


@dataclass
class Draft:
    """The drawn parts of blocks that are still being written, so that an update draws only what is new in them."""

    code: list[GrowingCode] = field(default_factory=list)
    texts: dict[tuple[str, bool], tuple[list[Token], str | None]] = field(default_factory=dict)
    used: dict[tuple[str, bool], tuple[list[Token], str | None]] = field(default_factory=dict)
    fences: int = 0

    def begin(self) -> None:
        """Forget what the previous update did not use."""
        self.texts, self.used, self.fences = self.used, {}, 0

    def next_code(self) -> GrowingCode:
        if self.fences == len(self.code):
            self.code.append(GrowingCode())
        self.fences += 1
        return self.code[self.fences - 1]


class HtmlWriter(RendererHTML):
    """Methods without an underscore are rules of markdown-it, by type of token."""

    __slots__ = ("_language", "_parser", "rules")

    def __init__(self, parser: MarkdownIt, language: str) -> None:
        super().__init__()
        self._parser, self._language = parser, language

    def render_blocks(self, tokens: Sequence[Token], budget: Budget, draft: Draft | None = None) -> list[str]:
        """Return the HTML of each block that is not inside another one. Uses up `budget`."""
        environment: EnvType = {"budget": budget, "draft": draft}
        if draft is not None:
            draft.begin()
        return [self.render(block, self._parser.options, environment) for block in split_blocks(tokens)]

    def render(self, tokens: Sequence[Token], options: OptionsDict, env: EnvType) -> str:
        parts = []
        for index, token in enumerate(tokens):
            if token.hidden:  # the paragraph of an item of a tight list
                continue
            if token.type == "inline":
                is_cell = tokens[index - 1].type in ("td_open", "th_open")
                parts.append(self._text(token.content, options, env, CELL if is_cell else {}))
            elif token.type in _FIXED:
                parts.append(_FIXED[token.type])
            elif token.type in self.rules:
                parts.append(self.rules[token.type](tokens, index, options, env))
            else:
                parts.append(self.renderToken(tokens, index, options, env))
        return "".join(parts)

    def _text(self, content: str, options: OptionsDict, env: EnvType, parsing: EnvType) -> str:
        """Return the HTML of the text of a block. All of its formulas are drawn, or none.

        `parsing` is the environment of the parser.
        """
        if not _MARKUP.search(content):
            return escape(content)
        draft: Draft | None = env["draft"]
        key = content, bool(parsing)
        known = draft.texts.get(key) if draft else None
        children, html = known or (self._parser.inline.parse(content, self._parser, {**parsing}, []), None)
        math = sum(len(child.content) for child in children if child.type == "math_inline")
        env["budget"].math -= math
        if html is None or math:  # formulas are remembered by themselves, and depend on the budget
            html = self.renderInline(children, options, env)
        if draft:
            draft.used[key] = (children, html)
        return html

    def renderInline(self, tokens: Sequence[Token], options: OptionsDict, env: EnvType) -> str:
        parts, link = [], ""
        for index, token in enumerate(tokens):
            if token.type == "link_open":
                link = str(token.attrs["href"])
                parts.append(links.opening_tag(link, str(token.attrs.get("title", ""))))
                if not _is_named(tokens, index):
                    parts.append(escape(link))
            elif token.type == "link_close":
                link = ""
                parts.append("</a>")
            elif token.type == "image":
                parts.append(self._image(token, options, env, inside_link=bool(link)))
            elif token.type in self.rules:
                parts.append(self.rules[token.type](tokens, index, options, env))
            else:
                parts.append(self.renderToken(tokens, index, options, env))
        return "".join(parts)

    def _image(self, token: Token, options: OptionsDict, env: EnvType, *, inside_link: bool) -> str:
        """Return a link to an image: showing it would tell its server that, and by whom, the message is read."""
        address = str(token.attrs["src"])
        name = escape(self.renderInlineAsText(token.children, options, env).strip() or address)
        return name if inside_link else f'{links.opening_tag(address)}<span class="tx-image">{name}</span></a>'

    # -- rules ---------------------------------------------------------------------------------------------------------

    def text_special(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return escape(tokens[idx].content)

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return escape(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<code>{escape(tokens[idx].content)}</code>"

    def hardbreak(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "<br>"

    def math_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        if env["budget"].math < 0:
            return source_html(token.content)
        return formula_html(token.content, display=token.markup in ("$$", r"\["))

    def math_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        env["budget"].math -= len(token.content)
        if env["budget"].math < 0 or not token.meta["closed"]:
            return f'<p class="tx-math-block">{source_html(token.content)}</p>'
        return f'<p class="tx-math-block">{formula_html(token.content, display=True)}</p>'

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        source, info = tokens[idx].content, unescapeAll(tokens[idx].info)
        env["budget"].code -= len(source)
        if env["budget"].code < 0:
            return code_block(escape(source), info, self._language, has_long_lines(source))
        draft: Draft | None = env["draft"]
        colored = draft.next_code().update(source, info) if draft else highlighted(source, info)
        return code_block(colored, info, self._language, has_long_lines(source))

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        source = tokens[idx].content
        return code_block(escape(source), "", self._language, has_long_lines(source))

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<{_heading(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"</{_heading(tokens[idx])}>"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<div class="tx-table" tabindex="0" role="group" aria-label="{TABLE[self._language]}"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "</table></div>"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f'<th scope="col"{_alignment(tokens[idx])}>'

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return f"<td{_alignment(tokens[idx])}>"

    def bullet_list_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return "<ul>"

    def ordered_list_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        start = tokens[idx].attrs.get("start", 1)
        return "<ol>" if start == 1 else f'<ol start="{int(start)}">'

    def list_item_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        checked = tokens[idx].meta.get("checked")
        if checked is None:
            return "<li>"
        state, name = ("tx-check tx-checked", DONE) if checked else ("tx-check", NOT_DONE)
        return f'<li class="tx-task"><span class="{state}" role="img" aria-label="{name[self._language]}"></span> '


def split_blocks(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield the tokens of each block that is not inside another one."""
    start = 0
    for index, token in enumerate(tokens):
        if token.level == 0 and token.nesting <= 0 and token.type != "inline":
            yield tokens[start : index + 1]
            start = index + 1


def _is_named(tokens: Sequence[Token], index: int) -> bool:
    """Return whether the link that opens at `index` contains something that can be seen."""
    for token in tokens[index + 1 :]:
        if token.type == "link_close":
            return False
        if token.content.strip() or token.type == "image":
            return True
    return False


def _heading(token: Token) -> str:
    """Return the tag: the page itself has the first two levels."""
    return f"h{min(6, int(token.tag[1]) + 2)}"


def _alignment(token: Token) -> str:
    style = str(token.attrs.get("style", ""))
    return f' class="tx-{style.removeprefix("text-align:")}"' if style else ""
