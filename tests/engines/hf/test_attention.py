"""Our attention equals that of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("backend")

GROUPS, HEADS, SIZE, LENGTH = 3, 2, 8, 21


def test_attention_equals_that_of_transformers(subtests: pytest.Subtests) -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from modules.engines.hf.attention import grouped_query_attention

    layer: Any = torch.nn.Module()
    layer.num_key_value_groups, layer.is_causal = GROUPS, True
    mask = torch.ones(4, 1, 1, LENGTH, dtype=torch.bool)
    mask[1, ..., :5] = False
    for dtype in (torch.float32, torch.bfloat16):
        for rows, tokens, masked in ((1, 1, None), (4, 1, None), (4, 1, mask), (1, LENGTH, None)):
            with subtests.test(dtype=str(dtype), rows=rows, tokens=tokens, masked=masked is not None):
                query = torch.randn(rows, GROUPS * HEADS, tokens, SIZE).to(dtype)
                key, value = (torch.randn(rows, HEADS, LENGTH, SIZE).to(dtype) for _ in range(2))
                ours, _ = grouped_query_attention(layer, query, key, value, masked, scaling=0.5)
                theirs, _ = sdpa_attention_forward(layer, query, key, value, masked, scaling=0.5)
                torch.testing.assert_close(ours, theirs)
