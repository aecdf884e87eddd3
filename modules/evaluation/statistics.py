"""Perplexity with its errors, bits per byte, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Scores = Sequence[Sequence[float]]
"""Natural-log probabilities of the scored tokens, window by window."""

_T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_NORMAL_975 = 1.959963985


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log probability of all scored tokens, and its standard errors.

    `error` is estimated from the windows, whose tokens depend on each other; with a single window it is
    `token_error`, which takes tokens as independent, as llama-perplexity does.
    """

    value: float
    error: float
    token_error: float
    tokens: int
    windows: int


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its 95 % confidence interval; without ends if there are too few measurements."""

    mean: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether no difference was seen."""
        return not (self.low > 0 or self.high < 0)


def perplexity(scores: Scores) -> Perplexity:
    """Return the perplexity of windows that have at least one token in all.

    It is infinite if a token is impossible, and NaN if the model produces NaN.
    """
    losses = [-value for window in scores for value in window]
    count, total = len(losses), math.fsum(losses)
    if not math.isfinite(total):
        value = math.nan if math.isnan(total) else math.inf
        return Perplexity(value, math.nan, math.nan, count, len(scores))
    mean = total / count
    value = exp(mean)
    variance = math.fsum((loss - mean) ** 2 for loss in losses) / count
    token_error = value * math.sqrt(variance / (count - 1)) if count > 1 else math.nan
    by_window = standard_error([[-value for value in window] for window in scores])
    error = token_error if math.isnan(by_window) else value * by_window
    return Perplexity(value, error, token_error, count, len(scores))


def standard_error(windows: Scores) -> float:
    """Return the standard error of the mean of all numbers, whose windows are independent; NaN for one window.

    SE² = W/(W-1) · Σ(S - μn)² / N², where a window has n of the N numbers and the sum S.
    """
    count = sum(map(len, windows))
    if len(windows) < 2:
        return math.nan
    mean = math.fsum(value for window in windows for value in window) / count
    squares = math.fsum((math.fsum(window) - mean * len(window)) ** 2 for window in windows)
    return math.sqrt(len(windows) / (len(windows) - 1) * squares) / count


def bits_per_byte(scores: Scores, size: int) -> float:
    """Return the bits that a byte of the text takes; `size` is that of the scored tokens in bytes, at least 1.

    It compares models with different tokenizers.
    """
    return -math.fsum(value for window in scores for value in window) / math.log(2) / size


def compare(scores: Scores, base: Scores) -> Interval:
    """Return how much higher the mean loss of `scores` is than that of `base`, in nats per token.

    Both must have scored the same tokens of the same windows: the differences are taken token by token, so that how
    hard the text is cancels out. exp of it is the ratio of the perplexities.
    """
    differences = [
        [b - a for a, b in zip(window, other, strict=True)] for window, other in zip(scores, base, strict=True)
    ]
    return clustered_mean(differences)


def clustered_mean(windows: Scores) -> Interval:
    """Return the mean of all numbers with its 95 % interval, where the windows are independent of each other."""
    count = sum(map(len, windows))
    mean = math.fsum(value for window in windows for value in window) / count
    return _interval(mean, standard_error(windows), len(windows))


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent measurements with its 95 % interval."""
    return clustered_mean([[value] for value in values])


def _interval(mean: float, error: float, count: int) -> Interval:
    if math.isnan(error):
        return Interval(mean, math.nan, math.nan)
    margin = t_quantile(count - 1) * error
    return Interval(mean, mean - margin, mean + margin)


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution with so many degrees of freedom, at least 1.

    Beyond the table it is the expansion of Abramowitz and Stegun, 26.7.5, which errs by less than 1e-4 there.
    """
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z, n = _NORMAL_975, freedom
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of at least one value lie, interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def exp(value: float) -> float:
    """Return e to the power of a value; infinity where a float ends."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
