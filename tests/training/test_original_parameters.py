"""Files of the original web UI are read, and what changes is said."""

from __future__ import annotations

import pytest

from modules.training.original_parameters import read_parameters
from modules.training.parameters import defaults, parse_parameters

OLD = {
    "lora_name": "mine",
    "always_override": True,
    "q_proj_en": True,
    "v_proj_en": True,
    "k_proj_en": False,
    "save_steps": 0,
    "micro_batch_size": 4,
    "batch_size": 128,
    "epochs": 3,
    "learning_rate": "3e-4",
    "lr_scheduler_type": "linear",
    "lora_rank": 32,
    "lora_alpha": 64,
    "lora_dropout": 0.05,
    "cutoff_len": 256,
    "dataset": "alpaca_data",
    "eval_dataset": "None",
    "format": "alpaca-format",
    "eval_steps": 100.0,
    "raw_text_file": "None",
    "overlap_len": 128,
    "newline_favor_len": 128,
    "higher_rank_limit": False,
    "warmup_steps": 100,
    "optimizer": "adamw_hf",
    "hard_cut_string": "\\n\\n\\n",
    "train_only_after": "",
    "stop_at_loss": 0,
    "add_eos_token": False,
    "min_chars": 0,
    "report_to": "None",
}


def said(content: dict[str, object]) -> list[str]:
    return [note["en"] for note in read_parameters(content)[1]]


def test_an_old_file_is_read_with_steps_as_updates() -> None:
    values, notes = read_parameters(OLD)
    parsed = parse_parameters(values)
    assert (parsed["warmup_steps"], parsed["eval_steps"], parsed["save_steps"]) == (4, 4, 0)
    assert (parsed["learning_rate"], parsed["optimizer"], parsed["eval_dataset"]) == (3e-4, "adamw_torch", "")
    assert (parsed["all_linear"], parsed["q_proj_en"], parsed["k_proj_en"]) == (False, True, False)
    assert [note["en"] for note in notes] == [
        "warmup_steps: 100 micro-batches became 4 updates.",
        "eval_steps: 100 micro-batches became 4 updates.",
        "optimizer: adamw_hf is read as adamw_torch.",
    ]
    assert all(note["zh"] != note["en"] for note in notes)


def test_our_own_file_is_read_as_it_is() -> None:
    own = defaults() | {"warmup_steps": 7.0, "all_linear": False, "q_proj_en": True}
    assert read_parameters(own) == (own, [])


def test_newer_files_have_other_keys() -> None:
    values, notes = read_parameters({"all_linear": True, "gradient_checkpointing": False, "stride_length": 256})
    assert values == {"all_linear": True, "gradient_checkpointing": "off"}
    assert notes == []


def test_what_the_original_did_otherwise_is_said(subtests: pytest.Subtests) -> None:
    cases: dict[str, tuple[dict[str, object], str]] = {
        "an uneven batch": ({"batch_size": 10, "micro_batch_size": 4}, "batch_size: 10 is not a multiple"),
        "a large micro-batch": ({"batch_size": 2, "micro_batch_size": 4}, "4 is used"),
        "train only after": ({"train_only_after": "A:"}, "the original trained the whole text"),
        "an unknown key": ({"x" * 500: 1}, "x is not known and was left out."),
        "an invalid value": ({"lora_rank": "many"}, "It was left out."),
        "a value of another type": ({"epochs": [1]}, "It was left out."),
        "a batch of zero": ({"batch_size": 0, "micro_batch_size": 4}, "batch_size: 0"),
    }
    for name, (content, words) in cases.items():
        with subtests.test(name):
            (note,) = said(content)
            assert words in note
            assert len(note) < 200


def test_modules_are_those_that_the_oldest_versions_trained() -> None:
    values, _ = read_parameters({"lora_rank": 8})
    assert values == {"lora_rank": 8, "all_linear": False, "q_proj_en": True, "v_proj_en": True}
