"""Keep an answer to its first call, for requests without parallel calls."""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.pieces import CALL, Piece, ReplyParser


class SingleCallParser:
    """Pass on the pieces of another parser up to the second call."""

    def __init__(self, parser: ReplyParser) -> None:
        self._parser = parser
        self._calls = 0

    @property
    def inside(self) -> bool:
        return self._parser.inside

    @property
    def faults(self) -> Sequence[str]:
        return self._parser.faults

    def feed(self, text: str) -> list[Piece]:
        return self._kept(self._parser.feed(text))

    def end(self) -> list[Piece]:
        return self._kept(self._parser.end())

    def _kept(self, pieces: list[Piece]) -> list[Piece]:
        kept = []
        for piece in pieces:
            self._calls += piece[0] == CALL
            if self._calls < 2:
                kept.append(piece)
        return kept
