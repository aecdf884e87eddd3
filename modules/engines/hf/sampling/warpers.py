"""What reshapes a distribution or cuts it, where transformers has no such class or one that sorts the vocabulary.

Each takes the tokens so far, [batch, length], and logits, [batch, vocabulary], and returns new logits; a token that was
cut has minus infinity. The likeliest token of a row always stays, unless XTC takes it, which then leaves another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import LogitsProcessor

_LOOKS = (1 << 9, 1 << 14, 1 << 30)
"""How many tokens to look through, one after the other, until they hold what a cut keeps: nearly always the first.

Sorting 150,000 takes 12 ms, finding the first 512 of them takes 0.5."""


def _cut(scores: Tensor, dropped: Tensor) -> Tensor:
    return scores.masked_fill(dropped, -math.inf)


def _below(scores: Tensor, chances: Tensor, bound: Tensor | float) -> Tensor:
    """Drops what is less likely than `bound`, but never the likeliest."""
    return _cut(scores, (chances < bound) & (chances < chances.amax(dim=1, keepdim=True)))


class DynamicTemperature(LogitsProcessor):
    """The temperature goes from `low` to `high` with the entropy of the distribution, as in llama.cpp.

    temperature = low + (high - low) * (entropy / highest entropy of as many candidates) ** exponent
    """

    def __init__(self, low: float, high: float, exponent: float) -> None:
        self._low, self._high, self._exponent = low, high, exponent

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(dim=1)
        entropy = -(logs.exp() * logs).nansum(dim=1, keepdim=True)
        highest = scores.isfinite().sum(dim=1, keepdim=True).log()
        share = torch.where(highest > 0, entropy / highest, 0.0).clamp(0, 1)
        return scores / (self._low + (self._high - self._low) * share**self._exponent)


class Smoothing(LogitsProcessor):
    """Quadratic sampling, by kalomaze: with d the distance to the best logit, that best plus -k f d² + s f d³.

    k = (3 - curve) / 2 and s = (curve - 1) / 2, so that a curve of 1 gives a parabola; d is negative.
    """

    def __init__(self, factor: float, curve: float) -> None:
        self._square, self._cube = factor * (3 - curve) / 2, factor * (curve - 1) / 2

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        best = scores.amax(dim=1, keepdim=True)
        distance = scores - best
        bent = distance**2 * (self._cube * distance - self._square) + best
        return torch.where(scores.isfinite(), bent, scores)


class TopP(LogitsProcessor):
    """Nucleus sampling: the fewest of the likeliest tokens that reach `mass` together.

    The same set as transformers' own, which sorts the vocabulary.
    """

    def __init__(self, mass: float) -> None:
        self._mass = mass

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chances = scores.softmax(dim=1)
        for count in _LOOKS:
            likely, places = chances.topk(min(count, scores.shape[1]), dim=1)
            before = likely.cumsum(dim=1, dtype=torch.float64) - likely
            if bool((before[:, -1] + likely[:, -1] >= self._mass).all()):
                break
        kept = before < self._mass
        kept[:, 0] = True
        return _cut(scores, torch.ones_like(scores, dtype=torch.bool).scatter(1, places, ~kept))


class Typical(LogitsProcessor):
    """Locally typical sampling (arXiv 2202.00666): those whose surprise is nearest to the entropy, up to `mass`.

    The same set as transformers' own, which sorts the vocabulary.
    """

    def __init__(self, mass: float) -> None:
        self._mass = mass

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(dim=1)
        chances = logs.exp()
        entropy = -(logs * chances).nansum(dim=1, keepdim=True)
        strange = (-logs - entropy).abs()
        for count in _LOOKS:
            nearest, places = strange.topk(min(count, scores.shape[1]), dim=1, largest=False)
            masses = chances.gather(1, places).cumsum(dim=1, dtype=torch.float64)
            if bool((masses[:, -1] >= self._mass).all()):
                break
        last = (masses < self._mass).sum(dim=1, keepdim=True).clamp(max=nearest.shape[1] - 1)
        return _cut(scores, strange > nearest.gather(1, last))


class TailFree(LogitsProcessor):
    """Tail-free sampling (trentbrick.github.io/Tail-Free-Sampling): cuts where the curve of probabilities levels off.

    That is where the weights of the second derivative reach `z`; as two differences take two places, the first token
    stays whatever it weighs and the last one goes.
    """

    def __init__(self, z: float) -> None:
        self._z = z

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        size = scores.shape[1]
        if size < 3:
            return scores
        alive = int(scores.isfinite().sum(dim=1).max())
        likely, places = scores.softmax(dim=1).topk(min(max(alive, 1) + 2, size), dim=1)
        bends = likely.diff(dim=1).diff(dim=1).abs()
        total = bends.sum(dim=1, keepdim=True)
        # Without any bend every place weighs the same.
        weights = torch.where(total > 1e-6, bends / total, 1 / bends.shape[1])
        reached = weights.cumsum(dim=1, dtype=torch.float64) > self._z
        first = torch.zeros_like(reached[:, :1])
        dropped = torch.cat([first, reached, ~first], dim=1)
        return _cut(scores, torch.ones_like(scores, dtype=torch.bool).scatter(1, places, dropped))


class TopA(LogitsProcessor):
    """Drops what is less likely than `a` times the square of the highest probability."""

    def __init__(self, a: float) -> None:
        self._a = a

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chances = scores.softmax(dim=1)
        return _below(scores, chances, self._a * chances.amax(dim=1, keepdim=True) ** 2)


class TopNSigma(LogitsProcessor):
    """Drops what is more than `n` standard deviations below the best logit (arXiv 2411.07641), as in llama.cpp."""

    def __init__(self, n: float) -> None:
        self._n = n

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        alive = scores.isfinite()
        count = alive.sum(dim=1, keepdim=True)
        mean = torch.where(alive, scores, 0.0).sum(dim=1, keepdim=True) / count
        spread = torch.where(alive, (scores - mean) ** 2, 0.0).sum(dim=1, keepdim=True)
        return _cut(scores, scores < scores.amax(dim=1, keepdim=True) - self._n * (spread / count).sqrt())


class Xtc(LogitsProcessor):
    """Exclude top choices: with `probability`, of the tokens at least as likely as `threshold` only the last stays."""

    def __init__(self, threshold: float, probability: float, generator: torch.Generator) -> None:
        self._threshold, self._probability, self._generator = threshold, probability, generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        luck = torch.rand(scores.shape[0], 1, generator=self._generator, device=self._generator.device)
        chances = scores.softmax(dim=1)
        top = chances >= self._threshold
        least = torch.where(top, chances, math.inf).amin(dim=1, keepdim=True)
        dropped = top & (chances > least) & (luck.to(scores.device) <= self._probability)
        return _cut(scores, dropped)
