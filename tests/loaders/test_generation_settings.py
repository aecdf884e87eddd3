"""The table of generation parameters, and the values that one generation uses."""

from __future__ import annotations

import math
from itertools import product

import pytest

from modules.core.errors import OptionError, UnknownOption, Unsupported
from modules.loaders.generation_settings import PARAMETERS, changed, effective, require_supported, resolve
from modules.loaders.registry import LOADERS
from modules.options.generation import MAX_BREAKERS, SUPPORTED_BY_ALL

RANGE_LIMITS = [
    (key, value)
    for key, option in PARAMETERS.items()
    for value in (option.minimum, option.maximum)
    if value is not None
]


def test_missing_parameters_have_their_defaults() -> None:
    assert resolve({}) == {key: option.default for key, option in PARAMETERS.items()} | {
        "stop": [],
        "top_logprobs": None,
        "logit_bias": [],
    }


def test_parameters_are_converted_to_their_types() -> None:
    resolved = resolve({"temperature": 1, "top_k": "40", "max_new_tokens": 20.0}, ["\n", "User:"], 5)
    assert (resolved["temperature"], resolved["top_k"], resolved["max_new_tokens"]) == (1.0, 40, 20)
    assert isinstance(resolved["temperature"], float)
    assert isinstance(resolved["max_new_tokens"], int)
    assert (resolved["stop"], resolved["top_logprobs"]) == (["\n", "User:"], 5)


def test_both_ends_of_every_range_are_valid_and_values_beyond_are_not(subtests: pytest.Subtests) -> None:
    assert RANGE_LIMITS
    for key, value in RANGE_LIMITS:
        with subtests.test(parameter=key, value=value):
            assert resolve({key: value})[key] == value
            beyond = value - 1 if value == PARAMETERS[key].minimum else value + 1
            with pytest.raises(OptionError) as refused:
                resolve({key: beyond})
            assert refused.value.option == key


def test_a_value_that_is_not_a_number_is_rejected(subtests: pytest.Subtests) -> None:
    numbers = [key for key, option in PARAMETERS.items() if not isinstance(option.default, (bool, str))]
    assert numbers
    for key, value in product(numbers, ("warm", None, [], {}, math.nan, math.inf, True)):
        with subtests.test(parameter=key, value=value), pytest.raises(OptionError):
            resolve({key: value})


def test_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(UnknownOption) as unknown:
        resolve({"temprature": 1})
    assert unknown.value.nearest == "temperature"


@pytest.mark.parametrize("stop", ["", None, 5, ["nested"]])
def test_a_stop_that_is_not_a_string_is_rejected(stop: object) -> None:
    with pytest.raises(OptionError):
        resolve({}, ["fine", stop])  # type: ignore[list-item]


def test_every_seed_fits_into_32_bits() -> None:
    """Seeds have 32 bits, and the largest one means "random"."""
    assert PARAMETERS["seed"].maximum == 2**32 - 2


FAMILY = ("Transformers", "ExLlamav2_HF", "AutoGPTQ", "llamacpp_HF", "AutoAWQ")


@pytest.mark.parametrize("name", FAMILY)
def test_the_transformers_family_supports_every_parameter(name: str) -> None:
    assert LOADERS[name].samplers | SUPPORTED_BY_ALL == set(PARAMETERS) | {"logit_bias"}


def test_llama_cpp_supports_the_parameters_of_its_sampler() -> None:
    only_transformers = LOADERS["Transformers"].samplers - LOADERS["llama.cpp"].samplers
    assert {"tfs", "top_a", "smoothing_factor", "guidance_scale", "sampler_priority"} <= only_transformers
    assert len(only_transformers) == 15
    assert {"temperature", "top_k", "mirostat_mode", "dry_base", "grammar_string"} <= LOADERS["llama.cpp"].samplers


def test_exllamav2_supports_the_parameters_of_its_sampler() -> None:
    samplers = LOADERS["ExLlamav2"].samplers
    assert {"tfs", "top_a", "smoothing_factor", "guidance_scale", "mirostat_tau", "logit_bias"} <= samplers
    assert not {"top_n_sigma", "sampler_priority", "no_repeat_ngram_size", "eta_cutoff"} & samplers


