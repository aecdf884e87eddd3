"""The table of loaders: names, formats, abilities, what is missing here; and how the options of a load settle."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from modules.core.errors import OptionError, UnknownLoader, UnknownOption
from modules.core.paths import ROOT
from modules.loaders.overlay import STAMP, Overlay
from modules.loaders.registry import (
    LOADERS,
    Extra,
    Loader,
    Setting,
    candidates,
    find_loader,
    settle,
    unavailable,
    values,
)
from modules.options.load import OPTIONS
from modules.options.option import Option

LLAMA = LOADERS["llama.cpp"]


def settled(loader: Loader = LLAMA, **sources: Mapping[str, object]) -> dict[str, Setting]:
    return settle(loader, **{name: sources.get(name, {}) for name in ("model", "saved", "flags", "form")})


def test_the_menu_stands_in_the_order_of_the_seed() -> None:
    menu = "Transformers ExLlamav2_HF ExLlamav2 AutoGPTQ llama.cpp llamacpp_HF AutoAWQ"
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


def test_a_loader_is_found_by_every_name_the_original_accepted(subtests: pytest.Subtests) -> None:
    for name, meant in NAMES:
        with subtests.test(name=name):
            assert find_loader(name).name == meant


@pytest.mark.parametrize(("name", "guess"), [("lama.cpp", "llama.cpp"), ("autoawk", "AutoAWQ"), ("zzz", ""), ("", "")])
def test_an_unknown_loader_is_an_error_with_the_nearest_name(name: str, guess: str) -> None:
    with pytest.raises(UnknownLoader) as unknown:
        find_loader(name)
    assert (unknown.value.name, unknown.value.nearest) == (name, guess)


def test_no_name_means_two_loaders() -> None:
    for loader in LOADERS.values():
        for name in (loader.name, loader.name.upper(), *loader.aliases):
            assert find_loader(name) is loader


BY_FORMAT: list[tuple[str, list[str]]] = [
    ("gguf", ["llama.cpp", "llamacpp_HF"]),
    ("safetensors", ["Transformers"]),
    ("pytorch", ["Transformers"]),
    ("gptq", ["ExLlamav2_HF", "ExLlamav2", "AutoGPTQ", "Transformers"]),
    ("awq", ["AutoAWQ", "Transformers"]),
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
        ("loras", set(LOADERS)),
        ("train", {"Transformers"}),
        ("perplexity", set(LOADERS) - {"llama.cpp", "ExLlamav2"}),
        ("cfg", set(LOADERS) - {"llama.cpp"}),
        ("parallel", {"llama.cpp", "ExLlamav2"}),
    ],
)
def test_each_ability_is_declared_by_those_that_have_it(ability: str, names: set[str]) -> None:
    assert {loader.name for loader in LOADERS.values() if ability in loader.abilities} == names


@pytest.mark.parametrize("loader", LOADERS.values(), ids=lambda loader: loader.name)
def test_a_loader_that_has_a_cfg_cache_has_cfg(loader: Loader) -> None:
    assert "cfg_cache" not in loader.options or "cfg" in loader.abilities


# What is missing here

HERE = dataclasses.replace(LLAMA, engine="modules.core.errors:Any", packages=("json",), overlay=None)


def test_a_loader_with_its_packages_is_available() -> None:
    assert unavailable(HERE) is None


def test_a_missing_package_is_named_with_the_line_that_installs_it() -> None:
    why = unavailable(dataclasses.replace(HERE, packages=("json", "no_such_package"), install="pip install it"))
    assert why is not None
    assert why.install == "pip install it"
    for language in ("en", "zh"):
        assert "no_such_package" in why.say(language)
        assert "pip install it" in why.say(language)
        assert "json" not in why.say(language)


def test_what_only_some_formats_need_is_missing_for_those_alone() -> None:
    extra = Extra(("gptq", "awq"), ("no_such_package",), "pip install that")
    loader = dataclasses.replace(HERE, extras=(extra,))
    assert unavailable(loader) is None and unavailable(loader, "safetensors") is None
    why = unavailable(loader, "awq")
    assert why is not None and why.install == "pip install that"
    assert "no_such_package" in why.say("en") and "no_such_package" in why.say("zh")


def test_a_package_in_the_loaders_own_overlay_counts_as_installed(tmp_path: Path) -> None:
    overlay = Overlay("special", 1, tmp_path)
    overlay.requirements.touch()
    package = overlay.folder / "no_such_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (overlay.folder / STAMP).write_text(overlay.fingerprint)
    loader = dataclasses.replace(HERE, packages=("no_such_package",))
    assert unavailable(dataclasses.replace(loader, overlay=overlay)) is None
    assert unavailable(loader) is not None


# Without CUDA: asked in a process of its own, for what cards there are is asked once

WITHOUT = "it needs an NVIDIA GPU with CUDA, and there is none here"


def said(folder: Path, model_format: str, language: str = "en", **environment: str) -> str:
    """What ExLlamav2 says that it lacks, where `folder` is all of PATH."""
    program = (
        "import sys; from modules.loaders.registry import LOADERS, unavailable\n"
        "why = unavailable(LOADERS['ExLlamav2'], sys.argv[1]); print(why.say(sys.argv[2]) if why else 'nothing')"
    )
    given = {"PATH": str(folder), "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-c", program, model_format, language]
    return subprocess.run(
        command, cwd=ROOT, env=given, capture_output=True, encoding="utf-8", check=True
    ).stdout.strip()


def test_without_an_nvidia_card_exllamav2_names_the_loaders_that_can_take_the_model(tmp_path: Path) -> None:
    told = said(tmp_path, "gptq")
    assert WITHOUT in told and "Transformers instead" in told and "ExLlamav2_HF" not in told
    assert "--install" not in told, "what cannot run need not be installed"
    assert "no other loader takes EXL2 models" in said(tmp_path, "exl2")
    assert said(tmp_path, "").endswith(f"{WITHOUT}.")
    assert "此模型可改用" in said(tmp_path, "gptq", "zh") and "没有其他加载器" in said(tmp_path, "exl2", "zh")


def test_with_an_nvidia_card_or_kernels_that_are_installed_exllamav2_asks_for_no_more_than_packages(
    tmp_path: Path,
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU-1, A card, 24000, 23000'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert WITHOUT not in said(tmp_path, "gptq")
    (tmp_path / "nvidia-smi").unlink()
    assert WITHOUT not in said(tmp_path, "gptq", PYTHONPATH=str(ROOT / "tests" / "support" / "exllamav2_standin"))
    assert WITHOUT in said(tmp_path, "gptq")


def test_asking_what_is_available_imports_no_backend() -> None:
    script = """if True:
        import sys
        from modules.loaders.registry import LOADERS, unavailable
        for loader in LOADERS.values():
            unavailable(loader)
        loaded = {package for loader in LOADERS.values() for package in loader.packages} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


