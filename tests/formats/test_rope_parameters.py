"""RoPE's parameters are the same whichever version of Transformers wrote config.json."""

from __future__ import annotations

from typing import Any

import pytest

from modules.formats.rope_parameters import linear_factor, rope_parameters

PLAIN = {"": {"rope_type": "default", "rope_theta": 5e5}}
LINEAR = {"": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}}
PARTIAL = {"": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}}
BY_TYPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
SPELLINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_theta": 5e5}, PLAIN),
    ({"rope_theta": 500000, "rope_scaling": None}, PLAIN),
    ({"rotary_emb_base": 500000}, PLAIN),
    ({"rope_parameters": {"rope_theta": 5e5}}, PLAIN),
    ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": 1e4}, PLAIN),
    ({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}, LINEAR),
    ({"rope_parameters": {"rope_type": "linear", "type": "linear", "rope_theta": 5e5, "factor": 4.0}}, LINEAR),
    ({"rope_theta": 5e5, "partial_rotary_factor": 0.5}, PARTIAL),
    ({"rotary_emb_base": 5e5, "rotary_pct": 0.5}, PARTIAL),
    ({"rope_parameters": BY_TYPE}, BY_TYPE),
    ({"rope_parameters": BY_TYPE | {"rope_theta": 1.0, "linear_attention": None}}, BY_TYPE),
    ({"rope_scaling": {"factor": 2.0}}, {"": {"rope_type": "default", "rope_theta": 1e4, "factor": 2.0}}),
    ({}, {}),
    ({"rope_theta": None, "rope_scaling": [1], "rope_parameters": "nonsense"}, {}),
    ({"rope_theta": -1, "rotary_emb_base": True}, {}),
]


@pytest.mark.parametrize(("config", "expected"), SPELLINGS)
def test_every_spelling_means_the_same(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rope_parameters(config) == expected


def test_only_linear_scaling_has_a_linear_factor() -> None:
    factors = [linear_factor(rope) for rope in BY_TYPE.values()]
    assert factors == [8.0, 1.0]
    assert linear_factor({"rope_type": "yarn", "factor": 4.0}) == linear_factor({"rope_type": "linear"}) == 1.0
