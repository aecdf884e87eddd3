"""Texts beyond a length of LongRoPE have keys of their own, however they are evaluated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("backend")

LIMIT = 16
X = torch.zeros(1)


@pytest.fixture
def rotary() -> Any:
    from transformers import Phi3Config
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": LIMIT}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    return Phi3RotaryEmbedding(
        Phi3Config(
            hidden_size=32,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=0,
            original_max_position_embeddings=LIMIT,
            rope_parameters=rope | factors,
        )
    )


def both(rotary: Any, *rows: range) -> Tensor:
    """Return the cosines and the sines for positions."""
    return torch.cat(rotary(X, torch.tensor([list(row) for row in rows])), dim=-1)


def test_the_beginning_of_a_long_text_is_evaluated_as_with_its_end(rotary: Any) -> None:
    from modules.engines.hf.long_rope import LongRope

    short, whole = both(rotary, range(8)), both(rotary, range(LIMIT + 4))
    long_rope = LongRope(torch.nn.ModuleList([rotary]))
    assert long_rope.limit == LIMIT
    with long_rope.long(True):
        assert torch.equal(both(rotary, range(8)), whole[:, :8])
    with long_rope.long(False):
        assert torch.equal(both(rotary, range(8)), short)
    assert torch.equal(both(rotary, range(LIMIT + 4)), whole)


def test_each_row_of_a_batch_is_evaluated_by_its_own_length(rotary: Any) -> None:
    from modules.engines.hf.long_rope import LongRope

    rows = range(LIMIT, LIMIT + 1), range(3, 4), range(LIMIT - 1, LIMIT)
    alone = [both(rotary, row) for row in rows]
    LongRope(torch.nn.ModuleList([rotary]))
    assert torch.equal(both(rotary, *rows), torch.cat(alone))


def test_a_model_without_it_has_no_limit() -> None:
    from modules.engines.hf.long_rope import LongRope

    assert LongRope(torch.nn.ModuleList([torch.nn.Linear(1, 1)])).limit is None
