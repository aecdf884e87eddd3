"""Patches of ExLlamaV2's attention. Those for LoRAs are tested in tests/engines/exllamav2/test_standin.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.engines.exllamav2.test_standin import FLOAT16, TEXT, check_close, needs_exllamav2
from tests.support.exllamav2_forked import output_of, probe
from tests.support.hf_logits import logits_of
from tests.support.linked_folder import linked_folder

ROUNDING_ERROR = 0.001  # relative, in float16
WINDOW = 10
PATCHED = ("fused", "step by step")
Errors = dict[str, dict[str, float | None]]


@pytest.fixture(scope="module")
def errors_by_variant(backend: None) -> Errors:
    errors: Errors = json.loads(output_of("tests.support.exllamav2_attention").splitlines()[-1])
    return errors


@needs_exllamav2
@pytest.mark.parametrize("variant", PATCHED)
def test_attention_is_causal_within_its_window_and_does_not_overflow(errors_by_variant: Errors, variant: str) -> None:
    wrong = {
        case: error for case, error in errors_by_variant[variant].items() if error is None or error > ROUNDING_ERROR
    }
    assert len(errors_by_variant[variant]) == 10 and not wrong


@needs_exllamav2
def test_the_package_still_needs_our_attention_patches(errors_by_variant: Errors) -> None:
    """These cases fail in ExLlamaV2 0.3.2. Once a later version computes them correctly, `patch_attention` can go."""
    errors = errors_by_variant["exllamav2 0.3.2"]
    assert errors["large numbers"] is None, "scores overflow float16"
    for case in ("a prompt longer than its window", "a prompt after cached tokens with a window", "a cap and a window"):
        assert (errors[case] or 0) > 0.5, case
    assert (errors["a prompt"] or 1) < ROUNDING_ERROR, "other cases are correct"


@needs_exllamav2
def test_a_model_with_sliding_windows_has_the_logits_of_transformers(shallow_folder: Path, tmp_path: Path) -> None:
    """The model is loaded as a Mistral with a window in every layer; the text has the length of four windows."""
    tokens: list[int] = Tokenizer.from_file(str(shallow_folder / "tokenizer.json")).encode(TEXT).ids
    assert len(tokens) > 4 * WINDOW
    theirs = logits_of(tokens, {"mistral": as_mistral(shallow_folder, tmp_path / "mistral")}, {})["mistral"]
    ours, _ = probe(shallow_folder, tmp_path, tokens=tokens, caches=[""], window=WINDOW)
    check_close(ours["none"], theirs, FLOAT16)
    check_close(ours["cache "], theirs, FLOAT16)


def as_mistral(folder: Path, copy: Path) -> Path:
    config: dict[str, Any] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    return linked_folder(folder, copy, sliding_window=WINDOW, **config)
