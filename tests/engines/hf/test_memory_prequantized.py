"""What a quantised folder takes of memory, before it is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.core.paths import ROOT
from modules.engines.hf.memory_prequantized import Quantised, context_length, placed, within
from modules.engines.llamacpp.memory import Estimate
from modules.formats.model_shape import ModelShape, TensorSizes, measure_tensors, sum_sizes
from modules.loaders.availability import overlay_of
from modules.loaders.load_settings import settle, values
from modules.loaders.registry import LOADERS, candidates
from modules.options.option import Value
from modules.planning.fit import Device, fit
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load, load_arguments
from tests.engines.hf.test_memory import PIECE, REST
from tests.engines.llamacpp.test_memory import peak
from tests.support.answers import answer, ask
from tests.support.exl2_folder import exl2_folder, with_standin
from tests.support.quantised_folders import KINDS, quantised_folder

GIB = 1 << 30
READ = PIECE + REST
"""Tokens: no step takes more than that of a whole piece."""
LAYER = {
    "gptq": {"qweight": [576 // 8, 1536], "qzeros": [9, 192], "scales": [9, 1536], "g_idx": [576]},
    "awq": {"qweight": [576, 1536 // 8], "qzeros": [9, 192], "scales": [9, 1536]},
    "exl2": {"q_weight": [300, 1536], "q_invperm": [576], "q_scale": [9, 192], "q_scale_max": [9], "q_groups": [18]},
}
"""Of 576 inputs and 1536 outputs; in 4 bits and groups of 64, or somehow."""
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
TOKEN = 2 * 32 * 32 * 128 * 2
"""Bytes of LLAMA's keys and values of one token, in 16 bits."""


def options(loader: str, **form: object) -> dict[str, Value]:
    return values(settle(LOADERS[loader], model={}, saved={}, flags={}, form=form))


def told(loader: str, gpus: tuple[int, ...] = (), **form: object) -> tuple[Estimate, ...]:
    return placed(Quantised(LLAMA, loader), options(loader, **form), gpus)


# -- what the files tell -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", LAYER)
def test_a_packed_layer_counts_by_its_bytes_and_by_what_it_stands_for(method: str) -> None:
    dtypes = {"scales": "F16", "q_scale_max": "F16", "q_invperm": "I16", "q_groups": "I16"}
    table = {f"a.{kind}": {"shape": shape, "dtype": dtypes.get(kind, "I32")} for kind, shape in LAYER[method].items()}
    table["embed.weight"] = {"shape": [10, 576], "dtype": "F16"}
    found = measure_tensors(table)
    assert (found.elements, found.dtype) == (5760, "F16")
    assert (found.packed_weights, found.largest_packed) == (576 * 1536, 576 * 1536)
    words = sum(a[0] * (a[1] if len(a) > 1 else 1) * (2 if k in dtypes else 4) for k, a in LAYER[method].items())
    assert found.packed_bytes == words


def test_the_oldest_gptq_files_have_no_order_and_are_taken_for_4_bits() -> None:
    kinds = {kind: shape for kind, shape in LAYER["gptq"].items() if kind != "g_idx"}
    found = measure_tensors({f"a.{kind}": {"shape": shape, "dtype": "I32"} for kind, shape in kinds.items()})
    assert found.packed_weights == 576 * 1536


@pytest.mark.parametrize("shape", [[], [3], [1, 2, 3]])
def test_a_packed_layer_of_no_shape_is_nothing(shape: list[int]) -> None:
    assert measure_tensors({"a.qweight": {"shape": shape, "dtype": "I32"}}).packed_weights == 0


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("lm_head.weight", True),
        ("lm_head.qweight", True),
        ("lm_head.q_weight", True),
        ("language_model.lm_head.weight", True),
        ("output.weight", True),  # InternLM2's
        ("model.layers.0.attention.output.weight", False),
        ("model.embed_tokens.weight", False),
    ],
)
def test_an_output_of_its_own_is_known_by_its_names(name: str, is_one: bool) -> None:
    found = measure_tensors({name: {"shape": [8, 8], "dtype": "F16"}})
    assert found.has_output == is_one
    assert (
        sum_sizes([measure_tensors({"model.norm.weight": {"shape": [8], "dtype": "F16"}}), found]).has_output == is_one
    )


