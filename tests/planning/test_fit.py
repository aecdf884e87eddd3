"""Whether a model fits in memory, which remedies are offered, and how the context length is reduced."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.engines.hf import memory as hf_memory
from modules.engines.llamacpp import memory as llamacpp_memory
from modules.engines.llamacpp.memory import estimate, placed
from modules.engines.memory import MIN_CONTEXT, fits
from modules.formats.gguf_header import GgufHeader
from modules.formats.model_shape import TensorSizes
from modules.loaders.load_settings import option_values, resolve
from modules.options.load import OPTIONS
from modules.options.option import Value
from modules.planning.fit import Device, fit, fitting_context
from tests.conftest import LLAMA, TRANSFORMERS
from tests.engines.hf.test_memory_unquantized import GIB, SMALL

MB = 1_000_000
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def header(models_folder: Path) -> GgufHeader:
    (record,) = Catalog(models_folder).models()
    assert record.header is not None
    return record.header


def options(**chosen: Value) -> dict[str, Value]:
    return option_values(resolve(LLAMA, model={"n_ctx": 8192}, saved={}, flags={}, form=chosen))


def main_memory(free: int) -> list[Device]:
    return [Device("", free)]


@pytest.mark.parametrize(
    ("free", "verdict"), [(0, "unknown"), (1000 * MB, "fits"), (340 * MB, "tight"), (300 * MB, "short"), (1, "short")]
)
def test_the_verdict_compares_needed_with_free_memory(header: GgufHeader, free: int, verdict: str) -> None:
    result = fit(llamacpp_memory, header, options(), main_memory(free))
    assert [part.verdict for part in result.parts] == [verdict]
    assert result.short == (verdict == "short")


@pytest.mark.parametrize("free", [300 * MB, 240 * MB, 200 * MB, 170 * MB, 152 * MB])
def test_every_remedy_makes_the_model_fit(header: GgufHeader, free: int) -> None:
    result = fit(llamacpp_memory, header, options(), main_memory(free))
    assert result.remedies
    for change in result.remedies:
        assert set(change) <= set(OPTIONS)
        assert estimate(header, options(**change)).total <= free
    assert {"cache_4bit": True} in fit(llamacpp_memory, header, options(), main_memory(250 * MB)).remedies


GPU_NAME = "NVIDIA GeForce RTX 4060"


@pytest.mark.parametrize("gpu_memory", [560 * MB, 700 * MB, 500 * MB])
def test_with_a_gpu_every_remedy_makes_the_model_fit_on_every_device(header: GgufHeader, gpu_memory: int) -> None:
    chosen = options(n_gpu_layers=-1)
    result = fit(llamacpp_memory, header, chosen, [Device("", 1000 * MB), Device(GPU_NAME, gpu_memory)])
    main, gpu = result.parts
    assert (main.verdict, gpu.verdict, gpu.device.name) == ("fits", "short", GPU_NAME)
    fewer = [change["n_gpu_layers"] for change in result.remedies if "n_gpu_layers" in change]
    assert fewer and 0 <= int(fewer[0]) < 31
    for change in result.remedies:
        assert fits(placed(header, options(**{"n_gpu_layers": -1, **change}), [gpu_memory]), [1000 * MB, gpu_memory])


def test_more_layers_on_the_gpu_are_a_remedy_for_short_main_memory(header: GgufHeader) -> None:
    result = fit(llamacpp_memory, header, options(), [Device("", 150 * MB), Device(GPU_NAME, 8000 * MB)])
    assert {"n_gpu_layers": 31} in result.remedies


def test_no_remedy_is_offered_if_none_helps(header: GgufHeader) -> None:
    assert fit(llamacpp_memory, header, options(), main_memory(90 * MB)).remedies == ()
    assert fit(llamacpp_memory, header, options(), main_memory(1000 * MB)).remedies == ()


def test_a_context_length_that_was_not_set_becomes_the_largest_that_fits(header: GgufHeader) -> None:
    assert fitting_context(llamacpp_memory, header, options(), main_memory(1000 * MB)) == 8192
    assert fitting_context(llamacpp_memory, header, options(), main_memory(0)) == 8192
    reduced = fitting_context(llamacpp_memory, header, options(), main_memory(200 * MB))
    assert MIN_CONTEXT <= reduced < 8192
    assert (
        estimate(header, options(n_ctx=reduced)).total <= 200 * MB < estimate(header, options(n_ctx=2 * reduced)).total
    )
    assert fitting_context(llamacpp_memory, header, options(), main_memory(1)) == MIN_CONTEXT


# -- Transformers ------------------------------------------------------------------------------------------------------

SEVEN_BILLION = dataclasses.replace(SMALL, size=14 * GIB, sizes=TensorSizes(7 * GIB, 6 * GIB, 1 << 20, "BF16"))
"""A model of seven billion weights in 16 bits."""


def torch_options(**chosen: Value) -> dict[str, Value]:
    return option_values(resolve(TRANSFORMERS, model={}, saved={}, flags={}, form=chosen))


@pytest.mark.parametrize(("free", "remedies"), [(50, 0), (31, 0), (27, 4), (10, 3), (8, 2), (5, 0)])
def test_fewer_bits_are_a_remedy_if_the_model_then_fits(free: int, remedies: int) -> None:
    result = fit(hf_memory, SEVEN_BILLION, torch_options(), main_memory(free * GIB))
    assert result.short == (free < 29) and len(result.remedies) == remedies
    assert result.parts[0].verdict == ("fits" if free == 50 else "tight" if free == 31 else "short")
    for change in result.remedies:
        assert fits(hf_memory.placed(SEVEN_BILLION, torch_options(**change)), [free * GIB])


def test_fewer_bits_are_a_remedy_on_a_gpu() -> None:
    result = fit(hf_memory, SEVEN_BILLION, torch_options(), [Device("", 64 * GIB), Device(GPU_NAME, 12 * GIB)])
    assert [part.verdict for part in result.parts] == ["fits", "short"]
    assert {"load_in_8bit": True} in result.remedies and {"bf16": True} not in result.remedies
