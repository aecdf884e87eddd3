"""The memory estimate of vLLM: weights, and the cache that is set or that its share of a GPU leaves."""

from __future__ import annotations

import dataclasses

import pytest

from modules.engines.memory import NOTHING
from modules.engines.vllm.memory import freed, placed, remedies
from modules.formats.model_shape import ModelShape, TensorSizes
from tests.engines.vllm.test_arguments import DEFAULTS, GIB

BILLION = 10**9
SHAPE = ModelShape(
    size=16 * BILLION,
    sizes=TensorSizes(elements=8 * BILLION, linear_elements=7 * BILLION, dtype="BF16", has_output=True),
    attention_layers=32,
    sliding_window_layers=0,
    sliding_window=0,
    hidden_size=4096,
    intermediate_size=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab_size=128_256,
    context_length=8192,
    rope_scale=1.0,
)
CONTEXT = 2 * 8 * 128 * 2 * 32 * 8192  # bytes of keys and values for one full context


def test_on_a_cpu_it_takes_weights_and_the_cache_that_is_set() -> None:
    (main,) = placed(SHAPE, DEFAULTS)
    assert main.weights == 16 * BILLION and main.cache == 4 * GIB
    assert placed(SHAPE, DEFAULTS | {"kv_cache_gib": 0.5})[0].cache == GIB // 2
    assert placed(SHAPE, DEFAULTS | {"nnodes": 2}) == (main,), "too many machines, which is refused"


def test_on_a_gpu_its_share_is_filled_with_cache_but_one_context_suffices() -> None:
    main, card = placed(SHAPE, DEFAULTS, (40 * GIB,))
    assert card.total == int(40 * GIB * 0.92) and main.weights == 0
    assert card.needed == card.weights + card.compute + card.other + CONTEXT
    assert freed(SHAPE, DEFAULTS, (40 * GIB,)) == [main.total, card.needed]


def test_a_model_that_leaves_no_room_for_one_context_exceeds_the_gpu() -> None:
    card = placed(SHAPE, DEFAULTS, (15 * GIB,))[1]
    assert card.spare == 0 and card.needed > 15 * GIB


def test_parallel_gpus_share_weights_and_cache_and_others_stay_empty() -> None:
    one = placed(SHAPE, DEFAULTS | {"kv_cache_gib": 2.0}, (40 * GIB,))[1]
    _, *cards = placed(SHAPE, DEFAULTS | {"kv_cache_gib": 2.0, "tensor_parallel_size": 2}, (40 * GIB,) * 3)
    assert [card.weights for card in cards] == [one.weights // 2] * 2 + [0] and cards[2] == NOTHING
    replicas = placed(SHAPE, DEFAULTS | {"data_parallel_size": 2}, (40 * GIB,) * 2)[1:]
    assert [card.weights for card in replicas] == [one.weights] * 2
    machines = DEFAULTS | {"tensor_parallel_size": 4, "nnodes": 2}
    assert [bool(card.weights) for card in placed(SHAPE, machines, (40 * GIB,) * 3)[1:]] == [True, True, False]


@pytest.mark.parametrize(
    ("free", "offered"),
    [
        ([64 * GIB, 17 * GIB], [{"kv_cache_dtype": "fp8"}, {"max_model_len": 4096}]),
        ([64 * GIB, 8 * GIB], []),
        ([19 * GIB], [{"kv_cache_gib": 1.0}]),  # on the CPU, where the size of the cache is set
    ],
)
def test_a_shorter_context_or_a_smaller_cache_is_offered_where_it_helps(free: list[int], offered: list[object]) -> None:
    found = list(remedies(SHAPE, DEFAULTS, free))
    assert [min(change) for change in found] == [min(change) for change in offered]  # type: ignore[call-overload]


def test_an_8_bit_cache_takes_half() -> None:
    small = dataclasses.replace(SHAPE, context_length=32768)
    full, half = (placed(small, DEFAULTS | {"kv_cache_dtype": kind}, (1,))[1].cache for kind in ("auto", "fp8"))
    assert full == 2 * half == 4 * CONTEXT
