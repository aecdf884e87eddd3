"""The memory estimate of ExLlamaV2's two loaders, compared with manual calculations and the package's own numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.core.paths import ROOT
from modules.engines.exllamav2 import memory as EXLLAMA
from modules.engines.exllamav2.memory import context_length, placed
from modules.engines.memory import fits
from modules.planning.fit import Device, fit
from tests.engines.hf.test_memory_prequantized import GIB, LLAMA, needs, options
from tests.support.exl2_folder import exl2_folder, with_standin
from tests.support.quantized_folders import quantized_folder

TOKEN = 2 * 32 * 32 * 128 * 2
"""Bytes of the keys and values of one token of LLAMA, in 16 bits."""


def test_the_whole_cache_is_counted_with_the_bits_of_its_option() -> None:
    def cache(**form: object) -> int:
        return needs("ExLlamav2", (24 * GIB,), **form)[1].cache

    assert cache() == 4096 * TOKEN
    assert cache(max_seq_len=1024) == 1024 * TOKEN
    layer = 4096 * TOKEN // 32
    assert cache(cache_8bit=True) == 4096 * TOKEN * 17 // 32 + layer, "with its scales and one layer in 16 bits"
    assert cache(cache_4bit=True) == pytest.approx(4096 * TOKEN * 4.5 / 16 + layer)
    assert cache(cfg_cache=True) == 2 * 4096 * TOKEN
    assert cache(cfg_cache=True, cache_8bit=True) == 2 * cache(cache_8bit=True)


def test_the_embeddings_stay_in_main_memory_and_the_rest_follows_gpu_split() -> None:
    main, first, second = needs("ExLlamav2_HF", (24 * GIB, 24 * GIB), gpu_split="3,8")
    assert main.weights == 32_000 * 4096 * 2
    assert first.weights == 3 * GIB
    assert first.weights + second.weights + main.weights == 4 * GIB + GIB // 2
    assert first.cache > second.cache > 0


def test_all_layers_are_on_the_first_gpu_unless_split() -> None:
    gpus = (5 * GIB, 24 * GIB, 24 * GIB)
    _, first, *unused = needs("ExLlamav2", gpus)
    assert first.weights > 4 * GIB
    assert [need.total for need in unused] == [0, 0]
    _, *spread = needs("ExLlamav2", gpus, autosplit=True, gpu_split="1,1,9")
    assert sum(need.weights for need in spread) == first.weights
    assert all(need.weights > GIB for need in spread[:2]) and spread[2].total == 0
    assert spread[0].total == pytest.approx(5 * GIB, rel=0.01), "including the cache of its layers"


def test_tied_embeddings_are_in_main_memory_and_on_the_gpu() -> None:
    tied = replace(LLAMA, sizes=replace(LLAMA.sizes, has_output=False))
    main, gpu = placed(tied, options("ExLlamav2"), (24 * GIB,))
    untied_main, untied_gpu = needs("ExLlamav2", (24 * GIB,))
    assert main.weights == untied_main.weights == 32_000 * 4096 * 2
    assert gpu.weights == untied_gpu.weights + 32_000 * 4096 * 2


FOOTPRINT = """
import json, sys
from exllamav2 import ExLlamaV2, ExLlamaV2Config
for folder in sys.argv[1:]:
    config = ExLlamaV2Config()
    config.model_dir = folder
    config.prepare()
    modules = ExLlamaV2(config).modules
    unpacking = [module.temp_dq_size() for module in modules if hasattr(module, "temp_dq_size")]
    weights = sum(module.weight_footprint() for module in modules[1:])
    print("BYTES", json.dumps([weights, max(unpacking), max(unpacking[:-1])]))
