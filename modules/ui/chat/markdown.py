"""Messages of the transcript as HTML, block by block. The page shows them inside of elements with the class tx-md."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from html import escape
from threading import Lock

from markdown_it.token import Token

from modules.ui.chat import links
from modules.ui.chat.code import code_block, highlighted
from modules.ui.chat.markdown_html import Budget, Draft, HtmlWriter, split_blocks
from modules.ui.chat.markdown_parser import make_parser

MAX_MARKDOWN = 80_000
"""What follows so many characters is shown as plain text."""
PLAIN_BLOCK = 16_000
MAX_REMEMBERED = 4_000_000
"""Characters of HTML of finished messages."""
SLOW_SECONDS, SLOWDOWN = 0.005, 16
"""If an update took more than SLOW_SECONDS, the next one comes only after SLOWDOWN times as long."""

_SURROGATES = re.compile("[\ud800-\udfff]")
_NEWLINES = re.compile(r"\r\n?")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


class Renderer:
    """Renders messages in the language of a page ("zh" or "en"). May be used by several threads at once."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._parser = make_parser()
        self._writer = HtmlWriter(self._parser, language)
        self._remembered: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def render(self, text: str) -> list[str]:
        """Return the blocks of a model's answer, which is Markdown."""
        return self._recall("answer", text) or self.remember(text, self._render(clean(text)))

    def render_user(self, text: str) -> list[str]:
        """Return the blocks of a user's message: its text as it was typed, with links and blocks of code."""
        return self._recall("question", text) or self._store("question", text, list(self._user_blocks(clean(text))))

    def remember(self, text: str, blocks: list[str]) -> list[str]:
        """Keep the `blocks` of a finished answer, and return them."""
        return self._store("answer", text, blocks)

    def parse(self, text: str) -> list[Token]:
        """Return the tokens of the blocks of clean Markdown. The text inside of blocks is not parsed yet."""
        tokens: list[Token] = []
        self._parser.block.parse(text, self._parser, {}, tokens)
        return tokens

    def write(self, tokens: Sequence[Token], budget: Budget, draft: Draft | None = None) -> list[str]:
        return self._writer.render_blocks(tokens, budget, draft)

    def _render(self, text: str) -> list[str]:
        end = markdown_end(text)
        return [*self.write(self.parse(text[:end]), Budget()), *plain_blocks(text, end)]

    def _user_blocks(self, text: str) -> Iterator[str]:
        budget = Budget()
        for source, info in _fenced(text):
            if info is None:
                yield f'<div class="tx-plain">{links.linked(source)}</div>'
            else:
                budget.code -= len(source)
                colored = highlighted(source, info) if budget.code >= 0 else escape(source)
                yield code_block(colored, info, self.language)

    def _recall(self, kind: str, text: str) -> list[str] | None:
        with self._lock:
            blocks = self._remembered.get((kind, text))
            if blocks is None:
                return None
            self._remembered.move_to_end((kind, text))
            return list(blocks)

    def _store(self, kind: str, text: str, blocks: list[str]) -> list[str]:
        with self._lock:
            if (kind, text) not in self._remembered:
                self._remembered[kind, text] = tuple(blocks)
                self._size += len(text) + sum(map(len, blocks))
            while self._size > MAX_REMEMBERED:
                (_, forgotten), gone = self._remembered.popitem(last=False)
                self._size -= len(forgotten) + sum(map(len, gone))
        return blocks


