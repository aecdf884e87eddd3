"""Transformers 4.51 computes what Transformers 5 does for the folders that version 5 writes, or refuses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT
from modules.loaders.availability import unavailable
from modules.loaders.registry import LOADERS
from tests.support.linked_folder import linked_folder

AUTOAWQ = LOADERS["AutoAWQ"]
ABSENT = unavailable(AUTOAWQ)
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))

FACTORS = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SCALED: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 512},
    "yarn with a factor of its own": {"factor": 8.0, "original_max_position_embeddings": 2048},
    "yarn with all parameters": {
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "attention_factor": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "llama3": LLAMA3,
    "longrope": {"original_max_position_embeddings": 512} | FACTORS,
    "longrope with a factor of its own": {"original_max_position_embeddings": 512, "factor": 8.0} | FACTORS,
}
NOT_READ = {
    "a key of a later version": {"attention_output_gate_scale": 2.5},
    "a list": {"rope_layers": [0, 2]},
}
HARMLESS = {"unsloth_fixed": True, "attention_dropout_type": "none", "some_bias": False, "logit_scaling_2": None}


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return copies of the tiny model, whose heads have 4 elements, with each kind of RoPE."""
    parent = tmp_path_factory.mktemp("ropes")
    configs = {
        name: {"rope_parameters": {"rope_type": name.partition(" ")[0], "rope_theta": 5e5, **rope}}
        for name, rope in SCALED.items()
    }
    configs |= NOT_READ | {"harmless keys": HARMLESS}
    return [linked_folder(tiny_folder, parent / name, **config) for name, config in configs.items()]


def probe(folders: list[Path], **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.rope_probe", *map(str, folders)]
    child = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def test_rope_and_tokens_are_those_of_version_5_or_the_key_is_named(
    backend: None, folders: list[Path], subtests: pytest.Subtests
) -> None:
    assert AUTOAWQ.overlay is not None
    old = probe(folders, PYTHONPATH=str(AUTOAWQ.overlay.folder))
    new = probe(folders)
    assert old["tokens"] == new["tokens"]
    for name in (*SCALED, "harmless keys"):
        with subtests.test(folder=name):
            (frequencies, attention), (expected, expected_attention) = old[name], new[name]
            assert frequencies == pytest.approx(expected, rel=1e-6)
            assert attention == pytest.approx(expected_attention)
    assert old["a key of a later version"] == "attention_output_gate_scale=2.5"
    assert old["a list"] == "rope_layers"
