"""The penalties, the chain of samplers and the small helpers: ext_sampling.cpp and part of cpp/sampling.cpp."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .candidates import Candidates


def apply_rep_penalty(
    sequence: Tensor,
    penalty_max: float,
    sustain: int,
    decay: int,
    alpha_frequency: float,
    alpha_presence: float,
    logits: Tensor,
) -> None:
    assert (sequence.dtype, logits.dtype) == (torch.long, torch.float)
    penalties = np.array([penalty_max, alpha_frequency, alpha_presence])
    for ids, own in zip(sequence.tolist(), logits.view(len(sequence), -1).numpy(), strict=True):
        _penalise(ids, own, penalties, len(ids) if sustain == -1 else sustain, decay)


def _penalise(ids: list[int], logits: np.ndarray, penalties: np.ndarray, sustain: int, decay: int) -> None:
    """Backwards: in full for `sustain` tokens, then less and less for `decay`."""
    fade = (np.array([1.0, 0.0, 0.0]) - penalties) / decay if decay else np.zeros(3)
    repetition, frequency, presence = penalties
    seen = set()
    for back, token in enumerate(reversed(ids[max(len(ids) - sustain - decay, 0) :])):
        if token < len(logits):
            if token not in seen:
                logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
                logits[token] -= presence
                seen.add(token)
            logits[token] -= frequency
        if back >= sustain:
            repetition, frequency, presence = np.array([repetition, frequency, presence]) + fade


def sample_basic(
    logits: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    top_a: float,
    min_p: float,
    tfs: float,
    typical: float,
    random: float,
    output_tokens: Tensor,
    output_probs: Tensor,
    output_kprobs: Tensor,
    output_ktokens: Tensor,
    logit_filter: Tensor,
    mirostat: bool,
    mirostat_mu: list[float],
    mirostat_tau: float,
    mirostat_eta: float,
    post_temperature: float,
    xtc_mask: Tensor,
    xtc_probability: float = 0.0,
    xtc_threshold: float = 0.1,
    min_temp: float = 0.0,
    max_temp: float = 0.0,
    temp_exponent: float = 1.0,
    smoothing_factor: float = 0.0,
    skew: float = 0.0,
) -> list[float]:
    """A token for each row into `output_tokens`. Mirostat's state for the next time."""
    assert logits.dtype == torch.float
    mu = list(mirostat_mu)
    probabilities = 0 if output_kprobs.is_meta else output_kprobs.shape[2]
    if temperature < 0.01:
        temperature, top_k = 1.0, 1
    for row in range(len(logits)):
        if smoothing_factor > 0:
            temperature /= smoothing_factor  # again in every row: so it is in the extension
        allowed = None if logit_filter.is_meta else logit_filter[row].numpy()
        some = Candidates(logits[row].flatten().numpy(), temperature, allowed, 2 if smoothing_factor > 0 else 1)
        some.cut(top_k, top_p, top_a, min_p, tfs, typical)
        if mirostat and some.count > 1:
            some.mirostat(mu[row] or mirostat_tau * 2)
        if some.count > 1 and (post_temperature != 1 or max_temp > min_temp):
            some.warm(post_temperature, min_temp, max_temp, temp_exponent)
        if xtc_probability > 0:
            some.exclude_top(xtc_mask.numpy(), xtc_probability, xtc_threshold)
        if probabilities or skew:
            some.sort()
        if probabilities:
            _tell(some, output_ktokens[row, 0], output_kprobs[row, 0])
        point = random ** math.exp(-skew) if skew else random
        token, probability = some.pick(point * 0.9998)
        output_tokens[row, 0], output_probs[row, 0] = token, probability
        if mirostat:
            mu[row] = (mu[row] or mirostat_tau * 2) + mirostat_eta * (mirostat_tau - _surprise(probability))
        random = _another(random) if len(logits) > 1 else random
    return mu


def _surprise(probability: float) -> float:
    return -math.log2(probability) if probability else math.inf


def _tell(some: Candidates, tokens: Tensor, probs: Tensor) -> None:
    """The likeliest; where there are too few, others with no probability."""
    best = [(int(t), float(p)) for t, p in zip(*some.first(len(tokens)), strict=True) if p > 0]
    known = set(some.first(some.count)[0].tolist())
    others = (token for token in range(some.size) if token not in known)
    best += [(next(others), 0.0) for _ in range(len(tokens) - len(best))]
    for place, (token, probability) in enumerate(best):
        tokens[place], probs[place] = token, probability


def _another(random: float) -> float:
    """The extension's own next number, for the next row of a batch."""
    number = random
    for _ in range(10):
        number += 1.337 + random
        number = number * number % 1
    return number


def logit_filter_exclusive(filter: Tensor, exclusive_lists: list[list[int]]) -> None:
    """Only the listed ones, which ascend, stay as they are."""
    for row, ids in zip(filter, exclusive_lists, strict=True):
        others = torch.ones_like(row)
        others[torch.tensor(ids)] = False
        row[others] = False


def fast_fill_cpu_ones_bool(tensor: Tensor) -> None:
    tensor.fill_(True)


def fast_fadd_cpu(a: Tensor, b: Tensor) -> None:
    a.view(-1, b.numel()).add_(b.view(-1))


def fast_copy_cpu(dst: Tensor, src: Tensor) -> None:
    dst.copy_(src)