class StreamingMarkdown:
    """Renders an answer while it is being written. Finished blocks are rendered once, the others at each update.

    A block is finished when a later one begins with a whole line: what is written afterwards cannot change it.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._reset()

    def _reset(self) -> None:
        self._text = ""
        self._finished: list[str] = []
        self._open: list[str] = []
        self._start = 0  # where the open blocks begin
        self._searched = 0  # where the last whole line ended when finished blocks were looked for
        self._next_update = 0.0  # on the monotonic clock
        self._budget = Budget()
        self._draft = Draft()

    @property
    def blocks(self) -> list[str]:
        """All blocks as of the last update."""
        return [*self._finished, *self._open]

    def update(self, text: str) -> tuple[int, list[str]]:
        """Return the index of the first block that has changed, and the blocks that replace it and all after it.

        `text` is the whole answer so far. If it does not begin with the text of the last update, all is rendered again.
        Colors in a block of code that is being written may be wrong until `finish`. Nothing changes in an update that
        comes too soon after a slow one.
        """
        before, kept = self._take(text)
        if time.monotonic() < self._next_update:
            return len(before), []
        started = time.thread_time()
        end = markdown_end(self._text)
        if end < len(self._text):
            self._open = self._update_plain(end)
        else:
            self._open = self._renderer.write(self._unfinished(), self._budget.copy(), self._draft)
        seconds = time.thread_time() - started
        self._next_update = time.monotonic() + SLOWDOWN * seconds if seconds > SLOW_SECONDS else 0.0
        return self._changes(before, kept)

    def finish(self, text: str) -> tuple[int, list[str]]:
        """Do the last update: the blocks are now those that `Renderer.render` returns, and remembered by it."""
        before, kept = self._take(text)
        end = markdown_end(self._text)
        rest = self._renderer.parse(self._text[self._start : end])
        written = self._renderer.write(rest, self._budget.copy())
        self._open = [*written, *plain_blocks(self._text, max(self._start, end))]
        self._renderer.remember(text, self.blocks)
        return self._changes(before, kept)

    def _take(self, text: str) -> tuple[list[str], int]:
        """Take the new text. Return the blocks of the last update, and how many of them cannot change any more."""
        text, before = clean(text), self.blocks
        if not text.startswith(self._text):
            self._reset()
        self._text = text
        return before, len(self._finished)

    def _changes(self, before: list[str], kept: int) -> tuple[int, list[str]]:
        after = self.blocks
        while kept < min(len(before), len(after)) and before[kept] == after[kept]:
            kept += 1
        return kept, after[kept:]

    def _unfinished(self) -> list[Token]:
        """Return the tokens of open blocks, after rendering those that are finished by now."""
        tokens = self._renderer.parse(self._text[self._start :])
        whole = self._text.rfind("\n", self._start) + 1
        if whole <= self._searched or len(list(split_blocks(tokens))) < 2:
            return tokens
        self._searched = whole
        if whole < len(self._text):
            tokens = self._renderer.parse(self._text[self._start : whole])
        blocks = list(split_blocks(tokens))
        # A formula without an end may still turn out to be none, and its lines to belong to the block before.
        last = blocks[-2 if blocks and blocks[-1][0].meta.get("closed") is False else -1 :]
        finished = blocks[: len(blocks) - len(last)]
        if finished and last[0][0].map:
            lines = self._text[self._start : whole].split("\n", last[0][0].map[0])
            self._finish_until(whole - len(lines[-1]), [token for block in finished for token in block])
        return self._renderer.parse(self._text[self._start :])

    def _finish_until(self, end: int, tokens: Sequence[Token]) -> None:
        self._finished += self._renderer.write(tokens, self._budget)
        self._start, self._draft = end, Draft()

    def _update_plain(self, end: int) -> list[str]:
        """Render what follows `end`, where Markdown ends because the text is too long."""
        if self._start < end:
            self._finish_until(end, self._renderer.parse(self._text[self._start : end]))
        *finished, last = plain_blocks(self._text, self._start)
        self._finished += finished
        while len(self._text) - self._start > PLAIN_BLOCK:
            self._start = _plain_end(self._text, self._start)
        return [last]


def clean(text: str) -> str:
    """Return `text` with "\\n" as newlines, and without halves of surrogate pairs, which cannot be encoded."""
    if "\r" in text:
        text = _NEWLINES.sub("\n", text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def markdown_end(text: str) -> int:
    """Return where the part of a text ends that is rendered as Markdown. It stays there when the text grows further."""
    return len(text) if len(text) <= MAX_MARKDOWN else text.rfind("\n", 0, MAX_MARKDOWN) + 1


def plain_blocks(text: str, start: int) -> list[str]:
    """Return the text from `start` on as blocks without Markdown."""
    blocks = []
    while start < len(text):
        end = _plain_end(text, start)
        blocks.append(f'<div class="tx-plain">{escape(text[start:end])}</div>')
        start = end
    return blocks


def _plain_end(text: str, start: int) -> int:
    if len(text) - start <= PLAIN_BLOCK:
        return len(text)
    return text.rfind("\n", start, start + PLAIN_BLOCK) + 1 or start + PLAIN_BLOCK


def _fenced(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield the parts of a user's message: plain text with None, and code with what its fence says of the language."""
    lines: list[str] = []
    fence, info = "", ""
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line)
        if not match or (fence and not (match[1].startswith(fence) and not match[2].strip())):
            lines.append(line)
        elif fence:
            yield "\n".join([*lines, ""]), info
            fence, lines = "", []
        elif match[1][0] == "`" and "`" in match[2]:
            lines.append(line)
        else:
            if "".join(lines).strip():
                yield "\n".join(lines).strip("\n"), None
            fence, info, lines = match[1], match[2], []
    if fence:
        yield "\n".join([*lines, ""]), info
    elif "".join(lines).strip():
        yield "\n".join(lines).strip("\n"), None
