"""The stand-in for exllamav2's compiled extension, and the EXL2 folder that is written with it.

They are compared with transformers in float32 on the same weights, with a second implementation of the format, and, for
the samplers, with results of the extension's own cpp/sampling.cpp, which was compiled by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.exl2_folder import INSTALLED, dequantized, exl2_folder, load_file, plain, stream
from tests.support.exllamav2_forked import function_results, probe
from tests.support.exllamav2_functions import BITS, POINTS, SAMPLER_SETTINGS, TEXTS, levels
from tests.support.hf_logits import logits_of
from tests.support.quantized_folders import plain as plain_gptq
from tests.support.quantized_folders import quantized_folder

needs_exllamav2 = pytest.mark.skipif(not INSTALLED, reason="exllamav2 is not in overlays/exllamav2")
TEXT = """The old harbour town lies between two hills, and in the morning the fishermen bring home what they have \
caught. My favourite colour is ultraviolet green, said the painter, who had come from Paris to paint the sea."""
PROMPTS = ["The capital of France is", "1, 2, 3, 4, 5,"]
REPETITIVE = "red, green, red, green, red, green, red, green, red,"  # the next words are certain
FLOAT16 = 0.12  # the largest error of a logit in float16 after the first layers
ALL_LAYERS = 0.4  # the same after all layers
CACHES = {"": 0.0, "Q8": 0.2, "Q6": 1.5, "Q4": 3.0}  # the largest additional error of each cache
FP8 = 4.5

EXPECTED_SHARES = {
    "neutral": [0.1623, 0.0083, 0.4412, 0.0362, 0.2675, 0.003, 0.0597, 0.0217],
    "temperature 0": [0, 0, 1, 0, 0, 0, 0, 0],
    "temperature": [0.0885, 0.0003, 0.653, 0.0045, 0.2402, 0, 0.012, 0.0015],
    "temperature last": [0.2542, 0, 0.4193, 0, 0.3265, 0, 0, 0],
    "top_k": [0.1862, 0, 0.5065, 0, 0.3073, 0, 0, 0],
    "top_p": [0, 0, 0.5563, 0, 0.3372, 0.0035, 0.0752, 0.0278],
    "top_a": [0.1862, 0, 0.5065, 0, 0.3073, 0, 0, 0],
    "min_p": [0.1862, 0, 0.5065, 0, 0.3073, 0, 0, 0],
    "tfs": [0.1742, 0, 0.474, 0, 0.2878, 0, 0.064, 0],
    "typical": [0.3775, 0, 0, 0, 0.6225, 0, 0, 0],
    "mirostat": [0, 0, 0.6225, 0, 0.3775, 0, 0, 0],
    "dynatemp": [0.1722, 0.0155, 0.3847, 0.0517, 0.2575, 0.0067, 0.0772, 0.0343],
    "smoothing": [0.2323, 0.0005, 0.3463, 0.0285, 0.3132, 0, 0.07, 0.0092],
    "xtc": [0.3598, 0.0043, 0.636, 0, 0, 0, 0, 0],
    "skew": [0.2298, 0.0132, 0.2595, 0.0578, 0.3075, 0.0045, 0.092, 0.0357],
}
"""Sampled shares of each token by the extension of version 0.3.2, whose top_p and XTC are not the usual ones."""


@pytest.fixture(scope="module")
def results(backend: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of single functions."""
    return function_results(tmp_path_factory.mktemp("functions"))


@pytest.fixture(scope="module")
def folders(shallow_folder: Path) -> dict[str, Path]:
    """Return the first layers of the demo model in every format."""
    return {
        "fp16": shallow_folder,
        "gptq": quantized_folder(shallow_folder, "gptq"),
        "exl2": exl2_folder(shallow_folder),
    }


@pytest.fixture(scope="module")
def complete_folders(smollm2_folder: Path) -> dict[str, Path]:
    """Return the complete demo model in every format."""
    return {"fp16": smollm2_folder, "exl2": exl2_folder(smollm2_folder)}


