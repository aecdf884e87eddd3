"""The logits that transformers computes in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.forked import forked


def logits_of(tokens: list[int], models: Mapping[str, Path], adapters: Mapping[str, Path]) -> dict[str, Any]:
    """Return arrays (tokens, vocabulary): for each model by its name, and with each adapter by "model adapter"."""
    return forked(_logits_of, tokens, dict(models), dict(adapters))


def _logits_of(tokens: list[int], models: dict[str, Path], adapters: dict[str, Path]) -> dict[str, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = {}
    with torch.no_grad():
        for name, path in models.items():
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            found[name] = _logits(model, tokens)
            for adapter, folder in adapters.items():
                adapted: Any = PeftModel.from_pretrained(model, folder).eval()
                found[f"{name} {adapter}"] = _logits(adapted, tokens)
                model = adapted.unload()
    return found


def _logits(model: Any, tokens: list[int]) -> Any:
    import torch

    return model(torch.tensor([tokens])).logits[0].numpy()
