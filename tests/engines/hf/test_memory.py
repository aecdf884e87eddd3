"""What is said of the memory of a model of Transformers before it is loaded: worked out by hand, and as measured."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.engines.hf.memory import (
    DEFAULT_CONTEXT,
    PIECE,
    PIECE_OF_8_BITS,
    ROOM,
    _cells,
    _plan,
    context_length,
    estimate,
    given_back,
    placed,
    within,
)
from modules.formats.model_shape import ModelShape, TensorSizes, measure_tensors, model_shape
from modules.options.option import Value, size_in_bytes
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
REST = 16
"""Tokens read after a whole piece: no step takes more than that of a whole piece."""


def options(**form: object) -> dict[str, Value]:
    """Those that load with `form`, all others at their defaults."""
    settled: Any = load_arguments(Path("model"), TRANSFORMERS, **form)["options"]
    return settled


def shape_of(folder: Path) -> ModelShape:
    found = Catalog(folder.parent).find(folder.name).shape
    assert found is not None
    return found


# -- as measured ------------------------------------------------------------------------------------------------------


@functools.cache
def empty_peak(folder: Path) -> int:
    """The peak of a worker that has imported none of the libraries."""
    with closing(WorkerProcess()) as worker:
        ask(worker, "explain", **load_arguments(folder, TRANSFORMERS))
        return peak(worker)


def filled_peak(folder: Path, tokens: int, **form: object) -> int:
    """The peak of a worker that has read a prompt of so many tokens."""
    with closing(WorkerProcess()) as worker:
        load(worker, folder, TRANSFORMERS, **form)
        text = ask(worker, "encode", text="The quick brown fox jumps over the lazy dog. " * (tokens // 8))
        prompt = ask(worker, "decode", tokens=text[: tokens - 2])
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
def test_a_real_model_takes_what_was_estimated(smollm2_folder: Path, form: dict[str, object]) -> None:
    said = estimate(shape_of(smollm2_folder), options(**form), PIECE + REST)
    taken = filled_peak(smollm2_folder, PIECE + REST, **form) - empty_peak(smollm2_folder)
    assert said.total == pytest.approx(taken, rel=0.1)


# -- what the files tell ----------------------------------------------------------------------------------------------


def test_the_shape_of_a_real_model(smollm2_folder: Path) -> None:
    found = shape_of(smollm2_folder)
    layer = 576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536
    assert found.sizes.linear_elements == 30 * layer
    assert found.sizes.elements == 30 * layer + 49_152 * 576 + (2 * 30 + 1) * 576
    assert (found.sizes.largest_linear, found.sizes.dtype) == (576 * 1536, "BF16")
    assert (found.attention_layers, found.heads, found.kv_heads, found.head_dim) == (30, 9, 3, 64)
    assert (found.hidden_size, found.intermediate_size, found.vocab_size, found.context_length) == (
        576,
        1536,
        49_152,
        8192,
    )


def test_what_is_looked_up_and_what_is_no_matrix_is_not_quantised() -> None:
    table = {
        "model.embed_tokens.weight": [10, 4],
        "lm_head.weight": [10, 4],
        "model.layers.0.mlp.up_proj.weight": [8, 4],
        "model.layers.0.mlp.up_proj.bias": [8],
        "model.layers.0.input_layernorm.weight": [4],
        "model.layers.0.mlp.experts.0.w1.weight": [8, 4],
    }
    found = measure_tensors({name: {"shape": shape, "dtype": "F16"} for name, shape in table.items()})
    assert found == TensorSizes(elements=156, linear_elements=32, largest_linear=32, dtype="F16", has_output=True)


INVALID: list[object] = [None, -1, 0, True, "many", [], {}, 1e9, 1 << 70]


def test_invalid_values_in_a_config_are_ignored(subtests: pytest.Subtests) -> None:
    for nonsense in INVALID:
        with subtests.test(nonsense=nonsense):
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
            sound = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 4}
            for key in keys:
                for config in (
                    sound | {key: nonsense},
                    sound | {"rope_scaling": {"type": "linear", "factor": nonsense}},
                ):
                    if found := model_shape(config, SMALL.sizes, 2000):
                        assert estimate(found, options()).total > 0
            assert model_shape(dict.fromkeys(keys, nonsense), SMALL.sizes, 2000) is None


def test_layers_that_keep_a_state_have_no_keys() -> None:
    config = {"num_hidden_layers": 4, "hidden_size": 8, "num_attention_heads": 4, "sliding_window": 16}
    kinds = ["linear_attention", "full_attention", "sliding_attention", "linear_attention"]
    found = model_shape(config | {"layer_types": kinds}, SMALL.sizes, 2000)
    assert found is not None and (found.attention_layers, found.sliding_window_layers) == (2, 1)
    found = model_shape({"num_hidden_layers": 4, "hidden_size": 8}, SMALL.sizes, 2000)  # such as Mamba
    assert found is not None and estimate(found, options()).cache == 0


# -- as the engine decides: it imports torch, which is not for unit tests ----------------------------------------------


def test_the_estimate_assumes_the_dtype_that_is_loaded(
    tmp_path: Path, backend: None, subtests: pytest.Subtests
) -> None:
    from modules.engines.hf.arguments import Environment, ModelConfig, _dtype

    cards: tuple[tuple[int, ...], ...] = ((), (8 * GIB,))
    quantization: tuple[dict[str, object], ...] = ({}, {"load_in_8bit": True}, {"load_in_4bit": True})
    forms: tuple[dict[str, object], ...] = ({}, {"bf16": True}, {"cpu": True}, {"cpu": True, "bf16": True})
    for gpus, quantized, form in itertools.product(cards, quantization, forms):
        with subtests.test(gpus=gpus, **quantized, **form):
            chosen = options(**form, **quantized)
            assert _plan(chosen, gpus).dtype == _dtype(ModelConfig(tmp_path), chosen, Environment(gpus))


def test_the_estimate_assumes_the_context_that_is_loaded(
    tmp_path: Path, backend: None, subtests: pytest.Subtests
) -> None:
    from modules.engines.hf.arguments import ModelConfig

    config = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 1, "max_position_embeddings": 1000}
    forms: tuple[dict[str, object], ...] = ({}, {"alpha_value": 2.5}, {"compress_pos_emb": 4}, {"compress_pos_emb": 2})
    ropes: dict[str, dict[str, object]] = {
        "gpt2": {},
        "theta": {"rope_theta": 1e4},
        "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    }
    for (name, rope), form in itertools.product(ropes.items(), forms):
        with subtests.test(rope=name, **form):
            whole = config | {"model_type": "llama" if rope else "gpt2"} | rope
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps(whole))
            found = model_shape(whole, SMALL.sizes, 2000)
            assert found is not None
            assert context_length(found, options(**form)) == ModelConfig(folder).context_length(options(**form))
    assert context_length(dataclasses.replace(SMALL, context_length=0), options()) == DEFAULT_CONTEXT


def test_sizes_and_steps_are_the_engines(backend: None) -> None:
    from modules.engines.hf import limits, model

    sizes = [size_in_bytes(text) for text in ("9.5GiB", "8000MiB", "10", "1.5 GB", "700mb")]
    assert sizes == [19 << 29, 8000 << 20, 10 << 30, 15 * 10**8, 7 * 10**8]
    own = (model.Model.prefill_chunk, limits.PREFILL_CHUNK_8BIT, limits.KV_SPARE_TOKENS)
    assert own == (PIECE, PIECE_OF_8_BITS, ROOM)


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "stored", "weights"),
    [
        ({}, "BF16", 4000),
        ({"bf16": True}, "BF16", 2000),
        ({"load_in_8bit": True}, "BF16", 640 + 2000),  # the file stays mapped for what is not quantised
        ({"load_in_8bit": True}, "F16", 640 + 720),
        ({"load_in_4bit": True}, "F16", 320 + 40 + 720),  # 10 blocks with a scale of 4 bytes each
        ({"load_in_4bit": True, "use_double_quant": True}, "F16", 320 + 10 + 720),
    ],
)
def test_weights_take_what_their_type_takes(form: dict[str, object], stored: str, weights: int) -> None:
    small = dataclasses.replace(SMALL, sizes=dataclasses.replace(SMALL.sizes, dtype=stored))
    assert estimate(small, options(**form), 512).weights == weights


def test_the_cache_grows_by_a_quarter_and_at_least_by_256() -> None:
    assert [_cells(tokens, 512) for tokens in (100, 512, 768, 1024, 2046, 8192)] == [356, 768, 768, 1280, 2557, 8960]
    assert estimate(SMALL, options(bf16=True), 512).cache == 768 * 2 * (2 * 2 * 2) * 2
    windowed = dataclasses.replace(SMALL, sliding_window_layers=1, sliding_window=100)
    assert estimate(windowed, options(bf16=True), 4096).cache == (4096 + 612) * (2 * 2 * 2) * 2


def test_a_load_that_needs_more_than_answering_counts() -> None:
    large = dataclasses.replace(SMALL, size=2 * GIB, sizes=TensorSizes(GIB, GIB, 1, "BF16"))
    said = estimate(large, options(), 512)
    assert said.total == pytest.approx(4 * GIB + 2 * GIB, rel=0.06)
    assert said.needed == pytest.approx(4 * GIB, rel=0.1), "the file is mapped and can be read again"
    assert given_back(large, options())[0] == pytest.approx(4 * GIB, rel=0.1)
    assert given_back(large, options(bf16=True))[0] < 0.4 * GIB  # the file's pages are the system's


def test_what_exceeds_cpu_memory_is_on_disk() -> None:
    large = dataclasses.replace(SMALL, sizes=TensorSizes(GIB, GIB, 1, "F16"))
    assert estimate(large, options(cpu_memory="1", disk=True)).weights == GIB


# -- with GPUs --------------------------------------------------------------------------------------------------------


def test_weights_fill_the_gpus_in_order() -> None:
    large = dataclasses.replace(SMALL, sizes=TensorSizes(4 * GIB, 4 * GIB, 1, "F16"))
    main, gpu = placed(large, options(), [16 * GIB])
    assert (main.weights, main.cache, gpu.weights) == (0, 0, 8 * GIB)
    main, first, second = placed(large, options(gpu_memory="3 4"), [4 * GIB, 6 * GIB])
    assert [each.weights for each in (main, first, second)] == [GIB, 3 * GIB, 4 * GIB]
    main, gpu = placed(large, options(auto_devices=True), [5 * GIB])
    assert gpu.weights == int(4.5 * GIB) == 8 * GIB - main.weights
    main, gpu = placed(large, options(cpu=True), [16 * GIB])
    assert gpu.total == 0 and main == estimate(large, options(cpu=True))


def test_it_fits_if_every_memory_has_room() -> None:
    main, gpu = (each.total for each in placed(SMALL, options(), [GIB]))
    assert within(SMALL, options(), [main, GIB])
    assert not within(SMALL, options(), [main - 1, GIB])
    assert not within(SMALL, options(), [main, gpu - 1])
