"""Which loaders are recommended for a model, and the reasons, in both languages."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.errors import LANGUAGES
from modules.core.paths import ROOT
from modules.formats.embedding import EMBED
from modules.loaders.registry import LOADERS, candidates
from modules.planning.recommendation import compatible_loaders, explain_choice, incompatibility, reason

ARCHITECTURES = ROOT / "overlays" / "exllamav2" / "exllamav2" / "architecture.py"
EXLLAMA = ("ExLlamav2", "ExLlamav2_HF")
COMPATIBLE = {
    "gptq": {"ExLlamav2_HF", "ExLlamav2", "AutoGPTQ", "Transformers", "vLLM"},
    "awq": {"AutoAWQ", "Transformers", "vLLM"},
    "exl2": {"ExLlamav2_HF", "ExLlamav2"},
}
KEYWORDS = {
    ("Transformers", "gptq"): "gptqmodel",
    ("Transformers", "awq"): "gptqmodel",
    ("AutoGPTQ", "gptq"): "metadata",
    ("AutoAWQ", "awq"): "GPU",
    ("ExLlamav2_HF", "gptq"): "CUDA",
    ("ExLlamav2", "exl2"): "CUDA",
}
"""A word that the reason must contain, by loader and format."""


def record(model_format: str, **defaults: int) -> ModelRecord:
    return ModelRecord("model", Path("model"), model_format, 1, defaults=defaults)


@pytest.mark.parametrize("model_format", COMPATIBLE)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_loader_of_a_quantized_folder_has_its_own_reason(model_format: str, language: str) -> None:
    loaders = candidates(model_format)
    assert {loader.name for loader in loaders} == COMPATIBLE[model_format]
    reasons = [text[language] for loader in loaders if (text := reason(record(model_format), loader))]
    assert len(set(reasons)) == len(loaders)
    assert all(text.endswith("." if language == "en" else "。") for text in reasons)


@pytest.mark.parametrize(("loader", "model_format"), KEYWORDS)
def test_the_reason_names_what_the_loader_depends_on(loader: str, model_format: str) -> None:
    text = explain_choice(record(model_format), LOADERS[loader])
    assert text is not None
    assert text["en"].startswith(f"{model_format.upper()}: ") and KEYWORDS[loader, model_format] in text["en"]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_reason_warns_of_bit_widths_that_are_slow_on_a_cpu(bits: int) -> None:
    text = explain_choice(record("gptq", wbits=bits), LOADERS["Transformers"])
    assert text is not None
    assert ("with 4 bits only" in text["en"]) == ("仅对 4 位" in text["zh"]) == (bits != 4)
    assert ("compiles a kernel" in text["en"]) == (bits == 4)


@pytest.mark.parametrize(
    ("architecture", "is_supported"), [("llama", True), ("Yi", True), ("gemma3_text", False), ("", True)]
)
def test_exllama_comes_last_and_has_a_warning_for_architectures_it_treats_as_llama(
    architecture: str, is_supported: bool
) -> None:
    model = replace(record("gptq"), architecture=architecture)
    names = [loader.name for loader in compatible_loaders(model)]
    assert set(names) == COMPATIBLE["gptq"]
    assert (names[0] in EXLLAMA) == is_supported
    for name in names:
        text = reason(model, LOADERS[name])
        assert text is not None
        warnings = ["treats it as Llama" in text["en"], "按 Llama 处理" in text["zh"]]
        assert warnings == [name in EXLLAMA and not is_supported] * 2


@pytest.mark.skipif(not ARCHITECTURES.is_file(), reason="exllamav2 is not in overlays/exllamav2")
def test_the_listed_architectures_are_those_that_exllama_supports() -> None:
    """The source of exllamav2 names classes: GPTBigCodeForCausalLM is gpt_bigcode."""
    lines = [*re.findall(r'arch_string (?:==|in) (.*?"\w+For\w+")', ARCHITECTURES.read_text()), "GPT2LMHeadModel"]
    names = {name for line in lines for name in re.findall(r"\w+For\w+|GPT2", line)} | {"LlamaForCausalLM"}
    kinds = {re.sub("(ForCausalLM|ForConditionalGeneration|LMHeadModel)", "", name).lower() for name in names}
    assert {kind.replace("_", "") for kind in LOADERS["ExLlamav2"].architectures} == {
        kind.replace("_", "") for kind in kinds
    }


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_exllama_is_offered_only_for_4_bit_gptq(bits: int) -> None:
    four_bits, other_bits = record("gptq", wbits=4), record("gptq", wbits=bits)
    assert compatible_loaders(four_bits) == compatible_loaders(record("gptq")) == candidates("gptq")
    assert {loader.name for loader in compatible_loaders(other_bits)} == {"AutoGPTQ", "Transformers", "vLLM"}
    error = incompatibility(other_bits, LOADERS["ExLlamav2_HF"])
    assert error is not None and f"ExLlamav2_HF cannot load {bits}-bit gptq models" in error.say("en")
    assert f"无法加载 {bits} 位 gptq 模型" in error.say("zh")
    assert incompatibility(four_bits, LOADERS["ExLlamav2"]) is None
    assert compatible_loaders(record("exl2", wbits=bits)) == candidates("exl2")


def test_a_loader_that_cannot_load_the_model_has_no_reason() -> None:
    assert reason(record("exl2"), LOADERS["AutoGPTQ"]) is None
    assert explain_choice(record("gptq"), LOADERS["AutoAWQ"]) is None


def test_a_loader_that_cannot_do_a_models_task_is_refused_with_others() -> None:
    refused = incompatibility(replace(record("gguf"), name="bge", task=EMBED), LOADERS["llamacpp_HF"])
    assert refused is not None
    assert refused.say("en") == "llamacpp_HF cannot load embedding models; for bge use llama.cpp."
    assert "无法加载嵌入模型" in refused.say("zh")
