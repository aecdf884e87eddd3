"""Mirostat (arXiv 2007.14966): truncation that keeps the surprise of the text near a target, as in llama.cpp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

_ZIPF_TOKENS = 100  # top tokens from which version 1 estimates the exponent, as in the paper


@dataclass(frozen=True)
class _Step:
    """What one token was sampled from: the maximum surprise in bits [batch, 1], and the logits [batch, vocabulary]."""

    max_surprise: Tensor
    logits: Tensor


class Mirostat(LogitsProcessor):
    """Mirostat version `mode`, 1 or 2. It sees from the tokens of the next call which token was sampled.

    The last `depth` steps are remembered by the length of the text, so that rejected draft tokens can be undone.
    """

    def __init__(self, mode: int, tau: float, eta: float, depth: int = 1) -> None:
        self._truncate = _truncate_by_zipf if mode == 1 else _truncate_by_surprise
        self._tau, self._eta, self._depth = tau, eta, depth
        self._steps: dict[int, _Step] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length = input_ids.shape[1]
        max_surprise = self._max_surprise(input_ids, scores)
        logits = self._truncate(scores, max_surprise)
        recent = {at: step for at, step in self._steps.items() if length - self._depth <= at < length}
        self._steps = recent | {length: _Step(max_surprise, logits)}
        return logits

    def _max_surprise(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the maximum surprise for the next token, corrected by that of the last one."""
        previous = max((length for length in self._steps if length < input_ids.shape[1]), default=None)
        if previous is None:
            return torch.full((scores.shape[0], 1), 2 * self._tau, device=scores.device)
        step = self._steps[previous]
        if previous < input_ids.shape[1] - 1:
            return step.max_surprise
        logprob = step.logits.log_softmax(dim=1).gather(1, input_ids[:, -1:])
        surprise = -logprob / math.log(2)
        corrected = step.max_surprise - self._eta * (surprise - self._tau)
        # A token that had been removed was not sampled from this step, so there is nothing to correct.
        return torch.where(surprise.isfinite(), corrected, step.max_surprise)


def _truncate_by_surprise(scores: Tensor, max_surprise: Tensor) -> Tensor:
    """Version 2: remove tokens with a higher surprise, but never the most likely one."""
    logprobs = scores.log_softmax(dim=1)
    removed = (-logprobs / math.log(2) > max_surprise) & (logprobs < logprobs.amax(dim=1, keepdim=True))
    return scores.masked_fill(removed, -math.inf)


def _truncate_by_zipf(scores: Tensor, max_surprise: Tensor) -> Tensor:
    """Version 1: keep as many top tokens as have that surprise if the distribution follows Zipf's law."""
    size = scores.shape[1]
    logprobs = scores.log_softmax(dim=1).topk(min(_ZIPF_TOKENS, size), dim=1).values
    ranks = torch.arange(1, logprobs.shape[1], device=scores.device)
    log_rank_ratios = ((ranks + 1) / ranks).log()
    differences = logprobs[:, :-1] - logprobs[:, 1:]
    finite = differences.isfinite()
    products = torch.where(finite, log_rank_ratios * differences, 0.0).sum(dim=1, keepdim=True)
    exponent = products / torch.where(finite, log_rank_ratios**2, 0.0).sum(dim=1, keepdim=True)
    excess = exponent - 1
    count = (excess * 2**max_surprise / (1 - size**-excess)) ** (1 / exponent)
    count = torch.where(count.isfinite(), count.floor(), float(size)).clamp(1, size)
    lowest = scores.topk(int(count.max()), dim=1).values.gather(1, count.long() - 1)
    return scores.masked_fill(scores < lowest, -math.inf)
