"""How many answers are in progress at once, by memory."""

from __future__ import annotations

from modules.engines.hf.limits import MAX_BATCH, MIN_BATCH, batch_size


def test_half_of_the_free_memory_holds_the_contexts_of_all_answers() -> None:
    assert batch_size(1 << 30, 22 << 30) == 11
    assert batch_size(1 << 30, 1 << 40) == MAX_BATCH
    assert batch_size(1 << 30, 1 << 20) == batch_size(1 << 40, 1 << 30) == MIN_BATCH
