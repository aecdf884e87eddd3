"""What llama.cpp's cache holds: which tokens' keys and values lie in which sequence, and how to reuse them.

Every running request has a slot, which is one sequence of the context; all of them share the context's cells. A slot
keeps its cells when its answer is complete. The next request goes on from where most of its tokens have been evaluated
already: in the same slot, in a copy of the beginning of another (which costs nothing, the cells get a second owner),
in one that had been put aside into main memory, or, with streaming_llm, behind a gap that is closed by shifting.

Cells of idle slots slow down those that run, for attention walks over all of them; so they are put aside, though not
as long as requests keep coming, who may want just them. That is a copy of a few milliseconds for a thousand tokens.
"""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from modules.core.events import Json
from modules.engines.llamacpp.bindings import Model

WORTH_MOVING = 32
"""Tokens from which on it is worth copying another conversation to or from main memory to go on from its beginning."""
WORTH_SHIFTING = 0.2
"""The part of a prompt that must be found behind the gap, as in the original."""
WORTH_KEEPING = 64
"""Tokens below which an idle slot costs the running ones too little to be put aside."""
QUIET_STEPS = 4
"""Steps since the last request began after which idle slots are put aside, one a step."""


@dataclass(eq=False)
class Slot:
    """One sequence of the context. `cells` are the tokens it holds, at positions 0, 1, …

    `shared` of them, counted from the beginning, may belong to other sequences as well. `used` grows with each use.
    """

    number: int
    cells: array[int] = field(default_factory=lambda: array("i"))
    busy: bool = False
    shared: int = 0
    used: int = 0


@dataclass(eq=False)
class Parked:
    """A slot's cells in main memory."""

    cells: array[int]
    state: NDArray[np.uint8]


@dataclass(frozen=True)
class Reuse:
    """`length` tokens of a prompt that need not be evaluated: those of `source`.

    With `begin` > 0 only `prefix` of them lie at its beginning; the others follow at `begin`, and are to be moved to
    `kept`, as many cells as stay before them.
    """

    length: int = 0
    source: Slot | Parked | None = None
    prefix: int = 0
    begin: int = 0
    kept: int = 0


