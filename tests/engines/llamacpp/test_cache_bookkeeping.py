"""The bookkeeping of the KV cache where llama.cpp's memory refuses: recurrent states, no room, failed copies."""

from __future__ import annotations

from array import array
from typing import cast

import numpy as np
from numpy.typing import NDArray

from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.slots import SavedPrefix, Slot

TOKEN_BYTES = 8


class Memory:
    """A memory as llama.cpp has them: how many positions each sequence holds, at most `room` in all.

    A recurrent one holds one state a sequence, which cannot be cut back. States cannot be copied while `is_broken`.
    """

    def __init__(self, recurrent: bool = False, unified: bool = True) -> None:
        self.can_truncate = self.can_share = not recurrent
        self.can_shift = False
        self.is_unified = unified
        self.is_broken = False
        self.n_ctx = self.room = 1000
        self.held: dict[int, int] = {}

    def truncate(self, sequence: int, length: int) -> bool:
        held = self.held.get(sequence, 0)
        if not self.can_truncate and 0 < length < held:
            return False
        self.held[sequence] = min(held, length)
        return True

    def share_prefix(self, source: int, target: int, length: int) -> bool:
        return self.restore_state(target, self.save_state(source)) and self.truncate(target, length)

    def position_range(self, sequence: int) -> tuple[int, int]:
        held = self.held.get(sequence, 0)
        return (0, held - 1) if held else (-1, -1)

    def state_size(self, sequence: int) -> int:
        return self.held.get(sequence, 0) * TOKEN_BYTES

    def save_state(self, sequence: int) -> NDArray[np.uint8]:
        return np.zeros(0 if self.is_broken else self.state_size(sequence), np.uint8)

    def restore_state(self, sequence: int, state: NDArray[np.uint8]) -> bool:
        begun = min(state.size // TOKEN_BYTES, self.room - sum(self.held.values()))
        self.held[sequence] = self.held.get(sequence, 0) + begun
        return begun * TOKEN_BYTES == state.size


def cache_of(memory: Memory, slots: int = 1, saved_tokens: int = 1000) -> KVCache:
    return KVCache(cast(Model, memory), slots, None, saved_tokens * TOKEN_BYTES)


def conversation(number: int, length: int = 100) -> array[int]:
    return array("i", range(1000 * number, 1000 * number + length))


def answer(cache: KVCache, memory: Memory, tokens: array[int]) -> tuple[Slot, int]:
    """Evaluate a prompt in a slot that is idle afterwards. Return the slot and how many tokens it held already."""
    slot, held = cache.take(tokens)
    memory.held[slot.number] = len(tokens)
    slot.cells.extend(tokens[held:])
    slot.busy = False
    return slot, held


def agrees(cache: KVCache, memory: Memory) -> bool:
    """Tell whether the slots hold what the memory does."""
    return [len(slot.cells) for slot in cache.slots] == [memory.held.get(slot.number, 0) for slot in cache.slots]


def saved_lengths(cache: KVCache) -> list[int]:
    return [len(held.cells) for held in cache.contents() if isinstance(held, SavedPrefix)]


def test_a_recurrent_state_is_continued_whole_or_not_at_all() -> None:
    memory = Memory(recurrent=True)
    cache = cache_of(memory)
    answer(cache, memory, conversation(1, 100))
    assert answer(cache, memory, conversation(1, 150))[1] == 100
    assert answer(cache, memory, conversation(1, 120))[1] == 0, "its last 30 tokens cannot be taken back"
    slot, _ = answer(cache, memory, conversation(1, 150))
    assert cache.truncate(slot, 90) == 0 and agrees(cache, memory)


def test_an_interrupted_batch_leaves_the_tokens_that_were_evaluated_or_an_empty_recurrent_state() -> None:
    for recurrent, kept in ((False, 30), (True, -1)):
        memory = Memory(recurrent=recurrent)
        cache = cache_of(memory)
        slot, _ = answer(cache, memory, conversation(1, 100))
        memory.held[slot.number] += 30
        assert cache.keep_evaluated(slot, conversation(2, 50)) == kept
        assert agrees(cache, memory) and bool(slot.cells) is not recurrent


def test_what_a_failed_batch_has_left_is_dropped_where_that_is_possible() -> None:
    for recurrent in (False, True):
        memory = Memory(recurrent=recurrent)
        cache = cache_of(memory)
        slot, _ = answer(cache, memory, conversation(1, 100))
        memory.held[slot.number] += 30
        assert cache.drop_unrecorded(slot) is not recurrent
        assert agrees(cache, memory) is not recurrent


def test_a_saved_conversation_without_room_is_evaluated_again() -> None:
    memory = Memory()
    cache = cache_of(memory)
    answer(cache, memory, conversation(1))
    answer(cache, memory, conversation(2))
    assert saved_lengths(cache) == [100]
    memory.room = 50
    slot, held = cache.take(conversation(1, 150))
    assert held == 0 and not slot.cells and agrees(cache, memory)


def test_a_prefix_that_cannot_be_copied_to_another_stream_is_evaluated_again() -> None:
    memory = Memory(unified=False)
    cache = cache_of(memory, slots=2)
    first, _ = answer(cache, memory, conversation(1, 200))
    first.busy = True
    memory.room = 250
    slot, held = cache.take(conversation(1, 190))
    assert slot is not first and held == 0 and agrees(cache, memory)
    assert cache.take_empty() is None, "both are busy"


def test_a_conversation_that_cannot_be_saved_stays_where_it_is() -> None:
    memory = Memory()
    cache = cache_of(memory, slots=2)
    first, _ = answer(cache, memory, conversation(1))
    memory.is_broken = True
    second, _ = answer(cache, memory, conversation(2))
    assert second is not first and len(first.cells) == 100 and not saved_lengths(cache) and agrees(cache, memory)


def test_the_conversation_that_was_saved_first_makes_room_for_others() -> None:
    memory = Memory()
    cache = cache_of(memory, saved_tokens=250)
    for number in (1, 2, 3, 4):
        answer(cache, memory, conversation(number))
    assert saved_lengths(cache) == [100, 100]
    assert cache.find_reuse(conversation(1, 150)).length == 0
    assert cache.find_reuse(conversation(3, 150)).length == 100
