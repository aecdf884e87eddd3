"""Which loaders are recommended for a model, and the reasons, in both languages."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.errors import LANGUAGES
from modules.core.paths import ROOT
from modules.loaders.registry import LOADERS, candidates
from modules.planning.recommendation import compatible_loaders, explain_choice, incompatibility, reason

ARCHITECTURES = ROOT / "overlays" / "exllamav2" / "exllamav2" / "architecture.py"
EXLLAMA = ("ExLlamav2", "ExLlamav2_HF")
TAKERS = {
    "gptq": {"ExLlamav2_HF", "ExLlamav2", "AutoGPTQ", "Transformers"},
    "awq": {"AutoAWQ", "Transformers"},
    "exl2": {"ExLlamav2_HF", "ExLlamav2"},
}
NAMED = {
    ("Transformers", "gptq"): "gptqmodel",
    ("Transformers", "awq"): "gptqmodel",
    ("AutoGPTQ", "gptq"): "metadata",
    ("AutoAWQ", "awq"): "GPU",
    ("ExLlamav2_HF", "gptq"): "CUDA",
    ("ExLlamav2", "exl2"): "CUDA",
}
"""A word that the reason must contain."""


def record(model_format: str, **defaults: int) -> ModelRecord:
    return ModelRecord("model", Path("model"), model_format, 1, defaults=defaults)


@pytest.mark.parametrize("model_format", TAKERS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_loader_of_a_quantized_folder_has_its_own_reason(model_format: str, language: str) -> None:
    takers = candidates(model_format)
    assert {loader.name for loader in takers} == TAKERS[model_format]
    said = [words[language] for loader in takers if (words := reason(record(model_format), loader))]
    assert len(set(said)) == len(takers)
    assert all(each.endswith("." if language == "en" else "。") for each in said)


@pytest.mark.parametrize(("loader", "model_format"), NAMED)
def test_the_reason_names_what_decides(loader: str, model_format: str) -> None:
    words = explain_choice(record(model_format), LOADERS[loader])
    assert words is not None
    assert words["en"].startswith(f"{model_format.upper()}: ") and NAMED[loader, model_format] in words["en"]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_reason_warns_of_slow_bits_on_a_cpu(bits: int) -> None:
    words = explain_choice(record("gptq", wbits=bits), LOADERS["Transformers"])
    assert words is not None
    assert ("with 4 bits only" in words["en"]) == ("仅对 4 位" in words["zh"]) == (bits != 4)
    assert ("compiles a kernel" in words["en"]) == (bits == 4)


@pytest.mark.parametrize(("kind", "known"), [("llama", True), ("Yi", True), ("gemma3_text", False), ("", True)])
def test_exllama_comes_last_and_warns_for_architectures_it_treats_as_llama(kind: str, known: bool) -> None:
    model = replace(record("gptq"), architecture=kind)
    names = [each.name for each in compatible_loaders(model)]
    assert set(names) == TAKERS["gptq"]
    assert (names[0] in EXLLAMA) == known
    for name in names:
        words = reason(model, LOADERS[name])
        assert words is not None
        doubts = ["treats it as Llama" in words["en"], "按 Llama 处理" in words["zh"]]
        assert doubts == [name in EXLLAMA and not known] * 2


@pytest.mark.skipif(not ARCHITECTURES.is_file(), reason="exllamav2 is not in overlays/exllamav2")
def test_the_listed_architectures_are_those_that_exllama_knows() -> None:
    """The source of exllamav2 names classes: GPTBigCodeForCausalLM is gpt_bigcode."""
    told = [*re.findall(r'arch_string (?:==|in) (.*?"\w+For\w+")', ARCHITECTURES.read_text()), "GPT2LMHeadModel"]
    names = {name for each in told for name in re.findall(r"\w+For\w+|GPT2", each)} | {"LlamaForCausalLM"}
    kinds = {re.sub("(ForCausalLM|ForConditionalGeneration|LMHeadModel)", "", name).lower() for name in names}
    assert {kind.replace("_", "") for kind in LOADERS["ExLlamav2"].architectures} == {
        kind.replace("_", "") for kind in kinds
    }


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_exllama_is_offered_only_for_4_bit_gptq(bits: int) -> None:
    usual, unusual = record("gptq", wbits=4), record("gptq", wbits=bits)
    assert compatible_loaders(usual) == compatible_loaders(record("gptq")) == candidates("gptq")
    assert {each.name for each in compatible_loaders(unusual)} == {"AutoGPTQ", "Transformers"}
    refused = incompatibility(unusual, LOADERS["ExLlamav2_HF"])
    assert refused is not None and f"ExLlamav2_HF cannot load {bits}-bit gptq models" in refused.say("en")
    assert f"无法加载 {bits} 位 gptq 模型" in refused.say("zh")
    assert incompatibility(usual, LOADERS["ExLlamav2"]) is None
    assert compatible_loaders(record("exl2", wbits=bits)) == candidates("exl2")


def test_a_loader_that_cannot_load_the_model_has_no_reason() -> None:
    assert reason(record("exl2"), LOADERS["AutoGPTQ"]) is None
    assert explain_choice(record("gptq"), LOADERS["AutoAWQ"]) is None
