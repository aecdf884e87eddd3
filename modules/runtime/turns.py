"""Turns of long computations that would disturb each other: training runs, evaluations and prices of options.

They share the cores and the memory of the machine, so that one of them works at a time, in the order in which they were
started, whatever they are. Only those of this process know of each other.
"""

from __future__ import annotations

import threading

from modules.core.errors import Words


class Turns:
    """The computations that work or wait. Any thread may call."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: list[Turn] = []

    def queue(self, work: Words) -> Turn:
        """Return the next turn, for a computation that `work` names, as in "the training run a"."""
        turn = Turn(self, work)
        with self._changed:
            self._turns.append(turn)
        return turn

    def wait(self, turn: Turn) -> bool:
        """Wait until all earlier turns have ended; return False once `turn` itself has."""
        with self._changed:
            self._changed.wait_for(lambda: turn not in self._turns or self._turns[0] is turn)
            return turn in self._turns

    def end(self, turn: Turn) -> None:
        """End a turn, whether or not it has come. Further calls do nothing."""
        with self._changed:
            if turn in self._turns:
                self._turns.remove(turn)
                self._changed.notify_all()

    def ahead(self, turn: Turn) -> list[Words]:
        """Return the computations before `turn`, the first of which works."""
        with self._changed:
            return [other.work for other in self._turns[: self._turns.index(turn)]] if turn in self._turns else []


class Turn:
    """The turn of one computation; compared by identity."""

    def __init__(self, turns: Turns, work: Words) -> None:
        self._turns, self.work = turns, work

    def wait(self) -> bool:
        """Wait for the turn, which lasts until `end`. Returns False if it was ended before it came."""
        return self._turns.wait(self)

    def end(self) -> None:
        self._turns.end(self)

    @property
    def ahead(self) -> int:
        """The number of computations before this one."""
        return len(self._turns.ahead(self))

    @property
    def waiting_for(self) -> Words | None:
        """Say in a sentence what has to end first; None if nothing has."""
        ahead = self._turns.ahead(self)
        if not ahead:
            return None
        more = len(ahead) - 1
        return {
            "en": f"Waiting for {ahead[0]['en']}" + (f" and {more} more." if more else "."),
            "zh": f"正在等待{ahead[0]['zh']}" + (f"及另外 {more} 项结束。" if more else "结束。"),
        }
