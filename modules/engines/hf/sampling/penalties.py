"""Logits processors that change single tokens: biases, bans, and penalties for tokens used before.

Each takes `input_ids`, the tokens so far, int64 [batch, length], and `scores`, logits [batch, vocabulary], and returns
new logits. Rows are independent. Definitions are those of transformers where it has a class, else those of llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from modules.engines.hf.sampling.vocabulary import Vocabulary

MAX_BREAKER_CHARACTERS, MAX_BREAKER_TAIL_TOKENS = 40, 20
"""The limits of llama.cpp."""

_LOG_FLOAT32_MAX = 88.7228391
"""The logarithm of the largest float32, where llama.cpp stops DRY's penalty from growing."""

_MAX_DRY_PENALTY = 1e30  # as good as a ban, but finite

Breakers = Mapping[int, Sequence[Sequence[int]]]
"""The tokens with which a sequence breaker may begin, and for each the token sequences that complete the breaker."""


class Biases(LogitsProcessor):
    """Add `biases` by token, and ban the `eos` tokens until the text, prompt included, has `min_length` tokens."""

    def __init__(self, biases: Mapping[int, float], eos: Sequence[int], min_length: int, device: torch.device) -> None:
        self._tokens = torch.tensor(list(biases), dtype=torch.long, device=device)
        self._biases = torch.tensor(list(biases.values()), dtype=torch.float32, device=device)
        self._eos = torch.tensor(list(eos), dtype=torch.long, device=device)
        self._min_length = min_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        biased = scores.clone()
        biased[:, self._tokens] += self._biases.to(scores.dtype)
        if input_ids.shape[1] < self._min_length:
            biased[:, self._eos] = -math.inf
        return biased


class Repetition(RepetitionPenaltyLogitsProcessor):
    """The repetition penalty of transformers over the last `window` tokens only."""

    def __init__(self, penalty: float, window: int) -> None:
        super().__init__(penalty)
        self._window = window

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        penalized: Tensor = super().__call__(input_ids[:, -self._window :], scores)
        return penalized


class Frequency(LogitsProcessor):
    """Lower a token by `penalty` for every occurrence in the last `window` tokens, as in OpenAI's API."""

    def __init__(self, penalty: float, window: int) -> None:
        self._penalty, self._window = penalty, window

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        recent = _clamp_tokens(input_ids[:, -self._window :], scores)
        changes = torch.full_like(recent, -self._penalty, dtype=scores.dtype)
        return _pad(scores).scatter_add(1, recent, changes)[:, :-1]


class Presence(LogitsProcessor):
    """Lower a token by `penalty` once if it occurs in the last `window` tokens."""

    def __init__(self, penalty: float, window: int) -> None:
        self._penalty, self._window = penalty, window

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        recent = _clamp_tokens(input_ids[:, -self._window :], scores)
        padded = _pad(scores)
        return padded.scatter(1, recent, padded.gather(1, recent) - self._penalty)[:, :-1]


def _clamp_tokens(tokens: Tensor, scores: Tensor) -> Tensor:
    """Map tokens without a logit, such as the padding token of some models, to the column that `_pad` adds."""
    return tokens.clamp(max=scores.shape[1])


def _pad(scores: Tensor) -> Tensor:
    return torch.nn.functional.pad(scores, (0, 1))


class NoRepeat(NoRepeatNGramLogitsProcessor):
    """The n-gram ban of transformers, lifted where truncation has left no other token."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        banned: Tensor = super().__call__(input_ids, scores)
        return torch.where(banned.isinf().all(dim=1, keepdim=True), scores, banned)


class Dry(LogitsProcessor):
    """DRY ("don't repeat yourself"): lower tokens that would continue a sequence seen before.

    As in llama.cpp, a repetition of n tokens, n at least `allowed_length`, costs multiplier * base ** (n -
    allowed_length). Only the last `window` tokens count, and of these only those after the last sequence breaker.
    """

    def __init__(self, multiplier: float, base: float, allowed_length: int, window: int, breakers: Breakers) -> None:
        self._multiplier, self._base, self._allowed_length = multiplier, base, allowed_length
        self._window, self._breakers = window, breakers
        growth = int(_LOG_FLOAT32_MAX / math.log(base)) if base > 1.000001 else 0
        self._max_length = allowed_length + growth

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        penalized = scores.clone()
        for row, tokens in enumerate(input_ids[:, -self._window :].cpu().numpy()):
            lengths = self.repetition_lengths(tokens)
            if lengths:
                penalties = [self._penalty(length) for length in lengths.values()]
                penalized[row, list(lengths)] -= torch.tensor(penalties, dtype=scores.dtype, device=scores.device)
        return penalized

    def _penalty(self, length: int) -> float:
        return min(self._multiplier * self._base ** (length - self._allowed_length), _MAX_DRY_PENALTY)

    def repetition_lengths(self, tokens: NDArray[np.int64]) -> dict[int, int]:
        """Return, by token that would continue a repetition, how many of the last tokens it would repeat at most."""
        limit = min(self._length_since_breaker(tokens), self._max_length)
        if len(tokens) <= self._allowed_length or limit < self._allowed_length:
            return {}
        last = len(tokens) - 1
        ends = np.flatnonzero(tokens[:-1] == tokens[last])  # positions where an earlier copy of the suffix ends
        lengths: dict[int, int] = {}
        for length in range(1, limit + 1):
            if length > 1:
                ends = ends[ends >= length - 1]
                ends = ends[tokens[ends - (length - 1)] == tokens[last - (length - 1)]]
            if not len(ends):
                break
            if length >= self._allowed_length:
                lengths |= dict.fromkeys(tokens[ends + 1].tolist(), length)
        return lengths

    def _length_since_breaker(self, tokens: NDArray[np.int64]) -> int:
        """Return how many tokens follow the last sequence breaker; all of them if there is none."""
        count = len(tokens)
        for back in range(count) if self._breakers else ():
            tails = self._breakers.get(int(tokens[count - 1 - back]))
            if tails is None:
                continue
            following = tokens[count - back :].tolist()
            matching = [len(tail) for tail in tails if following[: len(tail)] == list(tail)]
            if matching:
                return back - max(matching)
        return count


@lru_cache(maxsize=8)  # takes 50 ms for 150,000 tokens, and the arguments are nearly always the same
def find_breakers(texts: tuple[str, ...], vocabulary: Vocabulary) -> Breakers:
    """Find the tokens that contain one of `texts`, and those whose end begins one that other tokens complete."""
    breakers: dict[int, list[list[int]]] = {}
    for text in filter(None, (text[:MAX_BREAKER_CHARACTERS] for text in texts)):
        for token, piece in enumerate(vocabulary.pieces):
            if text in piece:
                _add_tail(breakers, token, [])
            elif len(text) > 1 and text[0] in piece:
                for length in range(1, min(len(text), len(piece) + 1)):
                    if piece.endswith(text[:length]):
                        _add_tail(breakers, token, vocabulary.encode(text[length:])[:MAX_BREAKER_TAIL_TOKENS])
    return breakers


def _add_tail(breakers: dict[int, list[list[int]]], token: int, tail: list[int]) -> None:
    tails = breakers.setdefault(token, [])
    if tail not in tails:
        tails.append(tail)
