"""The Markdown that is understood in answers: CommonMark, tables, strikethrough, task lists and formulas, without HTML.

Blocks never depend on later ones, so that they can be drawn while the text is being written. There are no definitions
of links, as `[1]: https://…` would change the paragraphs before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from markdown_it import MarkdownIt
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType

from modules.ui.chat import links, math_rules
from modules.ui.chat.inline_state import InlineState

MAX_LEVEL = 16
"""Quotes and lists that are nested deeper are shown as text: a list takes two levels, a quote one."""
MAX_IMAGE_LEVEL = 2

CELL: EnvType = {"is_cell": True}
"""Environment in which the text of a cell of a table is parsed: only there, `<br>` is a line break."""

_LINE_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)

BlockRule = Callable[[StateBlock, int, int, bool], bool]


def make_parser() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": 20, "tasklists": True})
    markdown.inline = _Inline()
    markdown.inline.ruler.enableOnly(
        ["text", "newline", "escape", "backticks", "strikethrough", "emphasis", "link", "image", "autolink", "entity"]
    )
    markdown.inline.ruler2.enableOnly(["balance_pairs", "strikethrough", "emphasis", "fragments_join"])
    markdown.enable("table").disable(["reference", "html_block"])
    markdown.block.ruler.at("blockquote", _limited(blockquote), {"alt": ["paragraph", "blockquote", "list"]})
    markdown.block.ruler.at("list", _limited(list_block), {"alt": ["paragraph", "blockquote"]})
    markdown.inline.ruler.before("newline", "url", _url)
    markdown.inline.ruler.before("newline", "line_break", _line_break)
    math_rules.use(markdown)
    markdown.validateLink = links.is_allowed  # type: ignore[method-assign]
    return markdown


def _limited(rule: BlockRule) -> BlockRule:
    def limited(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        return state.level < MAX_LEVEL and rule(state, start, end, silent)

    return limited


def _url(state: StateInline, silent: bool) -> bool:
    """Recognize an address that stands in the text: the rule "text" has stopped at its colon."""
    if state.src[state.pos] != ":" or state.linkLevel > 0:
        return False
    scheme = "https" if state.pending[-5:].lower() == "https" else state.pending[-4:]
    if scheme.lower() not in ("http", "https"):
        return False
    start = state.pos - len(scheme)
    url = links.url_at(state.src, start, state.posMax)
    address = state.md.normalizeLink(url)
    if not url or not links.is_allowed(address):
        return False
    if not silent:
        state.pending = state.pending[: -len(scheme)]
        state.push("link_open", "a", 1).attrs = {"href": address}
        state.push("text", "", 0).content = url
        state.push("link_close", "a", -1)
    state.pos = start + len(url)
    return True


def _line_break(state: StateInline, silent: bool) -> bool:
    match = _LINE_BREAK.match(state.src, state.pos, state.posMax) if state.env.get("is_cell") else None
    if match is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = match.end()
    return True


class _Inline(ParserInline):
    """Parses the text of a block with delimiters that suit Chinese, Japanese and Korean."""

    def parse(self, src: str, md: MarkdownIt, env: EnvType, tokens: list[Token]) -> list[Token]:
        # Images are the only thing inside of which this is called again.
        level = env.get("image_level", 0)
        if level > MAX_IMAGE_LEVEL:
            token = Token("text", "", 0)
            token.content = src
            tokens.append(token)
            return tokens
        env["image_level"] = level + 1
        state = InlineState(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        env["image_level"] = level
        return state.tokens
