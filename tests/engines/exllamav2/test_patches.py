"""ExLlamaV2's attention, put right where it is wrong. Of its LoRAs: tests/engines/exllamav2/test_standin.py."""

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

ROUNDED = 0.001  # by float16, as a share
WINDOW = 10
OURS = ("fused", "step by step")
Shares = dict[str, dict[str, float | None]]


@pytest.fixture(scope="module")
def off(backend: None) -> Shares:
    found: Shares = json.loads(printed_by("tests.support.exllamav2_attention").splitlines()[-1])
    return found


@needs_exllamav2
@pytest.mark.parametrize("way", OURS)
def test_every_token_sees_what_it_should_and_no_number_is_lost(off: Shares, way: str) -> None:
    wrong = {case: share for case, share in off[way].items() if share is None or share > ROUNDED}
    assert len(off[way]) == 10 and not wrong


@needs_exllamav2
def test_the_package_still_needs_it(off: Shares) -> None:
    """Of 0.3.2: once these are right, `look_back` of exllamav2_mended can go as far as they are concerned."""
    packages = off["exllamav2 0.3.2"]
    assert packages["large numbers"] is None, "scores beyond 16 bits"
    for case in ("a prompt longer than its window", "a prompt after others with a window", "a cap and a window"):
        assert (packages[case] or 0) > 0.5, case
    assert (packages["a prompt"] or 1) < ROUNDED, "the measure is right"


@needs_exllamav2
def test_a_model_with_windows_has_the_logits_that_it_has_under_transformers(
    shallow_folder: Path, tmp_path: Path
) -> None:
    """As a Mistral whose layers all have one; a text of four windows is read at once, its end token by token."""
    tokens: list[int] = Tokenizer.from_file(str(shallow_folder / "tokenizer.json")).encode(TEXT).ids
    assert len(tokens) > 4 * WINDOW
    theirs = logits_of(tokens, {"mistral": as_mistral(shallow_folder, tmp_path / "mistral")}, {})["mistral"]
    ours, _ = probed(shallow_folder, tmp_path, tokens=tokens, caches=[""], window=WINDOW)
    near(ours["none"], theirs, FLOAT16)
    near(ours["cache "], theirs, FLOAT16)


def as_mistral(folder: Path, copy: Path) -> Path:
    config: dict[str, Any] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    return linked_folder(folder, copy, sliding_window=WINDOW, **config)
