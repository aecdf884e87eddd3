"""Warpers that rescale or truncate the distribution, where transformers has none or one that sorts the vocabulary.

Each takes `input_ids`, the tokens so far, int64 [batch, length], and `scores`, logits [batch, vocabulary], and returns
new logits. Removed tokens get minus infinity. The most likely token of a row is always kept, except by XTC, which keeps
another one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LogitsProcessor

_CANDIDATE_COUNTS = (1 << 9, 1 << 14, 1 << 30)
"""Numbers of candidates to search, in turn, until they contain everything to keep: nearly always the first.

Sorting 150,000 tokens takes 12 ms, finding the top 512 of them 0.5 ms."""


def _mask(scores: Tensor, removed: Tensor) -> Tensor:
    return scores.masked_fill(removed, -math.inf)


def _remove_below(scores: Tensor, probs: Tensor, threshold: Tensor | float) -> Tensor:
    """Remove tokens with a probability below `threshold`, but never the most likely one."""
    return _mask(scores, (probs < threshold) & (probs < probs.amax(dim=1, keepdim=True)))


class DynamicTemperature(LogitsProcessor):
    """A temperature between `low` and `high` that grows with the entropy of the distribution, as in llama.cpp.

    temperature = low + (high - low) * (entropy / maximum entropy of as many candidates) ** exponent
    """

    def __init__(self, low: float, high: float, exponent: float) -> None:
        self._low, self._high, self._exponent = low, high, exponent

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs = scores.log_softmax(dim=1)
        entropy = -(logprobs.exp() * logprobs).nansum(dim=1, keepdim=True)
        max_entropy = scores.isfinite().sum(dim=1, keepdim=True).log()
        fraction = torch.where(max_entropy > 0, entropy / max_entropy, 0.0).clamp(0, 1)
        return scores / (self._low + (self._high - self._low) * fraction**self._exponent)


class Smoothing(LogitsProcessor):
    """Quadratic sampling, by kalomaze: with d the distance to the best logit, the new logit is best - k f d² + s f d³.

    k = (3 - curve) / 2 and s = (curve - 1) / 2, so that a curve of 1 gives a parabola; d is negative.
    """

    def __init__(self, factor: float, curve: float) -> None:
        self._square, self._cube = factor * (3 - curve) / 2, factor * (curve - 1) / 2

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best = scores.amax(dim=1, keepdim=True)
        distance = scores - best
        smoothed = distance**2 * (self._cube * distance - self._square) + best
        return torch.where(scores.isfinite(), smoothed, scores)


class TopP(LogitsProcessor):
    """Nucleus sampling: keep the fewest of the most likely tokens whose probabilities add up to `mass`.

    The result is that of transformers' own, which sorts the vocabulary.
    """

    def __init__(self, mass: float) -> None:
        self._mass = mass

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probs = scores.softmax(dim=1)
        for count in _CANDIDATE_COUNTS:
            top, tokens = probs.topk(min(count, scores.shape[1]), dim=1)
            preceding = top.cumsum(dim=1, dtype=torch.float64) - top
            if bool((preceding[:, -1] + top[:, -1] >= self._mass).all()):
                break
        kept = preceding < self._mass
        kept[:, 0] = True
        return _mask(scores, torch.ones_like(scores, dtype=torch.bool).scatter(1, tokens, ~kept))


class Typical(LogitsProcessor):
    """Locally typical sampling (arXiv 2202.00666): keep tokens whose surprise is closest to the entropy, up to `mass`.

    The result is that of transformers' own, which sorts the vocabulary.
    """

    def __init__(self, mass: float) -> None:
        self._mass = mass

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs = scores.log_softmax(dim=1)
        probs = logprobs.exp()
        entropy = -(logprobs * probs).nansum(dim=1, keepdim=True)
        deviation = (-logprobs - entropy).abs()
        for count in _CANDIDATE_COUNTS:
            smallest, tokens = deviation.topk(min(count, scores.shape[1]), dim=1, largest=False)
            masses = probs.gather(1, tokens).cumsum(dim=1, dtype=torch.float64)
            if bool((masses[:, -1] >= self._mass).all()):
                break
        last = (masses < self._mass).sum(dim=1, keepdim=True).clamp(max=smallest.shape[1] - 1)
        return _mask(scores, deviation > smallest.gather(1, last))


class TailFree(LogitsProcessor):
    """Tail-free sampling (trentbrick.github.io/Tail-Free-Sampling): cut where the sorted probabilities flatten.

    That is where the normalized second derivatives add up to `z`. As differencing twice loses two positions, the first
    token is always kept and the last one always removed.
    """

    def __init__(self, z: float) -> None:
        self._z = z

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        size = scores.shape[1]
        if size < 3:
            return scores
        candidates = int(scores.isfinite().sum(dim=1).max())
        top, tokens = scores.softmax(dim=1).topk(min(max(candidates, 1) + 2, size), dim=1)
        curvature = top.diff(dim=1).diff(dim=1).abs()
        total = curvature.sum(dim=1, keepdim=True)
        # Without any curvature all positions weigh the same.
        weights = torch.where(total > 1e-6, curvature / total, 1 / curvature.shape[1])
        exceeded = weights.cumsum(dim=1, dtype=torch.float64) > self._z
        first = torch.zeros_like(exceeded[:, :1])
        removed = torch.cat([first, exceeded, ~first], dim=1)
        return _mask(scores, torch.ones_like(scores, dtype=torch.bool).scatter(1, tokens, removed))


class TopA(LogitsProcessor):
    """Remove tokens with a probability below `a` times the square of the highest one."""

    def __init__(self, a: float) -> None:
        self._a = a

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probs = scores.softmax(dim=1)
        return _remove_below(scores, probs, self._a * probs.amax(dim=1, keepdim=True) ** 2)


class TopNSigma(LogitsProcessor):
    """Remove tokens more than `n` standard deviations below the best logit (arXiv 2411.07641), as in llama.cpp."""

    def __init__(self, n: float) -> None:
        self._n = n

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        finite = scores.isfinite()
        count = finite.sum(dim=1, keepdim=True)
        mean = torch.where(finite, scores, 0.0).sum(dim=1, keepdim=True) / count
        squares = torch.where(finite, (scores - mean) ** 2, 0.0).sum(dim=1, keepdim=True)
        return _mask(scores, scores < scores.amax(dim=1, keepdim=True) - self._n * (squares / count).sqrt())


class Xtc(LogitsProcessor):
    """Exclude top choices: with `probability`, keep only the least likely of the tokens that reach `threshold`."""

    def __init__(self, threshold: float, probability: float, generator: torch.Generator) -> None:
        self._threshold, self._probability, self._generator = threshold, probability, generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draw = torch.rand(scores.shape[0], 1, generator=self._generator, device=self._generator.device)
        probs = scores.softmax(dim=1)
        top = probs >= self._threshold
        least = torch.where(top, probs, math.inf).amin(dim=1, keepdim=True)
        removed = top & (probs > least) & (draw.to(scores.device) <= self._probability)
        return _mask(scores, removed)
