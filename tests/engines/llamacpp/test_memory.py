"""The memory estimate of a GGUF model, compared with llama.cpp's log and real workers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from operator import add
from pathlib import Path
from typing import Any

import pytest

from modules.engines.llamacpp.arguments import Build, arguments
from modules.engines.llamacpp.memory import estimate, freed, largest_context, placed
from modules.engines.memory import Estimate, fits
from modules.formats.gguf_header import GgufHeader, read_header
from modules.loaders.registry import Loader
from modules.options.option import Value
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import LLAMA, load, load_arguments
from tests.support.answers import answer, ask
from tests.support.gguf_files import ARRAY, BOOL, I32, MODEL, As, array, gguf

MIB = 1 << 20
MAMBA = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 0}
STATE = 4 * (3 * 128 + 16 * 128)
"""Bytes of the state of one layer for one request."""

Make = Callable[..., GgufHeader]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes the header of a model of 2 layers, 8 heads and 4 KV heads of 8 elements.

    `changes` replace its metadata.
    """

    def header(architecture: str = "llama", **changes: object) -> GgufHeader:
        own = {key.removeprefix("llama."): value for key, value in MODEL.items() if key.startswith("llama.")}
        common = {key: value for key, value in MODEL.items() if not key.startswith("llama.")}
        facts = {f"{architecture}.{key}": value for key, value in (own | changes).items()}
        path = tmp_path / "model.gguf"
        path.write_bytes(gguf({**common, "general.architecture": architecture, **facts}))
        return read_header(path)

    return header


def options(**form: object) -> dict[str, Value]:
    """Return load options: those of `form`, and the defaults of all others."""
    settings: Any = load_arguments(Path("model"), **{"parallel": 1, **form})["options"]
    return settings


def cache(header: GgufHeader, **form: object) -> int:
    return estimate(header, options(**form)).cache


# -- comparison with measurements -------------------------------------------------------------------------------------


def peak(worker: WorkerProcess) -> int:
    """Return the peak memory of the process, in bytes (VmHWM)."""
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@functools.cache
def idle_peak(model: Path) -> int:
    """Return the peak of a worker that has imported llama.cpp but loaded no model."""
    with closing(WorkerProcess()) as worker:
        ask(worker, "explain", **load_arguments(model))
        return peak(worker)


