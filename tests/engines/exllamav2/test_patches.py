"""Our corrections of ExLlamaV2's attention. For LoRAs see tests/engines/exllamav2/test_standin.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.engines.exllamav2.test_standin import FLOAT16, TEXT, near, needs_exllamav2
from tests.support.exllamav2_forked import printed_by, probed
from tests.support.hf_logits import logits_of
from tests.support.linked_folder import linked_folder

ROUNDED = 0.001  # relative error by float16
WINDOW = 10
OURS = ("fused", "step by step")
Shares = dict[str, dict[str, float | None]]


@pytest.fixture(scope="module")
def errors_by_variant(backend: None) -> Shares:
    errors: Shares = json.loads(printed_by("tests.support.exllamav2_attention").splitlines()[-1])
    return errors


@needs_exllamav2
@pytest.mark.parametrize("variant", OURS)
def test_attention_is_causal_within_its_window_and_does_not_overflow(errors_by_variant: Shares, variant: str) -> None:
    wrong = {case: share for case, share in errors_by_variant[variant].items() if share is None or share > ROUNDED}
    assert len(errors_by_variant[variant]) == 10 and not wrong


@needs_exllamav2
def test_the_package_still_needs_our_attention(errors_by_variant: Shares) -> None:
    """These cases fail in ExLlamaV2 0.3.2. Once they are right there, `patch_attention` can be removed."""
    packages = errors_by_variant["exllamav2 0.3.2"]
    assert packages["large numbers"] is None, "scores beyond 16 bits"
    for case in ("a prompt longer than its window", "a prompt after others with a window", "a cap and a window"):
        assert (packages[case] or 0) > 0.5, case
    assert (packages["a prompt"] or 1) < ROUNDED, "the measure is right"


@needs_exllamav2
def test_a_model_with_sliding_windows_has_the_logits_of_transformers(shallow_folder: Path, tmp_path: Path) -> None:
    """The model becomes a Mistral with a window in every layer; a text of four windows is evaluated."""
    tokens: list[int] = Tokenizer.from_file(str(shallow_folder / "tokenizer.json")).encode(TEXT).ids
    assert len(tokens) > 4 * WINDOW
    theirs = logits_of(tokens, {"mistral": as_mistral(shallow_folder, tmp_path / "mistral")}, {})["mistral"]
    ours, _ = probed(shallow_folder, tmp_path, tokens=tokens, caches=[""], window=WINDOW)
    near(ours["none"], theirs, FLOAT16)
    near(ours["cache "], theirs, FLOAT16)


def as_mistral(folder: Path, copy: Path) -> Path:
    config: dict[str, Any] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    return linked_folder(folder, copy, sliding_window=WINDOW, **config)