@pytest.fixture(scope="module")
def tokens(smollm2_folder: Path) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(smollm2_folder / "tokenizer.json")).encode(TEXT).ids
    return ids


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path], shallow_loras: Path, tokens: list[int]) -> dict[str, Any]:
    """Return float32 logits of transformers by the folder's name, and with the LoRA by that name and "green"."""
    floats = {"fp16": folders["fp16"], "gptq": plain_gptq(folders["gptq"]), "exl2": plain(folders["exl2"])}
    return logits_of(tokens, floats, {"green": shallow_loras / "green"})


@pytest.fixture(scope="module")
def expected_of_all_layers(complete_folders: dict[str, Path], tokens: list[int]) -> dict[str, Any]:
    folders = {"fp16": complete_folders["fp16"], "exl2": plain(complete_folders["exl2"])}
    return logits_of(tokens, folders, {})


ProbeResult = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def paged(
    complete_folders: dict[str, Path], tokens: list[int], tmp_path_factory: pytest.TempPathFactory
) -> ProbeResult:
    """Return the logits of the complete EXL2 model, and its answers with flash-attention."""
    work, prompts = tmp_path_factory.mktemp("paged"), [*PROMPTS, REPETITIVE]
    request = {"tokens": tokens, "prompts": prompts, "cache": "Q8", "caches": ["8bit"]}
    return probe(complete_folders["exl2"], work, flash=True, **request)


# -- without a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_levels_are_packed_into_a_bit_stream_and_unpacked_again(results: dict[str, Any], bits: int) -> None:
    assert np.array_equal(stream(results[f"words {bits}"].view(np.uint32), bits), levels(bits))
    assert np.array_equal(results[f"levels {bits}"], levels(bits))


def test_gptq_with_act_order_uses_the_scales_of_each_rows_group(results: dict[str, Any]) -> None:
    assert np.array_equal(results["reconstructed"], results["expected"])
    assert (np.diff(results["permuted groups"]) >= 0).all(), "q_perm brings the rows of a group together"


@pytest.mark.parametrize("name", SAMPLER_SETTINGS)
def test_tokens_are_sampled_as_often_as_by_the_compiled_extension(results: dict[str, Any], name: str) -> None:
    assert results[f"sampled {name}"] == pytest.approx(EXPECTED_SHARES[name], abs=1.5 / POINTS)


def test_a_quantized_cache_keeps_keys_and_values_to_its_precision(results: dict[str, Any]) -> None:
    """The same holds for pages in any order. Q6 has the keys of Q8 and the values of Q4; FP8 drops the lower byte."""
    original = results["original"].astype(np.float32)
    error = {
        kind: np.abs(results[kind].astype(np.float32) - original).mean((1, 2, 3, 4)) for kind in ("Q4", "Q6", "Q8")
    }
    assert error["Q8"].max() < 0.012 < 0.05 < error["Q4"].min() and error["Q4"].max() < 0.15
    assert np.array_equal(results["Q6"], np.stack((results["Q8"][0], results["Q4"][1])))
    for kind in error:
        assert np.array_equal(results[f"{kind} in pages"], results[kind])
    assert np.array_equal(results["fp8"].view(np.uint16), results["original"].view(np.uint16) & 0xFF00)


def test_stop_strings_are_found_and_possible_beginnings_are_held_back(results: dict[str, Any]) -> None:
    assert dict(zip(TEXTS, results["matches"].tolist(), strict=True)) == {
        "on we go": -1,
        "we stop here now": 3,
        "we stop he": -2,
        "the EN": -2,
        "the ENd": -1,
        "END": 0,
    }


# -- the EXL2 folder ---------------------------------------------------------------------------------------------------


@needs_exllamav2
def test_the_folder_has_all_bit_widths_and_is_close_to_the_original_weights(complete_folders: dict[str, Path]) -> None:
    packed = load_file(complete_folders["exl2"] / "output.safetensors")
    bits = {int(width) for name, groups in packed.items() if name.endswith(".q_groups") for width in groups[::2]}
    assert bits == set(BITS)
    floats = load_file(plain(complete_folders["exl2"]) / "model.safetensors")
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.15.self_attn.k_proj"):
        assert np.array_equal(dequantized(packed, name).astype(np.float16), floats[f"{name}.weight"])


# -- models ------------------------------------------------------------------------------------------------------------