def filled_peak(model: Path, loader: Loader = LLAMA, **form: object) -> int:
    """Return the peak of a worker that has prefilled a prompt as long as its context."""
    with closing(WorkerProcess()) as worker:
        n_ctx = load(worker, model, loader, **form).context_length
        tokens = ask(worker, "encode", text="The quick brown fox jumps over the lazy dog. " * (n_ctx // 8))
        prompt = ask(worker, "decode", tokens=tokens[: n_ctx - 2])
        guidance = {"negative_prompt": prompt, "guidance_scale": 1.5} if form.get("cfg_cache") else {}
        done = answer(worker, prompt, max_new_tokens=1, **guidance).done
        assert done.prompt_tokens > n_ctx - 8
        return peak(worker)


@pytest.mark.parametrize(
    "form",
    [
        {"parallel": 8, "kv_unified": "off"},
        {"parallel": 1, "cache_4bit": True, "no_mmap": True},
        {"parallel": 1, "flash_attn": False},
    ],
    ids=str,
)
def test_a_real_worker_takes_the_estimated_memory(smollm2: Path, form: dict[str, object], has_amx: bool) -> None:
    form = {"n_ctx": 512, "no_mmap": has_amx, **form}  # VmHWM has a mapped file beside repacked weights
    estimated = estimate(read_header(smollm2), options(**form))
    measured = filled_peak(smollm2, **form) - idle_peak(smollm2)
    assert estimated.total == pytest.approx(measured, rel=0.1)
    assert estimated.total - estimated.weights == pytest.approx(measured - estimated.weights, rel=0.2)


@pytest.mark.parametrize(
    ("form", "mebibytes"), [({}, 45.0), ({"cache_8bit": True}, 23.91), ({"cache_4bit": True}, 12.66)]
)
def test_the_cache_of_a_real_model_is_what_llama_cpp_logs(
    smollm2: Path, form: dict[str, object], mebibytes: float
) -> None:
    """The expected sizes are from its line "KV buffer size"."""
    estimated = cache(read_header(smollm2), n_ctx=2048, **form)
    assert estimated / MIB == pytest.approx(mebibytes, abs=0.005)


@pytest.mark.parametrize(
    ("shape", "mebibytes"),
    [
        ({"embedding_length": 1024, "head_count": 16, "head_count_kv": 4, "feed_forward_length": 4096}, 16.26),
        ({"embedding_length": 1024, "head_count": 16, "head_count_kv": 16, "feed_forward_length": 2816}, 12.51),
        ({"expert_used_count": 8, "expert_feed_forward_length": 768}, 20.26),
        ({"expert_used_count": 4, "expert_feed_forward_length": 2048, "embedding_length": 768}, 27.01),
    ],
)
def test_the_graph_is_as_large_as_llama_cpp_logs(make: Make, shape: dict[str, int], mebibytes: float) -> None:
    """The sizes are from its line "compute buffer size", with n_outputs_max=1, n_ctx=512 and models of zeros."""
    heads = (("head_count", 8), ("head_count_kv", 2))
    attention = {f"attention.{key}": shape.pop(key, default) for key, default in heads}
    defaults = {"embedding_length": 512, "feed_forward_length": 1024}
    estimated = estimate(make(**defaults | shape | attention), options(n_ctx=512))
    assert estimated.compute / MIB == pytest.approx(mebibytes, rel=0.05)


VOCABULARIES = {  # 262,144 random tokens: bytes of the long ones and of the long merges, megabytes measured
    "BPE, 6 bytes": (261_887, 0, 32, 85.8),
    "BPE, 13 bytes": (261_887, 1_184_411, 1_602_388, 98.1),
    "BPE, 21 bytes": (261_887, 4_769_634, 5_146_020, 132.2),
    "SentencePiece, 8 bytes": (0, 2_448, 0, 48.4),
    "SentencePiece, 22 bytes": (0, 5_105_484, 0, 82.1),
}
"""Measured with one layer of 64 elements: the peak of a worker with 512 cells, less weights, cache and graph."""


def test_a_vocabulary_takes_what_was_measured(make: Make, subtests: pytest.Subtests) -> None:
    for name, (merges, long_tokens, long_merges, megabytes) in VOCABULARIES.items():
        counts = {"tokenizer.ggml.tokens": 262_144, "tokenizer.ggml.merges": merges}
        long_strings = {"tokenizer.ggml.tokens": long_tokens, "tokenizer.ggml.merges": long_merges}
        header = make()
        header = dataclasses.replace(header, numbers={**header.numbers, **counts}, long_strings=long_strings)
        with subtests.test(name):
            assert estimate(header, options(n_ctx=512)).other / 1e6 == pytest.approx(megabytes, rel=0.05)


# -- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "block_bytes"), [({}, 64), ({"cache_8bit": True}, 34), ({"cache_4bit": True, "cache_8bit": True}, 18)]
)
def test_every_cell_holds_a_key_and_a_value_in_each_layer(
    make: Make, form: dict[str, object], block_bytes: int
) -> None:
    assert cache(make(), n_ctx=512, **form) == 512 * 2 * 2 * block_bytes  # 4 heads of 8 elements are a block


def test_the_context_is_rounded_up_to_256_and_0_is_the_models_own(make: Make) -> None:
    assert cache(make(), n_ctx=257) == cache(make(), n_ctx=512) == 2 * cache(make(), n_ctx=256)
    assert cache(make(), n_ctx=0) == cache(make(), n_ctx=4096) == 16 * cache(make(), n_ctx=256)


def test_parallel_requests_share_the_cells_unless_they_have_caches_of_their_own(make: Make) -> None:
    assert cache(make(), n_ctx=512, parallel=8) == cache(make(), n_ctx=512)
    assert cache(make(), n_ctx=512, parallel=8, kv_unified="off") == 8 * cache(make(), n_ctx=512)


def test_each_layer_may_have_its_own_number_of_heads(make: Make) -> None:
    heads = As(ARRAY, array(I32, [2, 0, 4]))
    header = make(block_count=3, **{"attention.head_count_kv": heads, "attention.value_length": 32})
    assert cache(header, n_ctx=256) == 256 * 2 * (2 + 4) * (8 + 32)
    assert cache(header, n_ctx=256, flash_attn=False) == 256 * 2 * (
        (2 + 4) * 8 + 3 * 4 * 32
    )  # every layer has as many value heads as the largest


def test_a_sliding_window_saves_no_memory_but_may_have_other_heads(make: Make) -> None:
    window = {
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": As(ARRAY, array(BOOL, [True, False])),
    }
    assert cache(make("gemma3", **window), n_ctx=4096) == cache(make(), n_ctx=4096)
    heads = {"attention.key_length_swa": 2, "attention.value_length_swa": 2}
    assert cache(make("gemma4", **window, **heads), n_ctx=256) == 256 * 2 * 4 * 2 * (8 + 2)


def test_layers_that_share_keys_or_predict_further_tokens_have_no_cache(make: Make) -> None:
    layer = cache(make(block_count=1), n_ctx=256)
    assert cache(make(block_count=6, **{"attention.shared_kv_layers": 4}), n_ctx=256) == 2 * layer
    assert cache(make(block_count=6, nextn_predict_layers=1), n_ctx=256) == 5 * layer
    assert cache(make("gemma3n", block_count=30), n_ctx=256) == 20 * layer


def test_latent_attention_keeps_keys_only(make: Make) -> None:
    latent = {"attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512}
    header = make("deepseek2", **latent, **{"attention.key_length_mla": 192})
    assert cache(header, n_ctx=256) == 256 * 2 * 576 * 2


def test_a_recurrent_model_keeps_one_state_per_request(make: Make) -> None:
    header = make("mamba", **MAMBA)
    assert cache(header, n_ctx=256) == cache(header, n_ctx=4096) == 2 * STATE
    assert cache(header, n_ctx=256, parallel=8) == 8 * 2 * STATE


def test_a_hybrid_model_has_states_in_some_layers_and_keys_in_others(make: Make) -> None:
    layer = cache(make(block_count=1), n_ctx=256)
    assert (
        cache(make("qwen3next", block_count=8, full_attention_interval=4, **MAMBA), n_ctx=256) == 2 * layer + 6 * STATE
    )
    pattern = As(ARRAY, array(BOOL, [True, False, True]))
    header = make("qwen35", block_count=3, **{"attention.recurrent_layers": pattern}, **MAMBA)
    assert cache(header, n_ctx=256) == layer + 2 * STATE
    heads = As(ARRAY, array(I32, [0, 4, 0]))
    header = make("jamba", block_count=3, **{"attention.head_count_kv": heads}, **MAMBA)
    assert cache(header, n_ctx=256) == cache(header, n_ctx=256, flash_attn=False) == layer + 2 * STATE
    assert cache(make("falcon-h1", **MAMBA), n_ctx=256) == 2 * layer + 2 * STATE


# -- options ----------------------------------------------------------------------------------------------------------


def test_sliding_windows_save_no_memory_because_swa_full_keeps_its_default() -> None:
    calls = arguments(Path("model"), options(n_ctx=4096), Build(gpu_offload=True, max_devices=1))
    assert "swa_full" not in calls["llama_init_from_model"] and calls["llama_init_from_model"]["kv_unified"]


def parts(estimated: Estimate) -> list[int]:
    return [estimated.weights, estimated.cache, estimated.compute, estimated.other]


def test_the_weights_have_the_size_of_the_file_and_the_total_is_the_sum(make: Make) -> None:
    header = make()
    estimated = estimate(header, options(n_ctx=512))
    assert estimated.weights == header.size
    assert estimated.total == sum(parts(estimated))


def test_weights_that_amx_multiplies_are_copies_and_so_is_an_output_that_equals_the_embeddings(
    real: GgufHeader, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings, size = real.sizes["token_embd"], make().size
    assert freed(real, options())[0] == estimate(real, options()).total - real.size
    monkeypatch.setattr("modules.engines.llamacpp.memory.uses_amx", lambda: True)
    assert estimate(real, options()).weights == real.size + embeddings
    assert freed(real, options())[0] == estimate(real, options()).total, "nothing of it is mapped"
    for quantization, grown in (("Q8_0", 38 / 34), ("Q4_K_M", 148 / 144), ("Q6_K", 1), ("BF16", 1)):
        header = dataclasses.replace(make(), quantization=quantization)
        copied = header.sizes["token_embd"] if quantization != "BF16" else 0
        assert estimate(header, options()).weights == pytest.approx((size + copied) * grown, abs=1)


# The width, the side of a picture in pixels, further metadata, and MiB of the compute buffer that mtmd logs.
VISION_BUFFERS = [
    (1152, 896, {}, 121.25),
    (1280, 560, {"vision.spatial_merge_size": 2}, 267.08),
    (1024, 336, {}, 17.05),
]


def test_the_vision_part_takes_its_size_and_a_buffer_as_large_as_mtmd_logs(
    make: Make, subtests: pytest.Subtests
) -> None:
    for width, side, further, mebibytes in VISION_BUFFERS:
        with subtests.test(width=width):
            numbers = {"vision.embedding_length": width, "vision.image_size": side, "vision.patch_size": 14, **further}
            vision = dataclasses.replace(make("clip"), numbers=numbers, size=10**8)
            header = dataclasses.replace(make(), projectors={"mmproj.gguf": vision})
            without, beside = (estimate(header, options(mmproj=name)) for name in ("none", "mmproj.gguf"))
            buffer = (beside.other - without.other - 10**8) / 2**20
            assert mebibytes <= buffer <= 1.25 * mebibytes
            assert estimate(header, options(mmproj="absent.gguf")).other == without.other


def test_a_draft_model_takes_what_it_takes_alone_with_its_own_options(make: Make) -> None:
    large, small = make(), make(block_count=1)
    both = dataclasses.replace(large, drafts={"small.gguf": small})
    drafting = {"model_draft": "small.gguf", "gpu_layers_draft": 1, "n_ctx": 2048, "n_gpu_layers": -1, "parallel": 2}
    for changes, n_ctx in (({}, 2048), ({"ctx_size_draft": 512}, 512), ({"kv_unified": "off"}, 4096)):
        alone = placed(large, options(**drafting | changes), [GIB])
        beside = placed(small, options(n_ctx=n_ctx, n_gpu_layers=1, parallel=2), [GIB])
        assert placed(both, options(**drafting | changes), [GIB]) == tuple(map(add, alone, beside))
    assert largest_context(both, options(**drafting), [sum(parts(alone[0])), GIB]) < 2048


def test_the_vocabulary_and_the_logits_of_each_request_take_memory(smollm2: Path) -> None:
    header = read_header(smollm2)
    single, eight = (estimate(header, options(n_ctx=512, parallel=count)) for count in (1, 8))
    assert eight.total - single.total == 7 * 4 * 49_152
    assert 17 * 10**6 < single.other < 24 * 10**6  # measured: the vocabulary alone is 17.1 MB


def random_options() -> Iterator[dict[str, object]]:
    """Yield random options, the same in every run."""
    rng = random.Random(7)
    for _ in range(30):
        switches = {key: rng.random() < 0.5 for key in ("cache_8bit", "cache_4bit", "flash_attn", "no_mmap", "cpu")}
        yield {"n_batch": rng.randint(1, 2048), "parallel": rng.randint(1, 64), **switches}


RANDOM_OPTIONS = list(random_options())


def test_memory_grows_with_every_step_of_the_context(smollm2: Path, subtests: pytest.Subtests) -> None:
    header = read_header(smollm2)
    for form in RANDOM_OPTIONS:
        with subtests.test(form=form):
            estimates = [estimate(header, options(n_ctx=n_ctx, **form)) for n_ctx in range(256, 8193, 256)]
            for smaller, larger in itertools.pairwise(estimates):
                assert all(part <= larger_part for part, larger_part in zip(parts(smaller), parts(larger), strict=True))
                assert smaller.total < larger.total


# -- GPUs: expected values were calculated by hand from llama.cpp's llama_model::load_tensors --------------------------

GIB = 1 << 30


@pytest.fixture
def real(smollm2: Path) -> GgufHeader:
    """Return the demo model's header: 30 equal layers; the output copies the input, which stays in main memory."""
    return read_header(smollm2)


def test_without_gpus_or_gpu_layers_everything_is_in_main_memory(real: GgufHeader) -> None:
    without_gpu = estimate(real, options())
    assert placed(real, options(n_gpu_layers=-1)) == (without_gpu,)
    for form in ({"n_gpu_layers": 0}, {"n_gpu_layers": -1, "cpu": True}):
        main, gpu = placed(real, options(**form), [8 * GIB])
        assert main == without_gpu and gpu.total == 0


def test_the_output_goes_to_the_gpu_first_and_then_the_last_layers(real: GgufHeader) -> None:
    layers = [real.sizes[f"blk.{number}"] for number in range(30)]
    copy = real.sizes["token_embd"] + real.sizes["output_norm"]
    for n_gpu_layers, offloaded in (
        (1, []),
        (4, layers[27:]),
        (30, layers[1:]),
        (31, layers),
        (-1, layers),
        (256, layers),
    ):
        main, gpu = placed(real, options(n_gpu_layers=n_gpu_layers), [8 * GIB])
        assert gpu.weights == copy + sum(offloaded)
        assert main.weights == real.size - sum(offloaded) - real.sizes["output_norm"]


def test_the_cache_is_on_the_device_of_its_layers_unless_no_offload_kqv_is_set(real: GgufHeader) -> None:
    total = cache(real)
    main, gpu = placed(real, options(n_gpu_layers=11), [8 * GIB])
    assert (main.cache, gpu.cache) == (total * 20 // 30, total * 10 // 30)
    main, gpu = placed(real, options(n_gpu_layers=11, no_offload_kqv=True), [8 * GIB])
    assert (main.cache, gpu.cache) == (total, 0)


def test_several_gpus_share_the_layers_by_free_memory_or_tensor_split(real: GgufHeader) -> None:
    layer = real.sizes["blk.0"]
    _, first, second = placed(real, options(n_gpu_layers=-1), [6 * GIB, 2 * GIB])
    assert first.weights == 24 * layer  # the layers below 0.75 of 31
    assert first.cache == 4 * second.cache
    _, first, second = placed(real, options(n_gpu_layers=-1, tensor_split="0,1"), [6 * GIB, 2 * GIB])
    assert first.total == 0 and second.cache == cache(real)
    same = [placed(real, options(n_gpu_layers=-1, tensor_split=split), [GIB, GIB]) for split in ("30,70", "3,7,90")]
    assert same[0] == same[1]


def test_a_gpu_with_layers_needs_compute_buffers(real: GgufHeader) -> None:
    main, gpu = placed(real, options(n_gpu_layers=-1), [8 * GIB])
    assert gpu.compute > 0 == main.compute and gpu.other > 0
    assert main.other == estimate(real, options()).other


def test_a_model_fits_if_every_device_has_enough_memory(real: GgufHeader) -> None:
    chosen = options(n_gpu_layers=-1)
    main, gpu = needs = placed(real, chosen, [8 * GIB])
    assert fits(needs, [main.total, gpu.total])
    assert not fits(needs, [main.total - 1, gpu.total])
    assert not fits(needs, [main.total, gpu.total - 1])
    context = largest_context(real, chosen, [main.total, gpu.total - 1])
    assert context == 8192 - 256


# -- the largest context that fits ------------------------------------------------------------------------------------


def test_the_largest_context_fits_and_the_next_one_does_not(smollm2: Path, subtests: pytest.Subtests) -> None:
    header = read_header(smollm2)
    for form in RANDOM_OPTIONS:
        with subtests.test(form=form):
            rng = random.Random(11)
            bounds = [estimate(header, options(n_ctx=n_ctx, **form)).total for n_ctx in (256, 8192)]
            for free in (*bounds, *(rng.randint(*bounds) for _ in range(5))):
                context = largest_context(header, options(n_ctx=0, **form), [free])
                assert context % 256 == 0 and 256 <= context <= 8192
                assert estimate(header, options(n_ctx=context, **form)).total <= free
                assert context == 8192 or estimate(header, options(n_ctx=context + 256, **form)).total > free


def test_the_largest_context_is_n_ctx_if_that_fits_and_0_if_nothing_fits(smollm2: Path) -> None:
    header = read_header(smollm2)
    assert largest_context(header, options(n_ctx=2048), [10**12]) == 2048
    assert largest_context(header, options(n_ctx=1000), [10**12]) == 1024  # llama.cpp rounds it up
    assert largest_context(header, options(n_ctx=0), [10**12]) == 8192
    least = estimate(header, options(n_ctx=256)).total
    assert largest_context(header, options(n_ctx=2048), [least]) == 256
    assert largest_context(header, options(n_ctx=2048), [least - 1]) == 0


# -- untrusted headers ------------------------------------------------------------------------------------------------


CONTRADICTORY: list[dict[str, object]] = [
    {"block_count": 2**32 - 1, "context_length": 2**32 - 1},
    {"attention.head_count": 0, "attention.head_count_kv": 0},
    {"block_count": 1, "nextn_predict_layers": 5},
    {"feed_forward_length": As(ARRAY, array(I32, [])), "expert_used_count": As(ARRAY, array(I32, [-1]))},
    {"attention.shared_kv_layers": 99},
    {"full_attention_interval": As(ARRAY, array(I32, []))},
    {"attention.key_length_swa": As(I32, -5), "ssm.state_size": As(I32, -1), "ssm.conv_kernel": 0},
    {"attention.sliding_window": "wide", "feed_forward_length": 1.5, "expert_used_count": True},
    {"attention.head_count_kv": As(ARRAY, array(I32, [4]))},
]


def test_a_contradictory_header_gets_an_estimate(make: Make, subtests: pytest.Subtests) -> None:
    for changes in CONTRADICTORY:
        with subtests.test(changes=changes):
            header = make("llama", **changes)
            began = time.process_time()
            assert min(parts(estimate(header, options()))) >= 0
            assert largest_context(header, options(), [10**9]) >= 0
            assert time.process_time() - began < 1
