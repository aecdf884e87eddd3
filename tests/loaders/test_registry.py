"""The registry of loaders: names, formats and abilities."""

from __future__ import annotations

import importlib

import pytest

from modules.core.errors import UnknownLoader
from modules.loaders.registry import LOADERS, Loader, candidates, find_loader
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL


def test_every_row_names_the_module_of_its_engine() -> None:
    for loader in LOADERS.values():
        assert importlib.import_module(loader.engine).LOADER.name == loader.name


def test_loaders_are_in_the_order_of_the_specification() -> None:
    menu = "Transformers ExLlamav2_HF ExLlamav2 AutoGPTQ llama.cpp llamacpp_HF AutoAWQ vLLM Remote"
    assert " ".join(LOADERS) == menu


NAMES = [
    ("llama.cpp", "llama.cpp"),
    ("llamacpp", "llama.cpp"),
    ("LLAMA-CPP", "llama.cpp"),
    ("llama_cpp_hf", "llamacpp_HF"),
    ("llama.cpp-hf", "llamacpp_HF"),
    ("transformers", "Transformers"),
    ("HuggingFace", "Transformers"),
    ("hf", "Transformers"),
    ("auto-gptq", "AutoGPTQ"),
    ("awq", "AutoAWQ"),
    ("exllama2", "ExLlamav2"),
    ("exllamav2-hf", "ExLlamav2_HF"),
    ("exllama2_hf", "ExLlamav2_HF"),
]


def test_a_loader_is_found_by_every_name_that_the_original_web_ui_accepted(subtests: pytest.Subtests) -> None:
    for name, expected in NAMES:
        with subtests.test(name=name):
            assert find_loader(name).name == expected


@pytest.mark.parametrize(
    ("name", "nearest"), [("lama.cpp", "llama.cpp"), ("autoawk", "AutoAWQ"), ("zzz", ""), ("", "")]
)
def test_an_unknown_loader_is_an_error_with_the_nearest_name(name: str, nearest: str) -> None:
    with pytest.raises(UnknownLoader) as unknown:
        find_loader(name)
    assert (unknown.value.name, unknown.value.nearest) == (name, nearest)


def test_no_two_loaders_share_a_name() -> None:
    for loader in LOADERS.values():
        for name in (loader.name, loader.name.upper(), *loader.aliases):
            assert find_loader(name) is loader


BY_FORMAT: list[tuple[str, list[str]]] = [
    ("gguf", ["llama.cpp", "llamacpp_HF"]),
    ("safetensors", ["Transformers", "vLLM"]),
    ("pytorch", ["Transformers"]),
    ("gptq", ["ExLlamav2_HF", "ExLlamav2", "AutoGPTQ", "Transformers", "vLLM"]),
    ("awq", ["AutoAWQ", "Transformers", "vLLM"]),
    ("exl2", ["ExLlamav2_HF", "ExLlamav2"]),
    ("ggml", []),
]


def test_the_loaders_of_a_format_are_listed_best_first(subtests: pytest.Subtests) -> None:
    for model_format, names in BY_FORMAT:
        with subtests.test(model_format):
            assert [loader.name for loader in candidates(model_format)] == names


@pytest.mark.parametrize(
    ("ability", "names"),
    [
        ("lora", set(LOADERS)),
        ("loras", set(LOADERS) - {"vLLM"}),
        ("train", {"Transformers"}),
        ("loglikelihoods", set(LOADERS)),
        ("cfg", set(LOADERS) - {"llama.cpp", "vLLM", "Remote"}),
        ("parallel", {"llama.cpp", "ExLlamav2", "vLLM", "Remote"}),
    ],
)
def test_each_ability_is_declared_by_the_right_loaders(ability: str, names: set[str]) -> None:
    assert {loader.name for loader in LOADERS.values() if ability in loader.abilities} == names


@pytest.mark.parametrize("loader", LOADERS.values(), ids=lambda loader: loader.name)
def test_a_loader_with_the_option_cfg_cache_has_the_ability_cfg(loader: Loader) -> None:
    assert "cfg_cache" not in loader.options or "cfg" in loader.abilities


def test_every_generation_parameter_is_implemented_by_some_loader() -> None:
    implemented = frozenset().union(*(loader.samplers for loader in LOADERS.values()))
    assert implemented | SUPPORTED_BY_ALL == {*PARAMETERS, "logit_bias"}