# -- by loader ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [each.name for each in candidates("gptq")])
def test_packed_weights_stay_packed_and_the_rest_is_in_16_bits(loader: str) -> None:
    total = sum(each.weights for each in told(loader, (24 * GIB,)))
    assert total == 4 * GIB + GIB // 2
    assert all(each.total < 12 * GIB for each in told(loader, (24 * GIB,)))


def test_exllama_makes_its_cache_at_once_in_as_many_bits_as_asked_for() -> None:
    def cache(**form: object) -> int:
        return told("ExLlamav2", (24 * GIB,), **form)[1].cache

    assert cache() == 4096 * TOKEN
    assert cache(max_seq_len=1024) == 1024 * TOKEN
    layer = 4096 * TOKEN // 32
    assert cache(cache_8bit=True) == 4096 * TOKEN * 17 // 32 + layer, "with the scales, and a layer unpacked"
    assert cache(cache_4bit=True) == pytest.approx(4096 * TOKEN * 4.5 / 16 + layer)
    assert cache(cfg_cache=True) == 2 * 4096 * TOKEN
    assert cache(cfg_cache=True, cache_8bit=True) == 2 * cache(cache_8bit=True)


def test_exllama_leaves_the_embeddings_in_main_memory_and_splits_the_rest_as_asked_for() -> None:
    main, first, second = told("ExLlamav2_HF", (24 * GIB, 24 * GIB), gpu_split="3,8")
    assert main.weights == 32_000 * 4096 * 2
    assert first.weights == 3 * GIB
    assert first.weights + second.weights + main.weights == 4 * GIB + GIB // 2
    assert first.cache > second.cache > 0


def test_exllama_takes_the_first_card_alone_unless_it_is_told_otherwise() -> None:
    cards = (5 * GIB, 24 * GIB, 24 * GIB)
    _, first, *others = told("ExLlamav2", cards)
    assert first.weights > 4 * GIB
    assert [each.total for each in others] == [0, 0]
    _, *spread = told("ExLlamav2", cards, autosplit=True, gpu_split="1,1,9")
    assert sum(each.weights for each in spread) == first.weights
    assert all(each.weights > GIB for each in spread[:2]) and spread[2].total == 0
    assert spread[0].total == pytest.approx(5 * GIB, rel=0.01), "the cache of its layers included"


def test_embeddings_that_serve_as_the_output_are_in_main_memory_and_on_the_card() -> None:
    tied = replace(LLAMA, sizes=replace(LLAMA.sizes, has_output=False))
    main, card = placed(Quantised(tied, "ExLlamav2"), options("ExLlamav2"), (24 * GIB,))
    own_main, own_card = told("ExLlamav2", (24 * GIB,))
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
"""Bytes, by the package's own account: of what is not the embeddings, to unpack any layer, and any but the output."""


