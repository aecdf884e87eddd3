"""State of parsing the text of one block, for markdown-it: delimiters that suit Chinese, and where formulas may end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned

from modules.core.text_width import is_wide

_MARKS = re.compile(r"\\.|\$\$|\$", re.DOTALL)


class InlineState(StateInline):
    """Lets `**` begin and end between punctuation and a Han character, where Chinese has no space.

    CommonMark takes `**「重点」**很` for text. Here, as in "markdown-cjk-friendly", punctuation beside a delimiter does
    no harm if a character of these scripts is on the other side.
    """

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:
        end, marker = start, self.src[start]
        while end < self.posMax and self.src[end] == marker:
            end += 1
        before = self.src[start - 1] if start else " "
        after = self.src[end] if end < self.posMax else " "
        before_space, after_space = isWhiteSpace(ord(before)), isWhiteSpace(ord(after))
        before_punctuation, after_punctuation = _is_punctuation(before), _is_punctuation(after)
        left = not after_space and (not after_punctuation or before_space or before_punctuation or is_wide(before))
        right = not before_space and (not before_punctuation or after_space or after_punctuation or is_wide(after))
        return Scanned(
            left and (canSplitWord or not right or before_punctuation),
            right and (canSplitWord or not left or after_punctuation),
            end - start,
        )

    @cached_property
    def formula_ends(self) -> Mapping[str, Sequence[int]]:
        """Positions of what may end a formula, by delimiter. They are found once, so that many openers stay linear."""
        text = self.src
        found: dict[str, list[int]] = {"$": [], "$$": [], r"\)": [], r"\]": []}
        for match in _MARKS.finditer(text):
            mark, at = match[0], match.start()
            if mark != "$":
                found.get(mark, []).append(at)
            elif at and not text[at - 1].isspace() and not text[at + 1 : at + 2].isdigit():
                found["$"].append(at)
        return found


def _is_punctuation(character: str) -> bool:
    return isMdAsciiPunct(ord(character)) or isPunctChar(character)
