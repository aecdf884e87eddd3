"""Split the replies of reasoning models into the thought and the answer, as pieces of text arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from modules.core.pieces import REASONING, TEXT, Piece


@dataclass(frozen=True)
class ReasoningMarkers:
    """The texts around a thought. `headers` stand before some answers, after `close` or in place of it."""

    open: str
    close: str
    headers: tuple[str, ...] = ()


KNOWN_MARKERS = (
    ReasoningMarkers("<think>", "</think>"),
    ReasoningMarkers("[THINK]", "[/THINK]"),
    ReasoningMarkers("<seed:think>", "</seed:think>"),
    ReasoningMarkers(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        ("<|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"),
    ),
    ReasoningMarkers("<|channel>thought", "<channel|>"),
    ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>",)),
    ReasoningMarkers("<|think|>", "<|end|>"),
)
"""Those of Qwen and DeepSeek; Magistral; Seed; gpt-oss; Gemma 4; Command A; Solar."""

_PAIRED_QUOTES = {"“": "”", "‘": "’", "「": "」", "『": "』", "《": "》", "«": "»", "(": ")", "（": "）"}
_EQUAL_QUOTES = '`"'


class ReasoningParser:
    """Splits one reply. `feed` and `end` return what is certain by now; the pieces together do not depend on the cuts.

    A thought is only at the beginning of a reply, once. It ends with the first closing marker that is not in quotes or
    backticks. Newlines around markers are dropped, everything else is kept. If the prompt has already opened the
    thought (`inside`), the first of `markers` tells how it ends. A reply that has `begun` is continued: it keeps its
    first newlines, and opens no thought.
    """

    faults: Sequence[str] = ()

    def __init__(self, markers: Sequence[ReasoningMarkers], inside: bool = False, begun: bool = False) -> None:
        self._markers = tuple(markers)
        self._current = self._markers[0] if inside else None
        self._pending = ""
        self._line = ""  # of the thought, as far as it has been returned
        self._ending = False
        self._pieces: list[Piece] = []
        # Functions, not bound methods: a parser that refers to itself would wait for the garbage collector.
        self._read: Callable[[ReasoningParser], bool] = (
            ReasoningParser._read_start if self._markers else ReasoningParser._read_text
        )
        if begun:
            self._read = ReasoningParser._read_thought if inside else ReasoningParser._read_text

    @property
    def inside(self) -> bool:
        """Whether the reply is within its thought."""
        after = (ReasoningParser._read_answer_start, ReasoningParser._read_text)
        return self._current is not None and self._read not in after

    def feed(self, text: str) -> list[Piece]:
        if self._read is ReasoningParser._read_text and not self._pending:
            return [(TEXT, text)] if text else []
        self._pending += text
        return self._advance()

    def end(self) -> list[Piece]:
        """Return what was held back."""
        self._ending = True
        return self._advance()

    def _advance(self) -> list[Piece]:
        while self._pending and self._read(self):
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def _emit(self, kind: str, length: int) -> None:
        text, self._pending = self._pending[:length], self._pending[length:]
        if not text:
            return
        self._pieces.append((kind, text))
        if kind == REASONING:
            _, newline, line = text.rpartition("\n")
            self._line = line if newline else self._line + text

    # Each of these reads a part of `_pending`. It returns whether the next one can go on.

    def _read_start(self) -> bool:
        """Read an opening marker, or a header of the answer, and the white space before it."""
        headers = [header for markers in self._markers for header in markers.headers]
        found, undecided = self._match([*(markers.open for markers in self._markers), *headers], str.lstrip)
        if undecided:
            return False
        if found:
            opened = next((markers for markers in self._markers if markers.open == found), None)
            self._current = self._current or opened
            self._read = ReasoningParser._read_thought_start if opened else ReasoningParser._read_answer_start
        else:
            self._read = ReasoningParser._read_thought_start if self._current else ReasoningParser._read_text
        return True

    def _read_thought_start(self) -> bool:
        self._pending = self._pending.lstrip("\n")
        if self._pending:
            self._read = ReasoningParser._read_thought
        return bool(self._pending)

    def _read_thought(self) -> bool:
        assert self._current is not None
        start, marker = self._find_end((self._current.close, *self._current.headers))
        if self._ending and not marker:
            self._emit(REASONING, len(self._pending))
            return False
        self._emit(REASONING, len(self._pending[:start].rstrip("\n")))
        if marker:
            self._pending = self._pending.lstrip("\n")
            if marker == self._current.close:
                self._pending = self._pending[len(marker) :]
            self._read = ReasoningParser._read_answer_start
        return bool(marker)

    def _read_answer_start(self) -> bool:
        self._pending = self._pending.lstrip("\n")
        found, undecided = self._match(self._current.headers if self._current else (), lambda text: text.lstrip("\n"))
        if found:
            self._current = None
        elif undecided or not self._pending:
            return False
        else:
            self._read = ReasoningParser._read_text
        return True

    def _read_text(self) -> bool:
        self._emit(TEXT, len(self._pending))
        return False

    def _match(self, texts: Iterable[str], strip: Callable[[str], str]) -> tuple[str, bool]:
        """Remove the first of `texts` from the beginning and return it; and whether more must be known to decide."""
        stripped = strip(self._pending)
        found = min((text for text in texts if stripped.startswith(text)), key=len, default="")
        if found:
            self._pending = stripped[len(found) :]
            return found, False
        return "", not self._ending and any(text.startswith(stripped) for text in texts)

    def _find_end(self, markers: Sequence[str]) -> tuple[int, str]:
        """Return where the first of `markers` begins that is not in quotes, and which one it is.

        Without one, return where one may begin, and "".
        """
        start = 0
        while True:
            found = [(at, marker) for marker in markers if (at := self._pending.find(marker, start)) >= 0]
            if not found:
                return len(self._pending) - max(_overlap(self._pending, marker) for marker in markers), ""
            start, marker = min(found)
            before, after = self._pending[:start], self._pending[start + len(marker) :]
            quote = _quote_after(self._line, before)
            if quote and not after and not self._ending:
                return start, ""
            if not quote or not after.startswith(quote):
                return start, marker
            start += len(marker)


def _quote_after(line: str, text: str) -> str:
    """Return the quote that would close the one that `line` and `text`, which follows it, end with; "" without one."""
    last = text[-1:] or line[-1:]
    if last in _PAIRED_QUOTES:
        return _PAIRED_QUOTES[last]
    if not last or last not in _EQUAL_QUOTES:
        return ""
    _, newline, rest = text.rpartition("\n")
    opened = (rest if newline else line + text).count(last) % 2
    return last if opened else ""


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` with which `marker` begins, without being complete."""
    longest = min(len(text), len(marker) - 1)
    return next((length for length in range(longest, 0, -1) if marker.startswith(text[-length:])), 0)