def test_what_exllama_puts_on_cards_is_what_the_package_reckons(
    smollm2_folder: Path, subtests: pytest.Subtests
) -> None:
    """The first folder has no output of its own, the second has one."""
    folders = {"gptq": quantised_folder(smollm2_folder, "gptq"), "exl2": exl2_folder(smollm2_folder)}
    command = [sys.executable, "-c", FOOTPRINT, *map(str, folders.values())]
    ran = subprocess.run(command, cwd=ROOT, env=with_standin(flash=False), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    accounts = [line.removeprefix("BYTES ") for line in ran.stdout.splitlines() if line.startswith("BYTES ")]
    for (kind, folder), account in zip(folders.items(), accounts, strict=True):
        with subtests.test(kind):
            reckoned, largest, largest_layer = json.loads(account)
            shape = Catalog(folder.parent).find(folder.name).shape
            assert shape is not None and shape.sizes.has_output == (kind == "exl2")
            model = Quantised(shape, "ExLlamav2")
            _, card = placed(model, options("ExLlamav2"), (24 * GIB,))
            assert card.weights == pytest.approx(reckoned, rel=0.01)
            _, first, second = placed(model, options("ExLlamav2", gpu_split="0.02,9"), (GIB, 24 * GIB))
            assert first.weights and second.compute - first.compute == largest - largest_layer
            assert second.compute == card.compute > largest


def test_exllama_keeps_room_to_unpack_the_largest_layer_of_a_card() -> None:
    """That of the output is on the last card; by autosplit on each."""

    def compute(vocabulary: int, **form: object) -> list[int]:
        shape = replace(LLAMA, vocab_size=vocabulary, sizes=replace(LLAMA.sizes, elements=GIB))
        found = placed(Quantised(shape, "ExLlamav2"), options("ExLlamav2", **form), (4 * GIB, 24 * GIB))
        return [each.compute - 3 * 4 * vocabulary for each in found[1:]]

    small, large = 8_000, 32_000
    output, network = 2 * large * 4096, 2 * 11008 * 4096
    split, auto = ({"gpu_split": "2,20"}, {"autosplit": True})
    assert compute(small, **split)[0] == compute(small, **split)[1] == compute(small, **auto)[0] > network
    assert compute(large, **split)[0] == compute(small, **split)[0]
    assert compute(large, **split)[1] == compute(small, **split)[1] + output - network
    assert compute(large, **auto) == [compute(large, **split)[1]] * 2
    assert compute(256_000)[0] == compute(small)[0] + GIB - network, "no more than that many weights at once"


def test_all_cards_are_proposed_where_the_first_does_not_do() -> None:
    devices = [Device("", 64 * GIB), Device("card", 5 * GIB), Device("card", 8 * GIB)]
    found = fit(Quantised(LLAMA, "ExLlamav2"), options("ExLlamav2"), devices)
    assert found.short and {"autosplit": True} in found.remedies
    fitting = fit(Quantised(LLAMA, "ExLlamav2"), options("ExLlamav2", autosplit=True), devices)
    assert not fitting.short
    assert {"autosplit": True} not in fit(Quantised(LLAMA, "ExLlamav2"), options("ExLlamav2"), devices[:2]).remedies


def test_what_does_not_fit_on_the_cards_makes_the_last_one_short() -> None:
    card = Device("card", 3 * GIB)
    found = fit(Quantised(LLAMA, "ExLlamav2"), options("ExLlamav2"), [Device("", 64 * GIB), card])
    assert [part.verdict for part in found.parts] == ["fits", "short"]
    assert found.remedies == (), "nothing makes 4 GiB fit into 3"


def test_a_shorter_or_a_smaller_cache_is_proposed_where_it_helps() -> None:
    devices = [Device("", 64 * GIB), Device("card", 71 * GIB // 10)]
    found = fit(Quantised(LLAMA, "ExLlamav2"), options("ExLlamav2"), devices)
    assert found.short
    assert found.remedies == ({"cache_8bit": True}, {"cache_4bit": True}, {"max_seq_len": 2048})
    for remedy in found.remedies:
        free = [int(0.9 * device.free) for device in devices]
        assert within(Quantised(LLAMA, "ExLlamav2"), {**options("ExLlamav2"), **remedy}, free), remedy


def test_on_the_processor_the_output_is_in_32_bits() -> None:
    (cpu,) = told("AutoGPTQ")
    (_, card) = told("AutoGPTQ", (24 * GIB,))
    assert card.weights == 4 * GIB + GIB // 2 == cpu.weights - 2 * 32_000 * 4096
    assert told("AutoGPTQ", (24 * GIB,), cpu=True)[0].weights == cpu.weights
    assert told("AutoGPTQ", (24 * GIB,), gpu_memory="2")[0].weights == card.weights - 2 * GIB


def test_transformers_calculates_in_32_bits_on_the_processor_unless_bf16_is_asked_for() -> None:
    def told_of(gpus: tuple[int, ...] = (), **form: object) -> tuple[int, int]:
        found = told("Transformers", gpus, **form)
        return sum(each.weights for each in found), sum(each.cache for each in found)

    wide, narrow = told_of(), told_of(bf16=True)
    assert narrow == told_of((24 * GIB,)) == told_of((24 * GIB,), bf16=True) == (4 * GIB + GIB // 2, wide[1] // 2)
    assert wide == told_of(bf16=True, cpu=True) == told_of((24 * GIB,), cpu=True) == (5 * GIB, 2 * narrow[1])


def test_where_gptqmodel_has_no_kernel_a_layer_is_unpacked() -> None:
    def compute(bits: int, gpus: tuple[int, ...] = ()) -> int:
        shape = replace(LLAMA, sizes=replace(LLAMA.sizes, packed_bytes=bits * GIB))
        return placed(Quantised(shape, "Transformers"), options("Transformers"), gpus)[-1].compute

    assert compute(8) == compute(3) == compute(4) + 14 * LLAMA.sizes.largest_packed
    assert compute(8, (24 * GIB,)) == compute(4, (24 * GIB,))


def test_what_auto_gptq_takes_is_what_was_measured() -> None:
    """The peak (VmHWM) of a worker that has answered 21 tokens, less that of one that has loaded nothing: 681 and 738
    million bytes in 4 and 8 bits. The pages of the files, which the system can take back, are told by themselves."""
    layers = {"packed_weights": 106_168_320, "largest_packed": 884_736, "elements": 28_347_456, "dtype": "BF16"}
    smollm2 = {
        "attention_layers": 30,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "heads": 9,
        "kv_heads": 3,
        "head_dim": 64,
    }
    for packed, size, measured in ((57_500_000, 114_000_000, 681e6), (111_400_000, 168_000_000, 738e6)):
        sizes = TensorSizes(packed_bytes=packed, **layers)
        small = replace(LLAMA, size=size, sizes=sizes, vocab_size=49_152, context_length=8192, **smollm2)
        (told,) = placed(Quantised(small, "AutoGPTQ"), options("AutoGPTQ"), tokens=21)
        assert told.total == pytest.approx(measured, rel=0.1)
        assert 50e6 < told.spare <= size


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
def test_a_real_folder_takes_what_was_estimated(
    smollm2_folder: Path, shallow_folder: Path, loader: str, kind: str
) -> None:
    """The peak of a worker that has read a long prompt, less that of one that has imported none of the libraries. In 8
    bits gptqmodel takes a second for each layer: there the first layers do."""
    form = {"bf16": True} if loader == "bf16" else {}
    folder = quantised_folder(shallow_folder if kind == "gptq-8bit" else smollm2_folder, kind)
    row = LOADERS["Transformers" if form else loader]
    own = overlay_of(row, KINDS[kind].method)
    with closing(WorkerProcess(own.folder if own else None)) as worker:
        ask(worker, "explain", **load_arguments(folder, row))
        empty = peak(worker)
        load(worker, folder, row, **form)
        text = ask(worker, "encode", text="The quick brown fox jumps over the lazy dog. " * 128)
        read = answer(worker, ask(worker, "decode", tokens=text[: READ - 2]), max_new_tokens=1).done.prompt_tokens
        taken = peak(worker) - empty
    shape = Catalog(folder.parent).find(folder.name).shape
    assert shape is not None and READ - 24 < read < READ
    (said,) = placed(Quantised(shape, row.name), options(row.name, **form), tokens=READ)
    assert said.total == pytest.approx(taken, rel=0.1)


def test_the_context_is_the_one_asked_for_or_the_models_own() -> None:
    assert context_length(Quantised(LLAMA, "AutoGPTQ"), options("AutoGPTQ")) == 4096
    assert context_length(Quantised(LLAMA, "AutoAWQ"), options("AutoAWQ", max_seq_len=512)) == 512
    assert context_length(Quantised(LLAMA, "ExLlamav2"), options("ExLlamav2", compress_pos_emb=2)) == 8192


def test_the_catalogue_tells_the_shape_of_a_quantised_folder(smollm2_folder: Path) -> None:
    folder = quantised_folder(smollm2_folder, "gptq")
    found = Catalog(folder.parent).find(folder.name).shape
    assert found is not None and found.method == "gptq"
    assert found.sizes.packed_weights == 30 * (576 * 576 * 2 + 576 * 192 * 2 + 3 * 576 * 1536)
    assert found.sizes.elements == 49_152 * 576 + (2 * 30 + 1) * 576
