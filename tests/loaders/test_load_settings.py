"""Resolving the options of a load: the value of each, and its source."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from modules.core.errors import OptionError, UnknownOption
from modules.loaders.load_settings import Setting, option_values, resolve
from modules.loaders.registry import LOADERS, Loader
from modules.options.load import OPTIONS
from modules.options.option import Option

LLAMA = LOADERS["llama.cpp"]


def resolve_for(loader: Loader = LLAMA, **sources: Mapping[str, object]) -> dict[str, Setting]:
    return resolve(loader, **{name: sources.get(name, {}) for name in ("model", "saved", "flags", "form")})


SOURCES = {"form": "form", "flags": "flag", "saved": "saved", "model": "model"}
"""Parameters of `resolve` and names of their sources, in descending precedence."""


def random_value(option: Option, rng: random.Random) -> object:
    """Return a random valid value."""
    if option.choices:
        return rng.choice(option.choices)
    if isinstance(option.default, bool):
        return rng.random() < 0.5
    if isinstance(option.default, str):
        return option.example
    low, high = option.least or option.minimum or 0, min(option.maximum or 1000, 1000)
    number = rng.uniform(low, high)
    return round(number, 3) if isinstance(option.default, float) else int(number)


def test_the_source_with_the_highest_precedence_decides_an_option() -> None:
    rng = random.Random(20240612)
    for _ in range(500):
        loader = rng.choice(list(LOADERS.values()))
        values = {
            source: {key: random_value(OPTIONS[key], rng) for key in OPTIONS if rng.random() < 0.3}
            for source in SOURCES
        }
        settings = resolve(loader, **values)
        assert tuple(settings) == loader.options
        for key, setting in settings.items():
            deciding = next((source for source in SOURCES if key in values[source]), None)
            expected = values[deciding][key] if deciding else OPTIONS[key].default
            assert setting == Setting(expected, SOURCES[deciding] if deciding else "default"), (loader.name, key)


def test_without_values_every_option_has_its_default() -> None:
    for loader in LOADERS.values():
        assert resolve_for(loader) == {key: Setting(OPTIONS[key].default, "default") for key in loader.options}


def test_a_value_equal_to_the_default_still_takes_precedence() -> None:
    settings = resolve_for(saved={"n_ctx": 4096}, form={"n_ctx": 0, "mlock": False})
    assert settings["n_ctx"] == Setting(0, "form")
    assert settings["mlock"] == Setting(False, "form")


def test_a_flag_can_turn_off_a_saved_option() -> None:
    assert resolve_for(saved={"mlock": True}, flags={"mlock": False})["mlock"] == Setting(False, "flag")


def test_raw_values_of_every_source_are_parsed() -> None:
    settings = resolve_for(model={"n_ctx": "8192"}, saved={"mlock": "true"}, form={"tensor_split": " 30,70 "})
    assert [settings[key].value for key in ("n_ctx", "mlock", "tensor_split")] == [8192, True, "30,70"]


@pytest.mark.parametrize("source", ["model", "saved", "flags", "form"])
def test_an_invalid_value_that_would_take_effect_is_an_error(source: str) -> None:
    with pytest.raises(OptionError, match="n_ctx"):
        resolve_for(**{source: {"n_ctx": "lots"}})


def test_an_invalid_saved_value_can_be_corrected_in_the_form() -> None:
    assert resolve_for(saved={"n_ctx": "lots"}, form={"n_ctx": 512})["n_ctx"] == Setting(512, "form")


def test_none_means_no_value() -> None:
    settings = resolve_for(model={"n_ctx": 4096}, saved={"n_ctx": None}, form={"n_ctx": None, "tensor_split": None})
    assert settings["n_ctx"] == Setting(4096, "model")
    assert settings["tensor_split"] == Setting("", "default")


def test_the_text_none_saved_by_the_original_web_ui_means_no_value() -> None:
    settings = resolve_for(LOADERS["AutoGPTQ"], saved={"wbits": "None", "groupsize": "None"})
    assert settings["wbits"] == Setting(0, "default")
    assert settings["groupsize"] == Setting(-1, "default")


def test_options_of_other_loaders_are_ignored_even_if_invalid() -> None:
    for source in SOURCES:
        assert "wbits" not in resolve_for(**{source: {"wbits": "nonsense"}})


@pytest.mark.parametrize("source", ["model", "saved"])
def test_unknown_keys_on_disk_are_ignored(source: str) -> None:
    assert resolve_for(**{source: {"pre_layer": 3, "loader": "llama.cpp"}}) == resolve_for()


@pytest.mark.parametrize("source", ["flags", "form"])
def test_unknown_keys_typed_by_the_user_are_an_error_with_the_nearest(source: str) -> None:
    with pytest.raises(UnknownOption) as unknown:
        resolve_for(**{source: {"n_ctxt": 4096}})
    assert unknown.value.nearest == "n_ctx"


def test_resolved_settings_are_independent_of_earlier_ones() -> None:
    first = resolve_for(saved={"n_ctx": 4096, "cpu": True}, form={"tensor_split": "30,70"})
    first["threads"] = Setting(99, "form")
    assert resolve_for() == {key: Setting(OPTIONS[key].default, "default") for key in LLAMA.options}


def test_resolving_does_not_change_its_arguments() -> None:
    saved = {"wbits": "None", "n_ctx": "4096"}
    resolve_for(saved=saved)
    assert saved == {"wbits": "None", "n_ctx": "4096"}


def test_option_values_drops_the_sources() -> None:
    settings = option_values(resolve_for(form={"n_ctx": 512}))
    assert tuple(settings) == LLAMA.options
    assert (settings["n_ctx"], settings["flash_attn"]) == (512, True)
