"""One table describes the parameters of training; values are checked alone and against each other."""

from __future__ import annotations

import re

import pytest

from modules.core.errors import OptionError, UnknownOption
from modules.training.parameters import GROUPS, PARAMETERS, defaults, parse_parameters


def test_defaults_are_valid(subtests: pytest.Subtests) -> None:
    assert parse_parameters({}) == defaults()
    for key, option in PARAMETERS.items():
        with subtests.test(key):
            assert option.group in GROUPS
            assert option.parse(option.default) == option.default


def test_helps_are_short_and_in_both_languages(subtests: pytest.Subtests) -> None:
    for key, option in PARAMETERS.items():
        with subtests.test(key):
            assert 10 <= len(option.help["en"]) <= 112
            assert len(option.help["zh"]) <= 60
            assert re.search("[一-鿿]", option.help["zh"])
            assert not re.search(r"[一-鿿][A-Za-z]|[A-Za-z][一-鿿]", option.help["zh"])


def test_values_are_parsed_as_files_and_forms_write_them() -> None:
    parsed = parse_parameters({"learning_rate": "3e-4", "lora_rank": 8.0, "add_eos_token": "false"})
    assert (parsed["learning_rate"], parsed["lora_rank"], parsed["add_eos_token"]) == (3e-4, 8, False)


INVALID = {
    "a batch that is no multiple of the micro batch": ("micro_batch_size", {"batch_size": 6, "micro_batch_size": 4}),
    "a micro batch larger than the batch": ("micro_batch_size", {"batch_size": 2}),
    "two sources": ("raw_text_file", {"dataset": "a.json", "raw_text_file": "b.txt"}),
    "windows that do not advance": ("overlap_len", {"raw_text_file": "b.txt", "cutoff_len": 64}),
    "nothing to train": ("all_linear", {"all_linear": False}),
    "no text to train after": ("train_only_after", {"train_on": "after"}),
    "an odd rank of two halves": ("lora_rank", {"lora_rank": 5, "init_lora_weights": "orthogonal"}),
    "a rank of zero": ("lora_rank", {"lora_rank": 0}),
    "a rate that is no number": ("learning_rate", {"learning_rate": "nan"}),
    "a batch of zero": ("micro_batch_size", {"micro_batch_size": 0}),
}


def test_an_invalid_value_names_its_field(subtests: pytest.Subtests) -> None:
    for name, (field, raw) in INVALID.items():
        with subtests.test(name), pytest.raises(OptionError) as refusal:
            parse_parameters(raw)
        assert refusal.value.option == field


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownOption, match="lora_rank"):
        parse_parameters({"lora_rang": 8})
