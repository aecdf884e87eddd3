"""The memory estimate of an unquantized checkpoint under Transformers, against hand computations and real workers."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.engines.hf.limits import PREFILL_CHUNK
from modules.engines.hf.memory_unquantized import freed, placed
from modules.engines.memory import Estimate, fits
from modules.formats.model_shape import ModelShape, TensorSizes, model_shape
from modules.options.option import Value
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load, load_arguments
from tests.engines.llamacpp.test_memory import peak
from tests.support.answers import answer, ask

SMALL = ModelShape(
    size=2 * 1000,
    sizes=TensorSizes(elements=1000, linear_elements=640, largest_linear=64, dtype="BF16"),
    attention_layers=2,
    sliding_window_layers=0,
    sliding_window=0,
    hidden_size=8,
    intermediate_size=16,
    heads=4,
    kv_heads=2,
    head_dim=2,
    vocab_size=0,
    context_length=4096,
    rope_scale=1.0,
)
GIB = 1 << 30
TOKENS_AFTER_CHUNK = 16
"""Tokens prefilled after a whole chunk; no step takes more memory than that of a whole chunk."""


def options(**form: object) -> dict[str, Value]:
    """Return all load options: those of `form`, and the defaults of the others."""
    values: Any = load_arguments(Path("model"), TRANSFORMERS, **form)["options"]
    return values


def estimate(shape: ModelShape, options: dict[str, Value], tokens: int = 0) -> Estimate:
    """Return the estimate of main memory on a machine without GPUs."""
    return placed(shape, options, tokens=tokens)[0]


def shape_of(folder: Path) -> ModelShape:
    shape = Catalog(folder.parent).find(folder.name).shape
    assert shape is not None
    return shape


# -- measured ---------------------------------------------------------------------------------------------------------


@functools.cache
def empty_peak(folder: Path) -> int:
    """Return the peak memory of a worker that has imported none of the libraries."""
    with closing(WorkerProcess()) as worker:
        ask(worker, "explain", **load_arguments(folder, TRANSFORMERS))
        return peak(worker)


def filled_peak(folder: Path, tokens: int, **form: object) -> int:
    """Return the peak memory of a worker that has prefilled a prompt of about `tokens` tokens."""
    with closing(WorkerProcess()) as worker:
        load(worker, folder, TRANSFORMERS, **form)
        encoded = ask(worker, "encode", text="The quick brown fox jumps over the lazy dog. " * (tokens // 8))
        prompt = ask(worker, "decode", tokens=encoded[: tokens - 2])
        done = answer(worker, prompt, max_new_tokens=1).done
        assert tokens - 8 < done.prompt_tokens < tokens
        return peak(worker)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"bf16": True},
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"bf16": True, "use_eager_attention": True},
        {"cpu_memory": "300MiB", "disk": True},
    ],
    ids=str,
)
def test_the_estimate_is_near_the_memory_of_a_real_worker(smollm2_folder: Path, form: dict[str, object]) -> None:
    estimated = estimate(shape_of(smollm2_folder), options(**form), PREFILL_CHUNK + TOKENS_AFTER_CHUNK)
    measured = filled_peak(smollm2_folder, PREFILL_CHUNK + TOKENS_AFTER_CHUNK, **form) - empty_peak(smollm2_folder)
    assert estimated.total == pytest.approx(measured, rel=0.1)


INVALID: list[object] = [None, -1, 0, True, "many", [], {}, 1e9, 1 << 70]


def test_invalid_values_in_a_config_are_ignored(subtests: pytest.Subtests) -> None:
    for invalid in INVALID:
        with subtests.test(invalid=invalid):
            keys = [
                *(
                    "num_hidden_layers",
                    "hidden_size",
                    "num_attention_heads",
                    "num_key_value_heads",
                    "head_dim",
                    "layer_types",
                ),
                *("intermediate_size", "vocab_size", "max_position_embeddings", "sliding_window", "rope_scaling"),
            ]
            valid = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 4}
            for key in keys:
                for config in (
                    valid | {key: invalid},
                    valid | {"rope_scaling": {"type": "linear", "factor": invalid}},
                ):
                    if shape := model_shape(config, SMALL.sizes, 2000):
                        assert estimate(shape, options()).total > 0
            assert model_shape(dict.fromkeys(keys, invalid), SMALL.sizes, 2000) is None


def test_recurrent_layers_have_no_kv_cache() -> None:
    config = {"num_hidden_layers": 4, "hidden_size": 8, "num_attention_heads": 4, "sliding_window": 16}
    kinds = ["linear_attention", "full_attention", "sliding_attention", "linear_attention"]
    shape = model_shape(config | {"layer_types": kinds}, SMALL.sizes, 2000)
    assert shape is not None and (shape.attention_layers, shape.sliding_window_layers) == (2, 1)
    shape = model_shape({"num_hidden_layers": 4, "hidden_size": 8}, SMALL.sizes, 2000)  # a model such as Mamba
    assert shape is not None and estimate(shape, options()).cache == 0


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "stored", "weights"),
    [
        ({}, "BF16", 4000),
        ({"bf16": True}, "BF16", 2000),
        ({"load_in_8bit": True}, "BF16", 640 + 2000),  # the file stays mapped for what is not quantized
        ({"load_in_8bit": True}, "F16", 640 + 720),
        ({"load_in_4bit": True}, "F16", 320 + 40 + 720),  # 10 blocks with a scale of 4 bytes each
        ({"load_in_4bit": True, "use_double_quant": True}, "F16", 320 + 10 + 720),
    ],
)
def test_weights_take_the_bytes_of_their_dtype(form: dict[str, object], stored: str, weights: int) -> None:
    small = dataclasses.replace(SMALL, sizes=dataclasses.replace(SMALL.sizes, dtype=stored))
    assert estimate(small, options(**form), 512).weights == weights


def test_a_load_that_needs_more_memory_than_generating_counts() -> None:
    large = dataclasses.replace(SMALL, size=2 * GIB, sizes=TensorSizes(GIB, GIB, 1, "BF16"))
    estimated = estimate(large, options(), 512)
    assert estimated.total == pytest.approx(4 * GIB + 2 * GIB, rel=0.06)
    assert estimated.needed == pytest.approx(4 * GIB, rel=0.1), "the pages of the mapped file can be read again"
    assert freed(large, options())[0] == pytest.approx(4 * GIB, rel=0.1)
    assert freed(large, options(bf16=True))[0] < 0.4 * GIB  # the pages of the mapped file belong to the system


def test_weights_beyond_cpu_memory_are_on_disk() -> None:
    large = dataclasses.replace(SMALL, sizes=TensorSizes(GIB, GIB, 1, "F16"))
    assert estimate(large, options(cpu_memory="1", disk=True)).weights == GIB


# -- with GPUs --------------------------------------------------------------------------------------------------------


def test_weights_fill_the_gpus_in_order() -> None:
    large = dataclasses.replace(SMALL, sizes=TensorSizes(4 * GIB, 4 * GIB, 1, "F16"))
    main, gpu = placed(large, options(), [16 * GIB])
    assert (main.weights, main.cache, gpu.weights) == (0, 0, 8 * GIB)
    main, first, second = placed(large, options(gpu_memory="3 4"), [4 * GIB, 6 * GIB])
    assert [device.weights for device in (main, first, second)] == [GIB, 3 * GIB, 4 * GIB]
    main, gpu = placed(large, options(auto_devices=True), [5 * GIB])
    assert gpu.weights == int(4.5 * GIB) == 8 * GIB - main.weights
    main, gpu = placed(large, options(cpu=True), [16 * GIB])
    assert gpu.total == 0 and main == estimate(large, options(cpu=True))


def test_a_model_fits_if_every_device_has_room() -> None:
    needs = placed(SMALL, options(), [GIB])
    main, gpu = (need.total for need in needs)
    assert fits(needs, [main, GIB])
    assert not fits(needs, [main - 1, GIB])
    assert not fits(needs, [main, gpu - 1])
