"""Rules of markdown-it that find formulas: `$…$`, `$$…$$`, `\\(…\\)` and `\\[…\\]`.

Their tokens are "math_inline" and "math_block", with the source as content. A formula has no backtick in it: what looks
like one is the dollar sign of a price, and another one in code after it.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

from modules.ui.chat.inline_state import InlineState

MAX_BLOCK_LINES = 60
MAX_DOLLAR_LENGTH = 1000
"""Two single dollar signs that are further apart do not belong together."""

_REFERENCE = re.compile(r"[\d\s,–-]+")
"""Between escaped brackets: the number of a source."""

_CLOSERS = {"$$": "$$", r"\[": r"\]", r"\(": r"\)", "$": "$"}


def use(markdown: MarkdownIt) -> None:
    markdown.inline.ruler.before("escape", "math_inline", math_inline)
    markdown.block.ruler.before(
        "code", "math_block", math_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )


# -- inside a line ---------------------------------------------------------------------------------------------------


def math_inline(state: StateInline, silent: bool) -> bool:
    opener = _opener(state.src, state.pos)
    if not opener or not isinstance(state, InlineState):
        return False
    start = state.pos + len(opener)
    end = _closing(state, opener, start)
    content = state.src[start:end]
    if end < 0 or "`" in content:
        return False
    if opener == "$" and (end - start > MAX_DOLLAR_LENGTH or content[0].isspace() or _is_amount(state, start)):
        return False
    if not _is_formula(opener, content) or (opener == r"\[" and state.src.startswith("(", end + 2)):
        return False
    if not silent:
        token = state.push("math_inline", "math", 0)
        token.content, token.markup = content, opener
    state.pos = end + len(_CLOSERS[opener])
    return True


def _opener(text: str, at: int) -> str:
    two = text[at : at + 2]
    if two in _CLOSERS:
        return two
    return "$" if two[:1] == "$" else ""


def _is_formula(opener: str, content: str) -> bool:
    return bool(content.strip()) and not (opener == r"\[" and _REFERENCE.fullmatch(content))


def _is_amount(state: StateInline, start: int) -> bool:
    """Return whether the dollar sign before `start` ends a word, as in US$."""
    before = state.src[start - 2 : start - 1] if start > 1 else ""
    return before.isascii() and before.isalnum()


def _closing(state: InlineState, opener: str, start: int) -> int:
    """Return where the formula that begins at `start` ends, or -1."""
    ends = state.formula_ends[_CLOSERS[opener]]
    index = bisect_left(ends, start + 1)
    end = ends[index] if index < len(ends) else -1
    return end if end < state.posMax else -1


# -- lines of their own ----------------------------------------------------------------------------------------------


def math_block(state: StateBlock, startLine: int, endLine: int, silent: bool) -> bool:
    """Recognize a formula that begins a line and ends one.

    If its end is missing, the rest of the text belongs to it, up to MAX_BLOCK_LINES: the end may still come while the
    text is being written. Empty lines are accepted only after an opening delimiter that stands alone. In lists, models
    indent formulas too far: there, that does not make them code.
    """
    if state.is_code_block(startLine) and not state.blkIndent:
        return False
    first = _line(state, startLine)
    opener = first[:2]
    if opener not in ("$$", r"\["):
        return False
    found = _block_end(state, startLine, endLine, opener)
    if found is None:
        return False
    if silent:
        return True
    lines, is_closed = found
    token = state.push("math_block", "math", 0)
    token.block, token.markup = True, opener
    token.content = "\n".join([first[2:], *(_line(state, startLine + number) for number in range(1, lines))])
    if is_closed:
        token.content = token.content[:-2]
    token.meta = {"closed": is_closed}
    state.line = startLine + lines
    token.map = [startLine, state.line]
    return True


def _block_end(state: StateBlock, start: int, end: int, opener: str) -> tuple[int, bool] | None:
    """Return the number of lines of the formula and whether it is closed, or None if it is none."""
    closer = _CLOSERS[opener]
    number, line = start, _line(state, start)[2:]
    stands_alone = not line
    while True:
        at = line.find(closer)
        if at >= 0:
            is_last = not line[at + 2 :] and (number > start or _is_formula(opener, line[:at]))
            return (number - start + 1, True) if is_last else None
        if "`" in line or opener in line or number - start >= MAX_BLOCK_LINES:
            return None
        number += 1
        if number >= end or (state.sCount[number] < state.blkIndent and not state.isEmpty(number)):
            return number - start, False
        line = _line(state, number)
        if not line and not stands_alone:
            return None


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].rstrip()
