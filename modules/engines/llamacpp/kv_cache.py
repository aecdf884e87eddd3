"""Bookkeeping of llama.cpp's KV cache: which tokens each slot holds, and which of them a new prompt can reuse.

Every running request has a slot, which is one sequence of the context; all slots share the context's cells. A slot
keeps its cells after the answer. The next request continues where most of its tokens have been evaluated already: in
the same slot; in a copy of another slot's prefix (which costs nothing, the cells get a second owner); in a prefix that
was saved to main memory, or to a file; or, with streaming_llm, behind a gap that is closed by shifting positions.

Cells of idle slots slow the running ones down, because attention goes over all cells. Idle slots are therefore saved to
main memory, but not while new requests keep coming, which may want to continue them. Saving copies a thousand tokens
in a few milliseconds.

Where every slot has a stream of cells of its own (`Model.is_unified` is false), the cells of the others cost nothing:
idle slots keep theirs. Prefixes are copied from one stream to another then.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Collection, Sequence

from modules.core.events import Json
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.image_cells import has_images, positions, whole_chunks
from modules.engines.llamacpp.slots import MIN_SAVED_TOKENS, Reuse, SavedPrefix, Slot, is_continuation, was_last
from modules.engines.llamacpp.stored_state import read_state
from modules.engines.prompt_cache.store import PromptStore
from modules.engines.token_ids import common_prefix_length, longest_match

MIN_COPIED_TOKENS = 32
"""Shortest prefix of another conversation that is worth a copy to or from main memory."""
MIN_SHIFTED_FRACTION = 0.2
"""Fraction of a prompt that must lie behind a gap to be worth a shift, as in the original web UI."""
STEPS_BEFORE_SAVING = 4
"""Steps since the last request began after which idle slots are saved, one per step."""


class KVCache:
    """The slots of one model. To be used by the thread that decodes.

    `attention_sink_size` counts the tokens at the beginning that streaming_llm never drops, None without streaming_llm.
    Saved prefixes take at most `max_saved_bytes` of main memory. Those in files are in `store`, if there is one.
    """

    def __init__(self, model: Model, slots: int, attention_sink_size: int | None, max_saved_bytes: int) -> None:
        self._model = model
        self.slots = [Slot(number) for number in range(slots)]
        self._attention_sink_size = attention_sink_size if model.can_shift else None
        self.max_saved_bytes = max_saved_bytes
        self.store: PromptStore | None = None
        self._saved: list[SavedPrefix] = []  # the oldest first
        self._surplus: dict[int, int] = {}  # see `image_cells.positions`
        self._use_counter = itertools.count(1)
        self._steps_since_acquire = 0
        self._expected: Collection[Slot] = ()  # idle slots whose last prompts wait to be asked again, in a row

    @property
    def full(self) -> bool:
        """Whether every slot is busy."""
        return all(slot.busy for slot in self.slots)

    def find_reuse(self, tokens: array[int]) -> Reuse:
        """Return the best reuse for `tokens`. It leaves at least the last one to evaluate, for its logits."""
        candidates = [Reuse()]
        sources: list[Slot | SavedPrefix] = [*self.slots, *self._saved]
        for source in sources:
            prefix = whole_chunks(tokens, min(common_prefix_length(source.cells, tokens), len(tokens) - 1))
            is_asked_again = self._is_asked_again(source, tokens, prefix)
            if is_asked_again or self._can_provide(source, prefix):
                in_place = is_asked_again or is_continuation(source, prefix)
                candidates.append(Reuse(prefix, source, prefix, in_place=in_place))
            if isinstance(source, Slot) and not source.busy and self._attention_sink_size is not None:
                candidates.append(self._find_shift(source, tokens, prefix, self._attention_sink_size))
        return max(candidates, key=lambda reuse: reuse.length)

    def _can_provide(self, source: Slot | SavedPrefix, length: int) -> bool:
        """Tell whether the first `length` cells of `source` can be had, in place or as a copy."""
        if not self._model.can_truncate:
            return length == len(source.cells) and not (isinstance(source, Slot) and source.busy)
        if isinstance(source, Slot) and self._model.can_share and self._model.is_unified:
            return True
        return length >= MIN_COPIED_TOKENS or is_continuation(source, length)

    def _is_asked_again(self, source: Slot | SavedPrefix, tokens: array[int], prefix: int) -> bool:
        """Tell whether `tokens` are the prompt that an idle slot had last: its answer is to be replaced."""
        if not isinstance(source, Slot) or prefix + 1 < len(tokens) or not self._model.can_truncate:
            return False
        return was_last(source, tokens) and self._is_next(source)

    def expect(self, prompts: Sequence[array[int]]) -> None:
        """Take into account which prompts wait. Those that are asked again may go on in their own slots.

        So they may if the slots of all of them, together with the busy ones, follow one another.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        again = [slot for slot in idle if any(was_last(slot, tokens) for tokens in prompts)]
        row = [slot.number for slot in self.slots if slot.busy or slot in again]
        self._expected = again if row and row[-1] - row[0] + 1 == len(row) else ()

    def _find_shift(self, slot: Slot, tokens: array[int], prefix: int, attention_sink_size: int) -> Reuse:
        """Find what `slot` holds of a prompt from which old messages after the first `prefix` tokens were dropped.

        Pictures are not moved.
        """
        if has_images(tokens) or has_images(slot.cells):
            return Reuse()
        begin, length = longest_match(slot.cells, prefix, tokens)
        length = min(length, len(tokens) - 1 - prefix)
        target = min(max(prefix, attention_sink_size), begin)
        too_long = target - prefix + len(tokens) >= self._model.n_ctx
        if length < MIN_SHIFTED_FRACTION * len(tokens) or too_long or begin < self._cells_owned_by_others(slot):
            return Reuse()
        return Reuse(prefix + length, slot, prefix, begin, target)

    def take(self, tokens: array[int]) -> tuple[Slot, int]:
        """Return a slot, now busy, with the best reuse for `tokens`, and how many of them it holds.

        At least one slot must be idle.
        """
        reuse = self.find_reuse(tokens)
        stored = self._read_stored(tokens, reuse.length)
        if self._model.is_unified and not any(slot.busy for slot in self.slots):
            self._save_others(stored or reuse)
            reuse = self.find_reuse(tokens)
        slot, length = self.acquire(stored or reuse)
        slot.prompt_length = len(tokens)
        return slot, length

    def _read_stored(self, tokens: array[int], held: int) -> Reuse | None:
        """Read the prefix in a file with which more of `tokens` need not be evaluated than `held`, if there is one."""
        if self.store is None:
            return None
        busy = any(slot.busy for slot in self.slots)
        if (found := read_state(self.store, self._model, tokens, held, busy)) is None:
            return None
        length = min(common_prefix_length(found[0], tokens), len(tokens) - 1)
        return Reuse(length, SavedPrefix(*found), length)

    def take_empty(self) -> Slot | None:
        """Return an empty slot, now busy; None if all are.

        If no other is busy, the others are saved, so that its cells are the first ones of the context.
        """
        if self.full:
            return None
        if self._model.is_unified and not any(slot.busy for slot in self.slots):
            self._save_others(Reuse())
        return self.acquire(Reuse())[0]

    def release_empty(self, slot: Slot) -> None:
        """Empty a slot whose cells are of no further use, and make it idle."""
        self._model.truncate(slot.number, 0)
        self.truncate(slot, 0)
        slot.busy = False

    def _save_others(self, reuse: Reuse) -> None:
        """Save what a request that will run alone does not reuse, so that its cells are the first ones of the context.

        The order in which floating-point numbers are summed depends on where cells are: a repeated request only gets
        the same logits if they are where they were. What cannot be saved stays.
        """
        for slot in self.slots:
            is_source = slot is reuse.source
            kept = reuse.length if is_source else 0
            in_place = is_source and (reuse.shift_from or is_continuation(slot, kept))
            if in_place or len(slot.cells) <= kept:
                continue
            if len(slot.cells) < MIN_SAVED_TOKENS or self._save(slot):
                self.truncate(slot, kept)

    def acquire(self, reuse: Reuse) -> tuple[Slot, int]:
        """Return a slot, now busy, that holds what `reuse` describes, and how many tokens of the prompt that is.

        At least one slot must be idle.
        """
        source, length = reuse.source, reuse.length
        if isinstance(source, Slot) and reuse.shift_from:
            slot = source
            self._shift(slot, reuse)
        elif isinstance(source, Slot) and reuse.in_place and self._is_next(source):
            slot = source
            if not is_continuation(slot, length):  # what is lost may be continued, too
                self._save(slot)
            length = self.truncate(slot, length)
        else:
            if isinstance(source, SavedPrefix) and source in self._saved and is_continuation(source, length):
                self._saved.remove(source)  # first of all, to make room for the slot that is saved next
            slot = self._prepare_target(source)
            length = self._copy(source, slot, length)
        slot.busy, slot.last_use = True, next(self._use_counter)
        self._steps_since_acquire = 0
        return slot, length

    def _prepare_target(self, source: Slot | SavedPrefix | None) -> Slot:
        """Choose the idle slot to copy `source` to, and save what it holds.

        That is an empty slot if there is one; else `source` itself if it is an idle slot (also if cells cannot be
        shared), else the slot used longest ago.
        """
        idle = self._next_slots()
        empty = [slot for slot in idle if not slot.cells]
        if source in idle and not (empty and self._model.can_share):
            assert isinstance(source, Slot)
            self._save(source)
            return source
        slot = min(empty or idle, key=lambda candidate: candidate.last_use)
        self._evict(slot)
        return slot

    def _is_next(self, slot: Slot) -> bool:
        """Tell whether the next request may take that slot with what it holds."""
        return not slot.busy and (slot in self._expected or slot in self._next_slots())

    def _next_slots(self) -> list[Slot]:
        """Return the idle slots that the next request may take.

        llama.cpp evaluates streams at once only if their numbers follow one another. So where every slot has one, the
        next request gets a slot beside the busy ones, and a conversation is copied there from another slot.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        if self._model.is_unified or not self._model.can_share:
            return idle
        beside = {slot.number + side for slot in self.slots if slot.busy for side in (-1, 1)}
        return [slot for slot in idle if slot.number in beside] or idle

    def _copy(self, source: Slot | SavedPrefix | None, slot: Slot, length: int) -> int:
        """Give `slot` the first `length` cells of `source`. Return how many it then holds."""
        if isinstance(source, SavedPrefix):
            return self._restore(source, slot, length)
        if source is slot:
            return self.truncate(slot, length)
        if source is not None and length:
            count = positions(source.cells, length, self._surplus)
            if not self._model.share_prefix(source.number, slot.number, count):
                self._model.truncate(slot.number, 0)
                return 0
            slot.cells = source.cells[:length]
            if self._model.is_unified:
                slot.shared, source.shared = length, max(source.shared, length)
            elif not source.busy and is_continuation(source, length):
                self.truncate(source, 0)
        return length

    def _restore(self, saved: SavedPrefix, slot: Slot, length: int) -> int:
        if not self._model.restore_state(slot.number, saved.state):  # no room
            self._model.truncate(slot.number, 0)
            return 0
        slot.cells = saved.cells[:]
        return self.truncate(slot, length)

    def _shift(self, slot: Slot, reuse: Reuse) -> None:
        """Drop the cells between `shift_to` and `shift_from` and close the gap.

        Cells of attention sinks stay in front of it, even where they are not those of the prompt.
        """
        length = reuse.length - reuse.prefix
        self.truncate(slot, reuse.shift_from + length)
        if reuse.shift_to < reuse.shift_from:
            self._model.remove_range(slot.number, reuse.shift_to, reuse.shift_from)
            del slot.cells[reuse.shift_to : reuse.shift_from]
        slot.shared = min(slot.shared, reuse.shift_to)

    def drop_sinks(self, slot: Slot, tokens: array[int], count: int) -> bool:
        """Drop the `count` cells of `slot` that are not of its `tokens`. Return False if others own what follows."""
        begin = common_prefix_length(slot.cells, tokens)
        if self._cells_owned_by_others(slot) > begin:
            return False
        self._model.remove_range(slot.number, begin, begin + count)
        del slot.cells[begin : begin + count]
        slot.shared = min(slot.shared, begin)
        return True

    def truncate(self, slot: Slot, length: int) -> int:
        """Drop all but the first `length` cells. Return how many are left: 0 for a recurrent state, which is lost."""
        if length < len(slot.cells):
            if not self._model.truncate(slot.number, positions(slot.cells, length, self._surplus)):
                self._model.truncate(slot.number, 0)
                length = 0
            del slot.cells[length:]
        slot.shared = min(slot.shared, length)
        return length

    def keep_evaluated(self, slot: Slot, tokens: array[int]) -> int:
        """After an aborted decode of `tokens`, append those that were evaluated to `slot`. Return how many they are.

        Return -1 if the slot had to be emptied: an aborted recurrent state belongs to no position.
        """
        if not self._model.can_truncate:
            self.truncate(slot, 0)
            self._model.truncate(slot.number, 0)
            return -1
        # The last cell of a picture may have a lower position than the end of the picture.
        evaluated = max(self._model.position_range(slot.number)[1] + 1 - self.position(slot), 0)
        slot.cells.extend(tokens[:evaluated])
        return evaluated

    def position(self, slot: Slot) -> int:
        """Return the position of the next token of `slot`."""
        return positions(slot.cells, len(slot.cells), self._surplus)

    def append_image(self, slot: Slot, entries: Sequence[int], position_count: int) -> None:
        """Record that a chunk of a picture was evaluated, which takes `position_count` positions."""
        if len(entries) > position_count:
            self._surplus[entries[0]] = len(entries) - position_count
        slot.cells.extend(entries)

    def drop_unrecorded(self, slot: Slot) -> bool:
        """Drop what an evaluation that failed has left in `slot`. Return False if that is impossible."""
        return self._model.truncate(slot.number, self.position(slot))

    def free_cells(self) -> bool:
        """Evict the idle slot used longest ago. Return False if no idle slot holds any cells."""
        idle = [slot for slot in self.slots if not slot.busy and slot.cells]
        if idle:
            self._evict(min(idle, key=lambda slot: slot.last_use))
        return bool(idle)

    def clear(self) -> None:
        """Drop everything, also the saved prefixes. Whether slots are busy stays as it is."""
        self._model.clear_cache()
        self._saved.clear()
        for slot in self.slots:
            del slot.cells[:]
            slot.shared = 0

    def contents(self) -> list[Slot | SavedPrefix]:
        """Return the slots that hold tokens and the saved prefixes, those used last first."""
        slots = sorted((slot for slot in self.slots if slot.cells), key=lambda slot: slot.last_use, reverse=True)
        return [*slots, *reversed(self._saved)]

    def save_idle_slots(self) -> None:
        """Save at most one idle slot if it slows others down; to be called once per step.

        It does nothing just after a request began.
        """
        self._steps_since_acquire += 1
        if self._model.is_unified and self._steps_since_acquire > STEPS_BEFORE_SAVING:
            idle = (slot for slot in self.slots if not slot.busy and len(slot.cells) >= MIN_SAVED_TOKENS)
            for slot in itertools.islice(idle, 1):
                if self._save(slot):
                    self.truncate(slot, 0)

    def _evict(self, slot: Slot) -> None:
        """Save `slot` if possible, and empty it."""
        self._save(slot)
        self.truncate(slot, 0)

    def _save(self, slot: Slot) -> bool:
        """Copy `slot` to main memory, replacing its own prefixes there and, if memory is short, the oldest ones.

        Return False if there is no copy of it then: it is shorter than MIN_SAVED_TOKENS, or exceeds the memory.
        """
        size = len(slot.cells)
        if any(common_prefix_length(saved.cells, slot.cells) == size for saved in self._saved):
            return True
        if size < MIN_SAVED_TOKENS or self._model.state_size(slot.number) > self.max_saved_bytes:
            return False
        new = SavedPrefix(slot.cells[:], self._model.save_state(slot.number))
        if not new.state.size:
            return False
        self._saved = [old for old in self._saved if common_prefix_length(old.cells, new.cells) < len(old.cells)]
        self._saved.append(new)
        while sum(saved.state.size for saved in self._saved) > self.max_saved_bytes:
            del self._saved[0]
        return True

    def _cells_owned_by_others(self, slot: Slot) -> int:
        """Return how many cells at the beginning of `slot` other slots own too: a shift would move theirs as well."""
        others = (other for other in self.slots if other is not slot)
        return max(
            (min(slot.shared, other.shared, common_prefix_length(slot.cells, other.cells)) for other in others),
            default=0,
        )

    def describe(self) -> Json:
        """Return what the slots hold by our account ("cells", "positions") and by llama.cpp's ("span"), and the saved
        lengths."""
        slots = [
            {
                "cells": len(slot.cells),
                "positions": self.position(slot),
                "span": self._model.position_range(slot.number),
                "busy": slot.busy,
                "shared": slot.shared,
            }
            for slot in self.slots
        ]
        return {"slots": slots, "saved": [len(saved.cells) for saved in self._saved]}
