"""What changes the logits of single tokens: biases and bans, and penalties for what was said before.

Each takes the tokens so far, [batch, length], and logits, [batch, vocabulary], and returns new logits. Rows do not
know of each other. What transformers has is taken from there; of the rest, llama.cpp's definitions hold.
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

LONGEST_BREAKER, LONGEST_TAIL = 40, 20
"""In characters and in tokens, as llama.cpp cuts them."""

_HIGHEST_LOG = 88.7228391
"""The logarithm of the largest number of 32 bits, where llama.cpp stops DRY's penalty from growing."""

_HIGHEST_COST = 1e30  # as good as a ban, but a number still

Breakers = Mapping[int, Sequence[Sequence[int]]]
"""The tokens with which a breaker may begin, and after each the tokens that may complete it."""


class Biases(LogitsProcessor):
    """Adds `biases` by token. Until there are `least` tokens, counting the prompt, the `ends` are out of reach."""

    def __init__(self, biases: Mapping[int, float], ends: Sequence[int], least: int, device: torch.device) -> None:
        self._tokens = torch.tensor(list(biases), dtype=torch.long, device=device)
        self._biases = torch.tensor(list(biases.values()), dtype=torch.float32, device=device)
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self._least = least

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = scores.clone()
        changed[:, self._tokens] += self._biases.to(scores.dtype)
        if input_ids.shape[1] < self._least:
            changed[:, self._ends] = -math.inf
        return changed


class Repetition(RepetitionPenaltyLogitsProcessor):
    """That of transformers, looking back over the last `window` tokens only."""

    def __init__(self, penalty: float, window: int) -> None:
        super().__init__(penalty)
        self._window = window

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed: Tensor = super().__call__(input_ids[:, -self._window :], scores)
        return changed


class Frequency(LogitsProcessor):
    """Lowers each token by `each` for every time it is among the last `window`, as in OpenAI's API."""

    def __init__(self, each: float, window: int) -> None:
        self._each, self._window = each, window

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        recent = _known(input_ids[:, -self._window :], scores)
        lowered = torch.full_like(recent, -self._each, dtype=scores.dtype)
        return _padded(scores).scatter_add(1, recent, lowered)[:, :-1]


class Presence(LogitsProcessor):
    """Lowers each token by `once` if it is among the last `window` at all."""

    def __init__(self, once: float, window: int) -> None:
        self._once, self._window = once, window

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        recent = _known(input_ids[:, -self._window :], scores)
        wide = _padded(scores)
        return wide.scatter(1, recent, wide.gather(1, recent) - self._once)[:, :-1]


def _known(tokens: Tensor, scores: Tensor) -> Tensor:
    """`tokens`, with those that have no logit (some models pad with one) at a place behind all others."""
    return tokens.clamp(max=scores.shape[1])


def _padded(scores: Tensor) -> Tensor:
    return torch.nn.functional.pad(scores, (0, 1))


class NoRepeat(NoRepeatNGramLogitsProcessor):
    """That of transformers, but where cuts that came before left nothing else, what they left may repeat itself."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed: Tensor = super().__call__(input_ids, scores)
        return torch.where(changed.isinf().all(dim=1, keepdim=True), scores, changed)


class Dry(LogitsProcessor):
    """DRY ("don't repeat yourself"): lowers tokens that would go on with a sequence seen before.

    As llama.cpp has it: a repetition of n tokens, n at least `allowed`, costs multiplier * base ** (n - allowed).
    Only the last `window` tokens count, and of these only what came after the last breaker.
    """

    def __init__(self, multiplier: float, base: float, allowed: int, window: int, breakers: Breakers) -> None:
        self._multiplier, self._base, self._allowed = multiplier, base, allowed
        self._window, self._breakers = window, breakers
        self._longest = allowed + int(_HIGHEST_LOG / math.log(base)) if base > 1.000001 else allowed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = scores.clone()
        for row, tokens in enumerate(input_ids[:, -self._window :].cpu().numpy()):
            lengths = self.repeated(tokens)
            if lengths:
                costs = [self._cost(each) for each in lengths.values()]
                changed[row, list(lengths)] -= torch.tensor(costs, dtype=scores.dtype, device=scores.device)
        return changed

    def _cost(self, length: int) -> float:
        return min(self._multiplier * self._base ** (length - self._allowed), _HIGHEST_COST)

    def repeated(self, tokens: NDArray[np.int64]) -> dict[int, int]:
        """By token, how many of the last tokens stood before it already: the longest such run."""
        limit = min(self._since_break(tokens), self._longest)
        if len(tokens) <= self._allowed or limit < self._allowed:
            return {}
        last = len(tokens) - 1
        ends = np.flatnonzero(tokens[:-1] == tokens[last])  # where a run ends that our own end repeats
        found: dict[int, int] = {}
        for length in range(1, limit + 1):
            if length > 1:
                ends = ends[ends >= length - 1]
                ends = ends[tokens[ends - (length - 1)] == tokens[last - (length - 1)]]
            if not len(ends):
                break
            if length >= self._allowed:
                found |= dict.fromkeys(tokens[ends + 1].tolist(), length)
        return found

    def _since_break(self, tokens: NDArray[np.int64]) -> int:
        """How many tokens came after the last breaker; all of them if there is none."""
        count = len(tokens)
        for back in range(count) if self._breakers else ():
            tails = self._breakers.get(int(tokens[count - 1 - back]))
            if tails is None:
                continue
            following = tokens[count - back :].tolist()
            fitting = [len(tail) for tail in tails if following[: len(tail)] == list(tail)]
            if fitting:
                return back - max(fitting)
        return count


@lru_cache(maxsize=8)  # 50 ms for 150,000 tokens, and nearly always the same again
def breakers(texts: tuple[str, ...], vocabulary: Vocabulary) -> Breakers:
    """Where each of `texts` may be met: whole in a token, or begun at a token's end and completed by others."""
    found: dict[int, list[list[int]]] = {}
    for text in filter(None, (each[:LONGEST_BREAKER] for each in texts)):
        for token, piece in enumerate(vocabulary.pieces):
            if text in piece:
                _add(found, token, [])
            elif len(text) > 1 and text[0] in piece:
                for begun in range(1, min(len(text), len(piece) + 1)):
                    if piece.endswith(text[:begun]):
                        _add(found, token, vocabulary.encode(text[begun:])[:LONGEST_TAIL])
    return found


def _add(found: dict[int, list[list[int]]], token: int, tail: list[int]) -> None:
    tails = found.setdefault(token, [])
    if tail not in tails:
        tails.append(tail)
