"""Rows as tensors: padding, packing, and which tokens count."""

from __future__ import annotations

import random
import time

import pytest

from modules.engines.training.batches import count_trained, pack, packed_batch, padded_batch
from modules.engines.training.tokens import IGNORED, TokenRow

pytestmark = pytest.mark.usefixtures("backend")

SHORT = TokenRow(1, [5, 6], [True, True])
LONG = TokenRow(2, [7, 0, 8, 9], [False, True, True, False])


def test_padding_is_masked_by_its_position_and_the_first_token_counts_for_nothing() -> None:
    batch = padded_batch([SHORT, LONG])
    assert batch["input_ids"].tolist() == [[5, 6, 0, 0], [7, 0, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED, IGNORED], [IGNORED, 0, 8, IGNORED]]
    assert batch["rows"] == [1, 2] and count_trained([SHORT, LONG]) == 3


def test_packed_rows_begin_at_position_0_and_predict_nothing_of_each_other() -> None:
    batch = packed_batch([[LONG, SHORT]])
    assert batch["input_ids"].tolist() == [[7, 0, 8, 9, 5, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 0, 8, IGNORED, IGNORED, 6]]
    assert "attention_mask" not in batch and batch["use_cache"] is False


def test_all_rows_are_packed_and_no_pack_is_too_long() -> None:
    rows = [TokenRow(number, [1] * length, [True] * length) for number, length in enumerate((9, 3, 8, 2, 1, 7, 5))]
    packs = pack(rows, 10)
    assert sorted(row.row for pack in packs for row in pack) == list(range(7))
    assert all(sum(len(row.tokens) for row in pack) <= 10 for pack in packs) and len(packs) == 4


def test_many_rows_are_packed_in_seconds() -> None:
    lengths = random.Random(1).choices(range(100, 400), k=30_000)
    rows = [TokenRow(number, [1] * length, [True] * length) for number, length in enumerate(lengths)]
    began = time.process_time()
    packs = pack(rows, 1000)
    assert sum(map(len, packs)) == len(rows) and max(sum(len(row.tokens) for row in rows) for rows in packs) <= 1000
    assert time.process_time() - began < 5