def check_close(actual: Any, expected: Any, limit: float) -> None:
    """Check that logits differ by less than `limit`, and that the most likely tokens are equal or almost as likely."""
    assert np.abs(actual - expected).max() < limit
    assert np.abs(actual - expected).mean() < limit / 10
    best = actual.argmax(-1)
    assert (expected.max(-1) - expected[np.arange(len(expected)), best] < limit).all()
    assert (best == expected.argmax(-1)).mean() > 0.9


def _perplexity(logits: Any, tokens: list[int]) -> float:
    shifted = logits[:-1].astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(np.exp(-logprobs[np.arange(len(logprobs)), tokens[1:]].mean()))


@needs_exllamav2
@pytest.mark.parametrize("kind", ["fp16", "gptq", "exl2"])
def test_a_model_has_the_logits_of_the_same_weights_in_float32(
    folders: dict[str, Path],
    shallow_loras: Path,
    expected: dict[str, Any],
    tokens: list[int],
    tmp_path: Path,
    kind: str,
) -> None:
    """Without a cache, with every cache, on two GPUs, with a LoRA, and exactly as before once it is unloaded."""
    caches = [""] if kind == "gptq" else list(CACHES)
    request = {"caches": caches, "loras": {"green": shallow_loras / "green"}, "gpus": 2, "split": [0.06, 1]}
    logits, output = probe(folders[kind], tmp_path, tokens=tokens, **request)
    assert set(output["gpus"]) == {0, 1}
    check_close(logits["none"], expected[kind], FLOAT16)
    for cache in caches:
        check_close(logits[f"cache {cache}"], expected[kind], FLOAT16 + CACHES[cache])
    assert np.array_equal(logits["unloaded"], logits["none"])
    if kind == "exl2":
        check_close(logits["green, permuted"], expected["exl2 green"], FLOAT16)
        wrong = np.abs(logits["green"] - expected["exl2 green"]).max()
        assert wrong > 1, "exllamav2 0.3.2 does not permute LoRAs of the MLP; once it does, permute_lora is not needed"
    else:
        check_close(logits["green"], expected[f"{kind} green"], FLOAT16)
    if kind == "fp16":
        difference = np.abs(logits["sdpa"] - expected[kind]).max()
        assert difference > 5, "with SDPA attn.py of 0.3.2 attends to later tokens; once it does not, it needs no patch"


@needs_exllamav2
def test_the_complete_unquantized_model_has_the_logits_of_float32_and_answers_right(
    complete_folders: dict[str, Path], expected_of_all_layers: dict[str, Any], tokens: list[int], tmp_path: Path
) -> None:
    request = {"prompts": PROMPTS[:1], "cache": "", "caches": ["8bit"], "gpus": 2, "split": [0.06, 1]}
    logits, output = probe(complete_folders["fp16"], tmp_path, tokens=tokens, **request)
    assert set(output["gpus"]) == {0, 1}
    assert " Paris" in output["single"][0]
    check_close(logits["none"], expected_of_all_layers["fp16"], ALL_LAYERS)
    check_close(logits["cache 8bit"], expected_of_all_layers["fp16"], ALL_LAYERS + FP8)


@needs_exllamav2
def test_the_complete_quantized_model_has_the_logits_of_its_weights_and_a_low_perplexity(
    paged: ProbeResult, expected_of_all_layers: dict[str, Any], tokens: list[int]
) -> None:
    logits, _ = paged
    check_close(logits["none"], expected_of_all_layers["exl2"], ALL_LAYERS)
    check_close(logits["cache 8bit"], expected_of_all_layers["exl2"], ALL_LAYERS + FP8)
    # Which weights the conversion makes depends on how the processor rounds: 1.16 and less than 1.1 were seen.
    assert _perplexity(logits["none"], tokens) < 1.25 * _perplexity(expected_of_all_layers["fp16"], tokens)


@needs_exllamav2
def test_concurrent_jobs_with_a_paged_cache_give_the_answers_of_single_jobs(paged: ProbeResult) -> None:
    """The prompts are chosen so that no two tokens are almost equally likely, because batches round differently."""
    _, output = paged
    assert output["paged"]
    assert output["concurrent"] == output["single"]
    assert " Paris" in output["single"][0]
    assert " 6, 7" in output["single"][1]