# How the options of a load settle

SOURCES = {"form": "form", "flags": "flag", "saved": "saved", "model": "model"}
"""Argument of `settle` to name of the source, strongest first."""


def any_value(option: Option, dice: random.Random) -> object:
    """Some acceptable value of `option`."""
    if option.choices:
        return dice.choice(option.choices)
    if isinstance(option.default, bool):
        return dice.random() < 0.5
    if isinstance(option.default, str):
        return option.example
    low, high = option.minimum or 0, min(option.maximum or 1000, 1000)
    number = dice.uniform(low, high)
    return round(number, 3) if isinstance(option.default, float) else int(number)


def test_the_strongest_source_that_names_an_option_decides_it() -> None:
    dice = random.Random(20240612)
    for _ in range(500):
        loader = dice.choice(list(LOADERS.values()))
        said = {
            source: {key: any_value(OPTIONS[key], dice) for key in OPTIONS if dice.random() < 0.3} for source in SOURCES
        }
        found = settle(loader, **said)
        assert tuple(found) == loader.options
        for key, setting in found.items():
            speaker = next((source for source in SOURCES if key in said[source]), None)
            expected = said[speaker][key] if speaker else OPTIONS[key].default
            assert setting == Setting(expected, SOURCES[speaker] if speaker else "default"), (loader.name, key)


