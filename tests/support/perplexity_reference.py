"""The perplexity of models on one text, by transformers alone in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tests.support.forked import forked
from tests.support.hf_reference import reference_model


def perplexities(paths: Sequence[Path], text: str) -> list[float]:
    """Return one for each model folder."""
    return forked(_perplexities, paths, text)


def _perplexities(paths: Sequence[Path], text: str) -> list[float]:
    import torch

    found = []
    for path in paths:
        model, tokenizer = reference_model(path, {"dtype": torch.float32})
        tokens = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(math.exp(model(input_ids=tokens, labels=tokens).loss.item()))
    return found
