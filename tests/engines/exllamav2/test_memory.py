"""The memory estimate of ExLlamaV2's two loaders, against hand computations and the package's own account."""

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
"""Bytes of LLAMA's keys and values of one token, in 16 bits."""


def test_the_cache_is_allocated_at_once_in_the_bits_of_its_option() -> None:
    def cache(**form: object) -> int:
        return needs("ExLlamav2", (24 * GIB,), **form)[1].cache

    assert cache() == 4096 * TOKEN
    assert cache(max_seq_len=1024) == 1024 * TOKEN
    layer = 4096 * TOKEN // 32
    assert cache(cache_8bit=True) == 4096 * TOKEN * 17 // 32 + layer, "with its scales, and a layer unpacked"
    assert cache(cache_4bit=True) == pytest.approx(4096 * TOKEN * 4.5 / 16 + layer)
    assert cache(cfg_cache=True) == 2 * 4096 * TOKEN
    assert cache(cfg_cache=True, cache_8bit=True) == 2 * cache(cache_8bit=True)


def test_the_embeddings_stay_in_main_memory_and_the_rest_follows_gpu_split() -> None:
    main, first, second = needs("ExLlamav2_HF", (24 * GIB, 24 * GIB), gpu_split="3,8")
    assert main.weights == 32_000 * 4096 * 2
    assert first.weights == 3 * GIB
    assert first.weights + second.weights + main.weights == 4 * GIB + GIB // 2
    assert first.cache > second.cache > 0


def test_the_first_gpu_takes_all_unless_split() -> None:
    cards = (5 * GIB, 24 * GIB, 24 * GIB)
    _, first, *others = needs("ExLlamav2", cards)
    assert first.weights > 4 * GIB
    assert [each.total for each in others] == [0, 0]
    _, *spread = needs("ExLlamav2", cards, autosplit=True, gpu_split="1,1,9")
    assert sum(each.weights for each in spread) == first.weights
    assert all(each.weights > GIB for each in spread[:2]) and spread[2].total == 0
    assert spread[0].total == pytest.approx(5 * GIB, rel=0.01), "the cache of its layers included"


def test_tied_embeddings_are_in_main_memory_and_on_the_gpu() -> None:
    tied = replace(LLAMA, sizes=replace(LLAMA.sizes, has_output=False))
    main, card = placed(tied, options("ExLlamav2"), (24 * GIB,))
    own_main, own_card = needs("ExLlamav2", (24 * GIB,))
    assert main.weights == own_main.weights == 32_000 * 4096 * 2
    assert card.weights == own_card.weights + 32_000 * 4096 * 2


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
"""Bytes by the package's account: all but the embeddings, the buffer to unpack any layer, any but the output."""


def test_weights_on_gpus_are_those_by_the_packages_own_account(smollm2_folder: Path, subtests: pytest.Subtests) -> None:
    """The first model has tied embeddings, the second an output of its own."""
    folders = {"gptq": quantized_folder(smollm2_folder, "gptq"), "exl2": exl2_folder(smollm2_folder)}
    command = [sys.executable, "-c", FOOTPRINT, *map(str, folders.values())]
    ran = subprocess.run(command, cwd=ROOT, env=with_standin(flash=False), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    accounts = [line.removeprefix("BYTES ") for line in ran.stdout.splitlines() if line.startswith("BYTES ")]
    for (kind, folder), account in zip(folders.items(), accounts, strict=True):
        with subtests.test(kind):
            reckoned, largest, largest_layer = json.loads(account)
            shape = Catalog(folder.parent).find(folder.name).shape
            assert shape is not None and shape.sizes.has_output == (kind == "exl2")
            _, card = placed(shape, options("ExLlamav2"), (24 * GIB,))
            assert card.weights == pytest.approx(reckoned, rel=0.01)
            _, first, second = placed(shape, options("ExLlamav2", gpu_split="0.02,9"), (GIB, 24 * GIB))
            assert first.weights and second.compute - first.compute == largest - largest_layer
            assert second.compute == card.compute > largest


def test_each_gpu_has_a_buffer_for_its_largest_unpacked_layer() -> None:
    """The output is on the last GPU; with autosplit each GPU has its buffer."""

    def compute(vocabulary: int, **form: object) -> list[int]:
        shape = replace(LLAMA, vocab_size=vocabulary, sizes=replace(LLAMA.sizes, elements=GIB))
        found = placed(shape, options("ExLlamav2", **form), (4 * GIB, 24 * GIB))
        return [each.compute - 3 * 4 * vocabulary for each in found[1:]]

    small, large = 8_000, 32_000
    output, network = 2 * large * 4096, 2 * 11008 * 4096
    split, auto = ({"gpu_split": "2,20"}, {"autosplit": True})
    assert compute(small, **split)[0] == compute(small, **split)[1] == compute(small, **auto)[0] > network
    assert compute(large, **split)[0] == compute(small, **split)[0]
    assert compute(large, **split)[1] == compute(small, **split)[1] + output - network
    assert compute(large, **auto) == [compute(large, **split)[1]] * 2
    assert compute(256_000)[0] == compute(small)[0] + GIB - network, "no more than that many weights at once"


def test_autosplit_is_proposed_if_the_first_gpu_is_too_small() -> None:
    devices = [Device("", 64 * GIB), Device("card", 5 * GIB), Device("card", 8 * GIB)]
    found = fit(EXLLAMA, LLAMA, options("ExLlamav2"), devices)
    assert found.short and {"autosplit": True} in found.remedies
    fitting = fit(EXLLAMA, LLAMA, options("ExLlamav2", autosplit=True), devices)
    assert not fitting.short
    assert {"autosplit": True} not in fit(EXLLAMA, LLAMA, options("ExLlamav2"), devices[:2]).remedies


def test_weights_that_fit_on_no_gpu_make_the_last_one_short() -> None:
    card = Device("card", 3 * GIB)
    found = fit(EXLLAMA, LLAMA, options("ExLlamav2"), [Device("", 64 * GIB), card])
    assert [part.verdict for part in found.parts] == ["fits", "short"]
    assert found.remedies == (), "nothing makes 4 GiB fit into 3"


def test_a_quantized_cache_or_a_shorter_context_is_proposed_if_it_helps() -> None:
    devices = [Device("", 64 * GIB), Device("card", 71 * GIB // 10)]
    found = fit(EXLLAMA, LLAMA, options("ExLlamav2"), devices)
    assert found.short
    assert found.remedies == ({"cache_8bit": True}, {"cache_4bit": True}, {"max_seq_len": 2048})
    for remedy in found.remedies:
        free = [int(0.9 * device.free) for device in devices]
        assert fits(placed(LLAMA, {**options("ExLlamav2"), **remedy}, free[1:]), free), remedy


def test_the_context_is_max_seq_len_or_the_models_own() -> None:
    assert context_length(LLAMA, options("ExLlamav2", compress_pos_emb=2)) == 8192
    assert context_length(LLAMA, options("ExLlamav2", max_seq_len=9000)) == 9000
