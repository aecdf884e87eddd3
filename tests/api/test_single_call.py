"""An answer is kept to its first call."""

from __future__ import annotations

from modules.api.single_call import SingleCallParser
from modules.core.pieces import ARGUMENTS, CALL, TEXT, Piece


class _PieceList:
    """A parser that returns a list of pieces for the text "all", and the rest at the end."""

    inside, faults = False, ("tool_calls[2]",)

    def __init__(self, pieces: list[Piece], rest: list[Piece]) -> None:
        self._pieces, self._rest = pieces, rest

    def feed(self, text: str) -> list[Piece]:
        return self._pieces

    def end(self) -> list[Piece]:
        return self._rest


def test_everything_from_the_second_call_on_is_left_out() -> None:
    first: list[Piece] = [(TEXT, "Let me look."), (CALL, "a"), (ARGUMENTS, "{"), (ARGUMENTS, "}"), (TEXT, "\n")]
    second: list[Piece] = [(CALL, "b"), (ARGUMENTS, "{}")]
    parser = SingleCallParser(_PieceList([*first, *second], [(TEXT, "That is all."), (CALL, "c")]))
    assert parser.feed("all") == first
    assert parser.end() == []
    assert (parser.inside, parser.faults) == (False, ("tool_calls[2]",))
