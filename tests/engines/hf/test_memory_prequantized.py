"""The memory estimates of folders of quantized weights, by every loader that can load them."""

from __future__ import annotations

import importlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.engines.hf.limits import PREFILL_CHUNK
from modules.engines.memory import Estimate
from modules.formats.model_shape import ModelShape, TensorSizes
from modules.loaders.availability import overlay_of
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS, candidates
from modules.options.option import Value
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load, load_arguments
from tests.engines.hf.test_memory_unquantized import TOKENS_AFTER_CHUNK
from tests.engines.llamacpp.test_memory import peak
from tests.support.answers import answer, ask
from tests.support.quantized_folders import KINDS, quantized_folder

GIB = 1 << 30
PROMPT_TOKENS = PREFILL_CHUNK + TOKENS_AFTER_CHUNK
"""Tokens of the prompt; no step takes more memory than that of a whole chunk."""
LLAMA = ModelShape(
    size=4 * GIB,
    sizes=TensorSizes(
        elements=GIB // 4,
        packed_bytes=4 * GIB,
        packed_weights=7 * GIB,
        largest_packed=45_000_000,
        dtype="F16",
        has_output=True,
    ),
    attention_layers=32,
    sliding_window_layers=0,
    sliding_window=0,
    hidden_size=4096,
    intermediate_size=11008,
    heads=32,
    kv_heads=32,
    head_dim=128,
    vocab_size=32_000,
    context_length=4096,
    rope_scale=1,
    method="gptq",
)


def memory(loader: str) -> Any:
    """Return the module that estimates the memory of the loader."""
    return importlib.import_module(LOADERS[loader].memory)


def options(loader: str, **form: object) -> dict[str, Value]:
    return option_values(resolve(LOADERS[loader], model={}, saved={}, flags={}, form=form))


def needs(loader: str, gpus: tuple[int, ...] = (), **form: object) -> tuple[Estimate, ...]:
    return memory(loader).placed(LLAMA, options(loader, **form), gpus)


# -- by loader ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [loader.name for loader in candidates("gptq")])
def test_packed_weights_stay_packed_and_the_rest_is_in_16_bits(loader: str) -> None:
    total = sum(estimate.weights for estimate in needs(loader, (24 * GIB,)))
    assert total == 4 * GIB + GIB // 2
    if "gpu_memory_utilization" not in LOADERS[loader].options:  # vLLM takes a share of the GPU, whatever the model
        assert all(estimate.total < 12 * GIB for estimate in needs(loader, (24 * GIB,)))


def test_on_a_cpu_the_output_is_in_32_bits() -> None:
    (cpu,) = needs("AutoGPTQ")
    (_, gpu) = needs("AutoGPTQ", (24 * GIB,))
    assert gpu.weights == 4 * GIB + GIB // 2 == cpu.weights - 2 * 32_000 * 4096
    assert needs("AutoGPTQ", (24 * GIB,), cpu=True)[0].weights == cpu.weights
    assert needs("AutoGPTQ", (24 * GIB,), gpu_memory="2")[0].weights == gpu.weights - 2 * GIB


def test_the_estimate_for_auto_gptq_is_near_the_measured_memory() -> None:
    """The peak (VmHWM) of a worker that has generated 21 tokens, minus that of one without a model, was 681 million
    bytes in 4 bits and 738 in 8. The pages of the mapped files, which the system can reclaim, are in `spare`."""
    layers = {"packed_weights": 106_168_320, "largest_packed": 884_736, "elements": 28_347_456, "dtype": "BF16"}
    smollm2 = {"attention_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "heads": 9, "kv_heads": 3}
    smollm2["head_dim"] = 64
    for packed, size, measured in ((57_500_000, 114_000_000, 681e6), (111_400_000, 168_000_000, 738e6)):
        sizes = TensorSizes(packed_bytes=packed, **layers)
        small = replace(LLAMA, size=size, sizes=sizes, vocab_size=49_152, context_length=8192, **smollm2)
        (estimate,) = memory("AutoGPTQ").placed(small, options("AutoGPTQ"), tokens=21)
        assert estimate.total == pytest.approx(measured, rel=0.1)
        assert 50e6 < estimate.spare <= size


@pytest.mark.parametrize(
    ("loader", "kind"),
    [
        ("AutoGPTQ", "gptq"),
        ("AutoAWQ", "awq"),
        ("Transformers", "gptq"),
        ("Transformers", "awq"),
        ("bf16", "gptq"),
        ("Transformers", "gptq-8bit"),
    ],
)
def test_the_estimate_is_near_the_memory_of_a_real_worker(
    smollm2_folder: Path, shallow_folder: Path, loader: str, kind: str
) -> None:
    """Compare it with the peak of a worker that has prefilled a long prompt, minus the peak of one that has imported
    none of the libraries. In 8 bits gptqmodel takes a second per layer: only the first layers are loaded."""
    form = {"bf16": True} if loader == "bf16" else {}
    folder = quantized_folder(shallow_folder if kind == "gptq-8bit" else smollm2_folder, kind)
    row = LOADERS["Transformers" if form else loader]
    overlay = overlay_of(row, KINDS[kind].method)
    with closing(WorkerProcess(overlay.folder if overlay else None)) as worker:
        ask(worker, "explain", **load_arguments(folder, row))
        empty = peak(worker)
        load(worker, folder, row, **form)
        tokens = ask(worker, "encode", text="The quick brown fox jumps over the lazy dog. " * 128)
        prompt = ask(worker, "decode", tokens=tokens[: PROMPT_TOKENS - 2])
        prompt_tokens = answer(worker, prompt, max_new_tokens=1).done.prompt_tokens
        measured_bytes = peak(worker) - empty
    shape = Catalog(folder.parent).find(folder.name).shape
    assert shape is not None and PROMPT_TOKENS - 24 < prompt_tokens < PROMPT_TOKENS
    (estimate,) = memory(row.name).placed(shape, options(row.name, **form), tokens=PROMPT_TOKENS)
    assert estimate.total == pytest.approx(measured_bytes, rel=0.1)