"""
"""Print bytes by the package's own numbers: of all weights but the embeddings, of the largest buffer to unpack a layer,
and of the largest such buffer without the output layer.
"""


def test_weights_on_gpus_agree_with_the_packages_own_numbers(smollm2_folder: Path, subtests: pytest.Subtests) -> None:
    """The first model has tied embeddings, the second a separate output layer."""
    folders = {"gptq": quantized_folder(smollm2_folder, "gptq"), "exl2": exl2_folder(smollm2_folder)}
    command = [sys.executable, "-c", FOOTPRINT, *map(str, folders.values())]
    run = subprocess.run(command, cwd=ROOT, env=with_standin(flash=False), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    outputs = [line.removeprefix("BYTES ") for line in run.stdout.splitlines() if line.startswith("BYTES ")]
    for (kind, folder), output in zip(folders.items(), outputs, strict=True):
        with subtests.test(kind):
            weights, largest, largest_layer = json.loads(output)
            shape = Catalog(folder.parent).find(folder.name).shape
            assert shape is not None and shape.sizes.has_output == (kind == "exl2")
            _, gpu = placed(shape, options("ExLlamav2"), (24 * GIB,))
            assert gpu.weights == pytest.approx(weights, rel=0.01)
            _, first, second = placed(shape, options("ExLlamav2", gpu_split="0.02,9"), (GIB, 24 * GIB))
            assert first.weights and second.compute - first.compute == largest - largest_layer
            assert second.compute == gpu.compute > largest


def test_each_gpu_has_a_buffer_for_its_largest_unpacked_layer() -> None:
    """The output layer is on the last GPU; with autosplit each GPU has a buffer for it."""

    def compute(vocabulary: int, **form: object) -> list[int]:
        shape = replace(LLAMA, vocab_size=vocabulary, sizes=replace(LLAMA.sizes, elements=GIB))
        needs = placed(shape, options("ExLlamav2", **form), (4 * GIB, 24 * GIB))
        return [need.compute - 3 * 4 * vocabulary for need in needs[1:]]

    small, large = 8_000, 32_000
    output, mlp = 2 * large * 4096, 2 * 11008 * 4096
    split, auto = ({"gpu_split": "2,20"}, {"autosplit": True})
    assert compute(small, **split)[0] == compute(small, **split)[1] == compute(small, **auto)[0] > mlp
    assert compute(large, **split)[0] == compute(small, **split)[0]
    assert compute(large, **split)[1] == compute(small, **split)[1] + output - mlp
    assert compute(large, **auto) == [compute(large, **split)[1]] * 2
    assert compute(256_000)[0] == compute(small)[0] + GIB - mlp, "the output layer is unpacked in pieces of 1 GiB"


def test_autosplit_is_proposed_if_the_first_gpu_is_too_small() -> None:
    devices = [Device("", 64 * GIB), Device("gpu", 5 * GIB), Device("gpu", 8 * GIB)]
    result = fit(EXLLAMA, LLAMA, options("ExLlamav2"), devices)
    assert result.short and {"autosplit": True} in result.remedies
    fitting = fit(EXLLAMA, LLAMA, options("ExLlamav2", autosplit=True), devices)
    assert not fitting.short
    assert {"autosplit": True} not in fit(EXLLAMA, LLAMA, options("ExLlamav2"), devices[:2]).remedies


def test_weights_that_fit_on_no_gpu_make_the_last_one_short() -> None:
    gpu = Device("gpu", 3 * GIB)
    result = fit(EXLLAMA, LLAMA, options("ExLlamav2"), [Device("", 64 * GIB), gpu])
    assert [part.verdict for part in result.parts] == ["fits", "short"]
    assert result.remedies == (), "nothing makes 4 GiB fit into 3"


def test_a_quantized_cache_or_a_shorter_context_is_proposed_if_it_helps() -> None:
    devices = [Device("", 64 * GIB), Device("gpu", 71 * GIB // 10)]
    result = fit(EXLLAMA, LLAMA, options("ExLlamav2"), devices)
    assert result.short
    assert result.remedies == ({"cache_8bit": True}, {"cache_4bit": True}, {"max_seq_len": 2048})
    for remedy in result.remedies:
        free = [int(0.9 * device.free) for device in devices]
        assert fits(placed(LLAMA, {**options("ExLlamav2"), **remedy}, free[1:]), free), remedy


def test_the_context_is_max_seq_len_or_the_models_own() -> None:
    assert context_length(LLAMA, options("ExLlamav2", compress_pos_emb=2)) == 8192
    assert context_length(LLAMA, options("ExLlamav2", max_seq_len=9000)) == 9000
