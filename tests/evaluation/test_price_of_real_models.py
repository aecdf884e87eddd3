"""A price by a real engine: what is the same costs nothing, and every figure is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.paths import ROOT
from modules.evaluation.price_request import PriceRequest

SECONDS = 60.0
ALICE = ROOT / "training" / "datasets" / "alice-in-wonderland.txt"


def test_a_value_costs_nothing_compared_with_itself(make_app: Callable[..., App], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny.gguf").symlink_to(tiny)
    (tmp_path / "text.txt").write_bytes(ALICE.read_bytes()[:8000])
    app = make_app("--dataset-dir", str(tmp_path))
    options = {"n_ctx": 512, "threads": 1}
    id = app.prices.start(PriceRequest.parse("n_batch", 128, 128, "tiny.gguf", "llama.cpp", options, pairs=2))
    assert app.prices.wait(id, SECONDS)
    state = app.prices.find(id)
    result = state.result
    assert state.error is None and result is not None and not result.quality_problem
    perplexity = result.effect("perplexity")
    assert perplexity is not None and not perplexity.is_seen and perplexity.change.mean == pytest.approx(0, abs=1e-9)
    assert result.kl is not None and abs(result.kl.mean) < 1e-6
    assert result.same_top is not None and result.same_top.mean == 1
    measured = {effect.metric for effect in result.effects}
    assert measured >= {"perplexity", "memory", "load_seconds", "prompt_speed", "decode_speed"}
    assert "llama_cpp_python" in result.packages