def test_with_nothing_said_every_option_has_its_default() -> None:
    for loader in LOADERS.values():
        assert settled(loader) == {key: Setting(OPTIONS[key].default, "default") for key in loader.options}


def test_a_value_equal_to_the_default_still_counts_as_said() -> None:
    found = settled(saved={"n_ctx": 4096}, form={"n_ctx": 0, "mlock": False})
    assert found["n_ctx"] == Setting(0, "form")
    assert found["mlock"] == Setting(False, "form")


def test_a_ticked_box_that_was_saved_can_be_unticked_by_a_flag() -> None:
    assert settled(saved={"mlock": True}, flags={"mlock": False})["mlock"] == Setting(False, "flag")


def test_raw_values_are_parsed_whatever_their_source() -> None:
    found = settled(model={"n_ctx": "8192"}, saved={"mlock": "true"}, form={"tensor_split": " 30,70 "})
    assert [found[key].value for key in ("n_ctx", "mlock", "tensor_split")] == [8192, True, "30,70"]


@pytest.mark.parametrize("source", ["model", "saved", "flags", "form"])
def test_an_unacceptable_value_that_would_take_effect_is_an_error(source: str) -> None:
    with pytest.raises(OptionError, match="n_ctx"):
        settled(**{source: {"n_ctx": "lots"}})


def test_a_damaged_saved_value_can_be_set_right_in_the_form() -> None:
    assert settled(saved={"n_ctx": "lots"}, form={"n_ctx": 512})["n_ctx"] == Setting(512, "form")


def test_none_says_nothing() -> None:
    found = settled(model={"n_ctx": 4096}, saved={"n_ctx": None}, form={"n_ctx": None, "tensor_split": None})
    assert found["n_ctx"] == Setting(4096, "model")
    assert found["tensor_split"] == Setting("", "default")


def test_the_originals_saved_word_for_nothing_is_understood() -> None:
    found = settled(LOADERS["AutoGPTQ"], saved={"wbits": "None", "groupsize": "None"})
    assert found["wbits"] == Setting(0, "default")
    assert found["groupsize"] == Setting(-1, "default")


def test_options_of_other_loaders_are_passed_over_even_when_they_are_wrong() -> None:
    for source in SOURCES:
        assert "wbits" not in settled(**{source: {"wbits": "nonsense"}})


@pytest.mark.parametrize("source", ["model", "saved"])
def test_unknown_keys_on_disk_are_passed_over(source: str) -> None:
    assert settled(**{source: {"pre_layer": 3, "loader": "llama.cpp"}}) == settled()


@pytest.mark.parametrize("source", ["flags", "form"])
def test_unknown_keys_typed_by_the_user_are_an_error_with_the_nearest(source: str) -> None:
    with pytest.raises(UnknownOption) as unknown:
        settled(**{source: {"n_ctxt": 4096}})
    assert unknown.value.nearest == "n_ctx"


def test_nothing_leaks_from_one_model_to_the_next() -> None:
    first = settled(saved={"n_ctx": 4096, "cpu": True}, form={"tensor_split": "30,70"})
    first["threads"] = Setting(99, "form")
    assert settled() == {key: Setting(OPTIONS[key].default, "default") for key in LLAMA.options}


def test_settling_leaves_what_it_was_given_alone() -> None:
    saved = {"wbits": "None", "n_ctx": "4096"}
    settled(saved=saved)
    assert saved == {"wbits": "None", "n_ctx": "4096"}


def test_the_bare_values_are_what_an_engine_takes() -> None:
    found = values(settled(form={"n_ctx": 512}))
    assert tuple(found) == LLAMA.options
    assert (found["n_ctx"], found["flash_attn"]) == (512, True)
