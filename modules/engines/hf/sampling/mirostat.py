"""Mirostat (arXiv 2007.14966): cuts so that the surprise of the text stays near a target, as llama.cpp does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

_ESTIMATED_FROM = 100  # how many of the likeliest tokens version 1 estimates from, as in its paper


@dataclass(frozen=True)
class _Step:
    """What one step was drawn from: the bound on the surprise, in bits, [batch, 1], and the logits that it left."""

    bound: Tensor
    left: Tensor


class Mirostat(LogitsProcessor):
    """Of the two versions `mode` 1 or 2. It learns what was drawn from the tokens of the next call.

    `depth` steps are remembered by the length of the text, so that a guess of several tokens can be taken back.
    """

    def __init__(self, mode: int, tau: float, eta: float, depth: int = 1) -> None:
        self._cut = _first_version if mode == 1 else _second_version
        self._tau, self._eta, self._depth = tau, eta, depth
        self._steps: dict[int, _Step] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length = input_ids.shape[1]
        bound = self._bound(input_ids, scores)
        left = self._cut(scores, bound)
        kept = {place: step for place, step in self._steps.items() if length - self._depth <= place < length}
        self._steps = kept | {length: _Step(bound, left)}
        return left

    def _bound(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        before = max((place for place in self._steps if place < input_ids.shape[1]), default=None)
        if before is None:
            return torch.full((scores.shape[0], 1), 2 * self._tau, device=scores.device)
        step = self._steps[before]
        if before < input_ids.shape[1] - 1:
            return step.bound
        drawn = step.left.log_softmax(dim=1).gather(1, input_ids[:, -1:])
        surprise = -drawn / math.log(2)
        # A token that was out of reach was not drawn from here: nothing to learn from it.
        return torch.where(surprise.isfinite(), step.bound - self._eta * (surprise - self._tau), step.bound)


def _second_version(scores: Tensor, bound: Tensor) -> Tensor:
    """Drops what surprises more than `bound`, but never the likeliest."""
    logs = scores.log_softmax(dim=1)
    dropped = (-logs / math.log(2) > bound) & (logs < logs.amax(dim=1, keepdim=True))
    return scores.masked_fill(dropped, -math.inf)


def _first_version(scores: Tensor, bound: Tensor) -> Tensor:
    """Takes the distribution for one by Zipf's law, and keeps as many of the likeliest as give that surprise."""
    size = scores.shape[1]
    logs = scores.log_softmax(dim=1).topk(min(_ESTIMATED_FROM, size), dim=1).values
    steps = torch.arange(1, logs.shape[1], device=scores.device)
    ranks = ((steps + 1) / steps).log()
    falls = logs[:, :-1] - logs[:, 1:]
    usable = falls.isfinite()
    weighted = torch.where(usable, ranks * falls, 0.0).sum(dim=1, keepdim=True)
    slope = weighted / torch.where(usable, ranks**2, 0.0).sum(dim=1, keepdim=True)
    above = slope - 1
    count = (above * 2**bound / (1 - size**-above)) ** (1 / slope)
    count = torch.where(count.isfinite(), count.floor(), float(size)).clamp(1, size)
    least = scores.topk(int(count.max()), dim=1).values.gather(1, count.long() - 1)
    return scores.masked_fill(scores < least, -math.inf)
