"""The value of every option of a load, and its source."""

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


def settled(loader: Loader = LLAMA, **sources: Mapping[str, object]) -> dict[str, Setting]:
    return resolve(loader, **{name: sources.get(name, {}) for name in ("model", "saved", "flags", "form")})


SOURCES = {"form": "form", "flags": "flag", "saved": "saved", "model": "model"}
"""Parameters of `resolve` and names of their sources, in descending precedence."""


def any_value(option: Option, dice: random.Random) -> object:
    """Return a random valid value."""
    if option.choices:
        return dice.choice(option.choices)
    if isinstance(option.default, bool):
        return dice.random() < 0.5
    if isinstance(option.default, str):
        return option.example
    low, high = option.minimum or 0, min(option.maximum or 1000, 1000)
    number = dice.uniform(low, high)
    return round(number, 3) if isinstance(option.default, float) else int(number)


def test_the_source_with_the_highest_precedence_decides_an_option() -> None:
    dice = random.Random(20240612)
    for _ in range(500):
        loader = dice.choice(list(LOADERS.values()))
        given = {
            source: {key: any_value(OPTIONS[key], dice) for key in OPTIONS if dice.random() < 0.3} for source in SOURCES
        }
        found = resolve(loader, **given)
        assert tuple(found) == loader.options
        for key, setting in found.items():
            deciding = next((source for source in SOURCES if key in given[source]), None)
            expected = given[deciding][key] if deciding else OPTIONS[key].default
            assert setting == Setting(expected, SOURCES[deciding] if deciding else "default"), (loader.name, key)


def test_without_values_every_option_has_its_default() -> None:
    for loader in LOADERS.values():
        assert settled(loader) == {key: Setting(OPTIONS[key].default, "default") for key in loader.options}


def test_a_value_equal_to_the_default_still_takes_precedence() -> None:
    found = settled(saved={"n_ctx": 4096}, form={"n_ctx": 0, "mlock": False})
    assert found["n_ctx"] == Setting(0, "form")
    assert found["mlock"] == Setting(False, "form")


def test_a_flag_can_turn_off_a_saved_option() -> None:
    assert settled(saved={"mlock": True}, flags={"mlock": False})["mlock"] == Setting(False, "flag")


def test_raw_values_are_parsed_whatever_their_source() -> None:
    found = settled(model={"n_ctx": "8192"}, saved={"mlock": "true"}, form={"tensor_split": " 30,70 "})
    assert [found[key].value for key in ("n_ctx", "mlock", "tensor_split")] == [8192, True, "30,70"]


@pytest.mark.parametrize("source", ["model", "saved", "flags", "form"])
def test_an_invalid_value_that_would_take_effect_is_an_error(source: str) -> None:
    with pytest.raises(OptionError, match="n_ctx"):
        settled(**{source: {"n_ctx": "lots"}})


def test_an_invalid_saved_value_can_be_corrected_in_the_form() -> None:
    assert settled(saved={"n_ctx": "lots"}, form={"n_ctx": 512})["n_ctx"] == Setting(512, "form")


def test_none_means_no_value() -> None:
    found = settled(model={"n_ctx": 4096}, saved={"n_ctx": None}, form={"n_ctx": None, "tensor_split": None})
    assert found["n_ctx"] == Setting(4096, "model")
    assert found["tensor_split"] == Setting("", "default")


def test_the_word_none_saved_by_the_original_means_no_value() -> None:
    found = settled(LOADERS["AutoGPTQ"], saved={"wbits": "None", "groupsize": "None"})
    assert found["wbits"] == Setting(0, "default")
    assert found["groupsize"] == Setting(-1, "default")


def test_options_of_other_loaders_are_ignored_even_if_invalid() -> None:
    for source in SOURCES:
        assert "wbits" not in settled(**{source: {"wbits": "nonsense"}})


@pytest.mark.parametrize("source", ["model", "saved"])
def test_unknown_keys_on_disk_are_ignored(source: str) -> None:
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


def test_settling_does_not_change_its_arguments() -> None:
    saved = {"wbits": "None", "n_ctx": "4096"}
    settled(saved=saved)
    assert saved == {"wbits": "None", "n_ctx": "4096"}


def test_values_drops_the_sources() -> None:
    found = option_values(settled(form={"n_ctx": 512}))
    assert tuple(found) == LLAMA.options
    assert (found["n_ctx"], found["flash_attn"]) == (512, True)