class Cache:
    """The slots of `model`. `sinks` is streaming_llm's attention_sink_size, None without streaming_llm.

    What is put aside may take `spare` bytes of main memory.
    """

    def __init__(self, model: Model, count: int, sinks: int | None, spare: int) -> None:
        self._model = model
        self.slots = [Slot(number) for number in range(count)]
        self._sinks = sinks if model.can_shift else None
        self._spare = spare
        self._parked: list[Parked] = []
        self._uses = itertools.count(1)
        self._quiet = 0

    @property
    def full(self) -> bool:
        """Whether every slot is busy."""
        return all(slot.busy for slot in self.slots)

    def reusable(self, tokens: array[int]) -> Reuse:
        """The best of what can be reused to evaluate `tokens`, of which at least one is left, for its logits."""
        found = [Reuse()]
        sources: list[Slot | Parked] = [*self.slots, *self._parked]
        for source in sources:
            prefix = min(common(source.cells, tokens), len(tokens) - 1)
            if self._can_give(source, prefix):
                found.append(Reuse(prefix, source, prefix))
            if isinstance(source, Slot) and not source.busy and self._sinks is not None:
                found.append(self._behind_gap(source, tokens, prefix, self._sinks))
        return max(found, key=lambda each: each.length)

    def _can_give(self, source: Slot | Parked, length: int) -> bool:
        """Whether `source` can be cut to its first `length` cells, in its place or in a copy."""
        if not self._model.can_cut:
            return length == len(source.cells) and not (isinstance(source, Slot) and source.busy)
        if isinstance(source, Slot) and (self._model.can_share or source.busy):
            return self._model.can_share
        return length >= WORTH_MOVING or _continues(source, length)

    def _behind_gap(self, slot: Slot, tokens: array[int], prefix: int, sinks: int) -> Reuse:
        """What `slot` holds of `tokens` if old messages were dropped from between their beginning and the rest."""
        begin, length = _longest_run(slot.cells, prefix, tokens)
        length = min(length, len(tokens) - 1 - prefix)
        kept = min(max(prefix, sinks), begin)
        too_long = kept - prefix + len(tokens) >= self._model.n_ctx
        if length < WORTH_SHIFTING * len(tokens) or too_long or begin < self._owned_by_others(slot):
            return Reuse()
        return Reuse(prefix + length, slot, prefix, begin, kept)

    def take(self, reuse: Reuse) -> tuple[Slot, int]:
        """A slot that holds what `reuse` says, made busy, and how many tokens that is; there must be an idle one."""
        source, length = reuse.source, reuse.length
        if isinstance(source, Slot) and reuse.begin:
            slot = source
            self._shift(slot, reuse)
        elif isinstance(source, Slot) and not source.busy and _continues(source, length):
            slot = source
            length = self.cut(slot, length)
        else:
            if isinstance(source, Parked) and _continues(source, length):
                self._parked.remove(source)  # first, for what is put aside now may take its place
            slot = self._emptied(source)
            length = self._copied(source, slot, length)
        slot.busy, slot.used = True, next(self._uses)
        self._quiet = 0
        return slot, length

    def _emptied(self, source: Slot | Parked | None) -> Slot:
        """The slot to copy `source` to: an idle one, an empty one if there is any.

        If there is none, or cells cannot be shared, that is `source` itself, and else the one used longest ago. Of what
        it holds a copy is put aside.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        empty = [slot for slot in idle if not slot.cells]
        if source in idle and not (empty and self._model.can_share):
            assert isinstance(source, Slot)
            self._park(source)
            return source
        slot = min(empty or idle, key=lambda each: each.used)
        self._put_aside(slot)
        return slot

    def _copied(self, source: Slot | Parked | None, slot: Slot, length: int) -> int:
        """Give `slot` the first `length` cells of `source`; how many it then has."""
        if isinstance(source, Parked):
            return self._restored(source, slot, length)
        if source is slot:
            return self.cut(slot, length)
        if source is not None and length:
            self._model.share(source.number, slot.number, length)
            slot.cells = source.cells[:length]
            slot.shared, source.shared = length, max(source.shared, length)
        return length

    def _restored(self, parked: Parked, slot: Slot, length: int) -> int:
        if not self._model.restore(slot.number, parked.state):  # no room
            self._model.keep(slot.number, 0)
            return 0
        slot.cells = parked.cells[:]
        return self.cut(slot, length)

    def _shift(self, slot: Slot, reuse: Reuse) -> None:
        """Close the gap before `reuse.begin`, leaving at least the sinks at the beginning, whatever they say."""
        length = reuse.length - reuse.prefix
        self.cut(slot, reuse.begin + length)
        if reuse.kept < reuse.begin:
            self._model.close_gap(slot.number, reuse.kept, reuse.begin)
            del slot.cells[reuse.kept : reuse.begin]
        slot.shared = min(slot.shared, reuse.kept)

    def cut(self, slot: Slot, length: int) -> int:
        """Forget all but the first `length` cells; how many are left: a recurrent memory can only be emptied."""
        if length < len(slot.cells):
            if not self._model.keep(slot.number, length):
                self._model.keep(slot.number, 0)
                length = 0
            del slot.cells[length:]
        slot.shared = min(slot.shared, length)
        return length

    def read_back(self, slot: Slot, tokens: array[int]) -> int:
        """After a decode that was broken off: how many of `tokens`, which were to be appended, are there."""
        if not self._model.can_cut:  # whatever a recurrent state now is, it is no state after some token
            self.cut(slot, 0)
            self._model.keep(slot.number, 0)
            return -1
        done = self._model.span(slot.number)[1] + 1 - len(slot.cells)
        slot.cells.extend(tokens[:done])
        return done

    def make_room(self) -> bool:
        """Put the cells of one idle slot aside; False if there is none that holds any."""
        idle = [slot for slot in self.slots if not slot.busy and slot.cells]
        if idle:
            self._put_aside(min(idle, key=lambda each: each.used))
        return bool(idle)

    def clear(self) -> None:
        """Forget everything, such as after a failure that leaves the cache in an unknown state."""
        self._model.clear()
        self._parked.clear()
        for slot in self.slots:
            del slot.cells[:]
            slot.shared = 0

    def tidy(self) -> None:
        """Once a step: put an idle slot aside that burdens those that run, unless requests have just been coming."""
        self._quiet += 1
        if self._quiet > QUIET_STEPS:
            burden = (slot for slot in self.slots if not slot.busy and len(slot.cells) >= WORTH_KEEPING)
            for slot in itertools.islice(burden, 1):
                if self._park(slot):
                    self.cut(slot, 0)

    def _put_aside(self, slot: Slot) -> None:
        """Move the cells of `slot` to main memory, if they are worth it and there is room; it is empty then."""
        self._park(slot)
        self.cut(slot, 0)

    def _park(self, slot: Slot) -> bool:
        """Copy it, at the cost of those that were put aside longest ago, and of those it goes on from.

        False if there is no copy of it: it is too short to be worth one, or too long.
        """
        size = len(slot.cells)
        if any(common(each.cells, slot.cells) == size for each in self._parked):
            return True
        if size < WORTH_KEEPING or self._model.state_size(slot.number) > self._spare:
            return False
        parked = Parked(slot.cells[:], self._model.save(slot.number))
        if not parked.state.size:
            return False
        self._parked = [each for each in self._parked if common(each.cells, parked.cells) < len(each.cells)]
        self._parked.append(parked)
        while sum(each.state.size for each in self._parked) > self._spare:
            del self._parked[0]
        return True

    def _owned_by_others(self, slot: Slot) -> int:
        """How many cells at the beginning of `slot` belong to other slots too; shifting them would move those."""
        others = (each for each in self.slots if each is not slot)
        return max((min(slot.shared, each.shared, common(slot.cells, each.cells)) for each in others), default=0)

    def told(self) -> Json:
        """What it holds, by our own account and by llama.cpp's."""
        slots = [
            {"cells": len(slot.cells), "span": self._model.span(slot.number), "busy": slot.busy, "shared": slot.shared}
            for slot in self.slots
        ]
        return {"slots": slots, "parked": [len(each.cells) for each in self._parked]}


def _continues(source: Slot | Parked, length: int) -> bool:
    """Whether a request that wants the first `length` cells of `source` is the same conversation: the rest may go."""
    return length >= len(source.cells) / 2 or len(source.cells) - length < WORTH_KEEPING


def common(left: array[int], right: array[int]) -> int:
    """How many tokens both begin with."""
    length = min(len(left), len(right))
    if not length:
        return 0
    differs = np.frombuffer(left, np.int32, length) != np.frombuffer(right, np.int32, length)
    place = int(differs.argmax())
    return place if differs[place] else length


def _longest_run(cells: array[int], prefix: int, tokens: array[int]) -> tuple[int, int]:
    """Where in `cells`, after `prefix`, most of what follows `prefix` in `tokens` is found, and how much of it."""
    best = (len(cells), 0)
    rest = tokens[prefix:]
    if not rest or not cells:
        return best
    held = np.frombuffer(cells, np.int32)
    for begin in np.flatnonzero(held[prefix + 1 :] == rest[0]) + prefix + 1:
        length = common(cells[begin:], rest)
        best = (int(begin), length) if length > best[1] else best
    return best