def test_an_unsupported_parameter_is_rejected_by_name() -> None:
    params = resolve({"top_a": 0.2, "auto_max_new_tokens": True, "custom_stopping_strings": '"x"'})
    require_supported(changed(params), LOADERS["Transformers"].samplers, "Transformers")
    with pytest.raises(Unsupported, match="does not support top_a"):
        require_supported(changed(params), LOADERS["llama.cpp"].samplers, "llama.cpp")
    require_supported(changed(resolve({})), LOADERS["llama.cpp"].samplers, "llama.cpp")


def test_custom_stopping_strings_are_appended_to_the_stops_of_the_request() -> None:
    assert resolve({"custom_stopping_strings": '"\\n", "你:"'}, ["###", "\n"])["stop"] == ["###", "\n", "你:"]


def test_auto_max_new_tokens_means_no_limit() -> None:
    assert resolve({"auto_max_new_tokens": True, "max_new_tokens": 7})["max_new_tokens"] == 0


def test_lists_sent_by_clients_of_the_original_web_ui_are_converted_to_text() -> None:
    resolved = resolve(
        {
            "sampler_priority": ["top_k", "temperature"],
            "dry_sequence_breakers": ["\n", '"'],
            "custom_stopping_strings": ["a"],
        }
    )
    assert resolved["sampler_priority"] == "top_k\ntemperature"
    assert resolved["dry_sequence_breakers"] == '"\\n", "\\""'
    assert resolved["stop"] == ["a"]


@pytest.mark.parametrize("order", ["top_q", "temperature top_k", "top_k\n\nx", ["top_k", 5], [["top_k"]]])
def test_an_order_with_unknown_samplers_is_rejected(order: object) -> None:
    with pytest.raises(OptionError) as refused:
        resolve({"sampler_priority": order})
    assert refused.value.option == "sampler_priority"


@pytest.mark.parametrize("text", ["\\n, :", '"a" "b"', '""', '"\\q"', "a", '"\\ud800"', '"a", "\ud800"'])
def test_sequence_breakers_without_quotes_are_rejected(text: str) -> None:
    with pytest.raises(OptionError) as refused:
        resolve({"dry_sequence_breakers": text})
    assert refused.value.option == "dry_sequence_breakers"


def test_more_sequence_breakers_than_can_be_looked_for_quickly_are_refused() -> None:
    assert resolve({"dry_sequence_breakers": ['"'] * MAX_BREAKERS})
    with pytest.raises(OptionError, match="at most 64 strings"):
        resolve({"dry_sequence_breakers": ['"'] * (MAX_BREAKERS + 1)})


def test_biases_become_pairs_of_token_and_bias() -> None:
    assert resolve({}, logit_bias={"5": -100, "70": 1.5})["logit_bias"] == [[5, -100.0], [70, 1.5]]


@pytest.mark.parametrize("bias", [{"a": 1}, {"-1": 1}, {"5": 101}, {"5": "1"}, {"5": True}, {"5": math.nan}])
def test_an_invalid_bias_is_rejected(bias: dict[str, object]) -> None:
    with pytest.raises(OptionError) as refused:
        resolve({}, logit_bias=bias)
    assert refused.value.option == "logit_bias"


def test_every_parameter_has_a_label_and_help_in_both_languages(subtests: pytest.Subtests) -> None:
    assert PARAMETERS
    for key, option in PARAMETERS.items():
        with subtests.test(key):
            for texts in (option.label, option.help):
                assert set(texts) == {"en", "zh"}
                assert all(texts.values())
            assert option.parse(option.default) == option.default


def test_a_value_has_an_effect_if_it_is_not_neutral_even_if_it_is_the_default() -> None:
    params = resolve({"min_p": 0.05, "temperature": 1.0, "dry_base": 2.0, "top_k": 0, "mirostat_mode": 2})
    assert effective(params, ["min_p", "temperature", "dry_base", "top_k", "mirostat_mode"]) == [
        "min_p",
        "mirostat_mode",
    ]
    assert effective(resolve({"min_p": 0.0}), ["min_p"]) == []
