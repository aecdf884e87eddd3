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


def lm_eval_perplexity(path: Path, text: str, length: int) -> float:
    """Return the perplexity per token as lm-eval's loglikelihood_rolling defines it, for windows of `length` tokens."""
    return forked(_lm_eval_perplexity, path, text, length)


def _lm_eval_perplexity(path: Path, text: str, length: int) -> float:
    import torch

    model, tokenizer = reference_model(path, {"dtype": torch.float32})
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    total, scored = 0.0, 0
    while scored < len(tokens):
        end = min(scored + length, len(tokens))
        before = max(end - length - 1, 0)  # the last window is filled up with context
        read = tokens[before : end - 1] if scored else [prefix, *tokens[: end - 1]]
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([read])).logits[0].double().log_softmax(-1)
        targets = tokens[scored:end]
        total += sum(float(row[target]) for row, target in zip(logprobs[-len(targets) :], targets, strict=True))
        scored = end
    return math.exp(-total / len(tokens))


def _perplexities(paths: Sequence[Path], text: str) -> list[float]:
    import torch

    found = []
    for path in paths:
        model, tokenizer = reference_model(path, {"dtype": torch.float32})
        tokens = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(math.exp(model(input_ids=tokens, labels=tokens).loss.item()))
    return found
