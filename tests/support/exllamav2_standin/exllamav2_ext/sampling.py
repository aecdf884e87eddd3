"""Penalties, the chain of samplers, and small helpers: ext_sampling.cpp and part of cpp/sampling.cpp."""

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
    for ids, row_logits in zip(sequence.tolist(), logits.view(len(sequence), -1).numpy(), strict=True):
        _penalize(ids, row_logits, penalties, len(ids) if sustain == -1 else sustain, decay)


def _penalize(ids: list[int], logits: np.ndarray, penalties: np.ndarray, sustain: int, decay: int) -> None:
    """Penalize tokens from the last one backwards: `sustain` in full, then `decay` with fading penalties."""
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
    """Write a token for each row to `output_tokens`. Return the state of Mirostat for the next call."""
    assert logits.dtype == torch.float
    mu = list(mirostat_mu)
    top_count = 0 if output_kprobs.is_meta else output_kprobs.shape[2]
    if temperature < 0.01:
        temperature, top_k = 1.0, 1
    for row in range(len(logits)):
        if smoothing_factor > 0:
            temperature /= smoothing_factor  # once more for every row, as in the extension
        allowed = None if logit_filter.is_meta else logit_filter[row].numpy()
        candidates = Candidates(logits[row].flatten().numpy(), temperature, allowed, 2 if smoothing_factor > 0 else 1)
        candidates.truncate(top_k, top_p, top_a, min_p, tfs, typical)
        if mirostat and candidates.count > 1:
            candidates.mirostat(mu[row] or mirostat_tau * 2)
        if candidates.count > 1 and (post_temperature != 1 or max_temp > min_temp):
            candidates.apply_temperature(post_temperature, min_temp, max_temp, temp_exponent)
        if xtc_probability > 0:
            candidates.exclude_top(xtc_mask.numpy(), xtc_probability, xtc_threshold)
        if top_count or skew:
            candidates.sort()
        if top_count:
            _write_top_tokens(candidates, output_ktokens[row, 0], output_kprobs[row, 0])
        point = random ** math.exp(-skew) if skew else random
        token, probability = candidates.token_at(point * 0.9998)
        output_tokens[row, 0], output_probs[row, 0] = token, probability
        if mirostat:
            mu[row] = (mu[row] or mirostat_tau * 2) + mirostat_eta * (mirostat_tau - _surprise(probability))
        random = _next_random(random) if len(logits) > 1 else random
    return mu


def _surprise(probability: float) -> float:
    return -math.log2(probability) if probability else math.inf


def _write_top_tokens(candidates: Candidates, tokens: Tensor, probs: Tensor) -> None:
    """Write the most likely tokens; if there are too few candidates, add other tokens with the probability 0."""
    top = [(int(t), float(p)) for t, p in zip(*candidates.first(len(tokens)), strict=True) if p > 0]
    remaining = set(candidates.first(candidates.count)[0].tolist())
    removed = (token for token in range(candidates.size) if token not in remaining)
    top += [(next(removed), 0.0) for _ in range(len(tokens) - len(top))]
    for index, (token, probability) in enumerate(top):
        tokens[index], probs[index] = token, probability


def _next_random(random: float) -> float:
    """Return the number that the extension uses for the next row of a batch."""
    number = random
    for _ in range(10):
        number += 1.337 + random
        number = number * number % 1
    return number


def logit_filter_exclusive(filter: Tensor, exclusive_lists: list[list[int]]) -> None:
    """Clear the filter of each row except for the listed token ids, which are in ascending order."""
    for row, ids in zip(filter, exclusive_lists, strict=True):
        excluded = torch.ones_like(row)
        excluded[torch.tensor(ids)] = False
        row[excluded] = False


def fast_fill_cpu_ones_bool(tensor: Tensor) -> None:
    tensor.fill_(True)


def fast_fadd_cpu(a: Tensor, b: Tensor) -> None:
    a.view(-1, b.numel()).add_(b.view(-1))


def fast_copy_cpu(dst: Tensor, src: Tensor) -> None:
    dst.copy_(src)
