"""Sampling a token: llama.cpp's samplers over one row of logits, in llama.cpp's own order.

First come the samplers that change logits (bias, penalties, DRY, top-n-sigma), then truncation (top-k, typical, top-p,
min-p, XTC), then temperature and the random choice; mirostat replaces truncation and choice. Samplers with neutral
parameters are left out. The grammar is only asked whether it accepts the sampled token; if it does not, the token is
sampled again among those it accepts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.core.events import Json
from modules.core.worker_errors import GenerationFailed
from modules.engines import next_token
from modules.engines.grammars import GrammarRequest, Matcher
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.candidates import Candidates, Logits
from modules.engines.time_limit import time_limit
from modules.engines.token_ids import logit_biases

_SEED_COUNT = 2**32  # llama.cpp's seeds have 32 bits; the last one means "random"
_MIROSTAT_M = 100  # how many of the most likely tokens mirostat 1 estimates from, as in its paper
_UNLIKELY = 1e-4  # weight relative to the most likely token, below which tokens are left out of a first try
_WHOLE_CONTEXT = 1 << 17  # tokens; more than contexts have, and little enough for llama.cpp to allocate at once
_ROUNDING = 1e-9  # probability that may be missing from a sum of one


class Sampler:
    """The samplers of one generation. Penalties and DRY look back on `prompt` first, then on the sampled tokens.

    Raises OptionError for an invalid grammar, or for a token id that the vocabulary lacks.
    """

    def __init__(self, model: Model, params: Mapping[str, Json], prompt: Sequence[int]) -> None:
        self._model = model
        self._params, self._tokens_before_end = params, int(params["min_length"])
        self._set_biases(ban_end=bool(params["ban_eos_token"]) or self._tokens_before_end > 0)
        request = GrammarRequest.of(params)
        self._grammar = model.grammars.compile(request)() if request else None
        self._adjusting = _chain(_adjusting_samplers(model, params))
        self._selecting = _chain(_selecting_samplers(params, model.n_vocab))
        self._nucleus = _combined_cut(params)
        self._candidates = Candidates(model.n_vocab)
        # Plain greedy sampling is an argmax: llama.cpp copies and walks the vocabulary, which takes 50 us instead of 6.
        changed = self._adjusting is not None or _may_cut_most_likely(params)
        self._draws = params["temperature"] > 0
        self._greedy = not self._draws and not changed
        self._looks_back = _has_penalties(params) or params["dry_multiplier"] > 0
        if self._looks_back:
            for token in prompt[-_lookback_tokens(params) :]:
                native.llama_sampler_accept(self._adjusting, token)

    def _set_biases(self, ban_end: bool) -> None:
        end_tokens = self._model.vocabulary.end_tokens if ban_end else ()  # finding them takes a while
        biases = logit_biases({**self._params, "ban_eos_token": ban_end}, self._model.n_vocab, end_tokens)
        self._biased_tokens = np.array(list(biases), np.int64)
        self._biases = np.array(list(biases.values()), np.float32)

    def sample(self, row: int) -> int:
        """Sample a token from that row of logits and record it. Raises GenerationFailed if no token is allowed.

        The logits themselves are unchanged afterwards.
        """
        token = self._sample(row)
        if self._tokens_before_end:
            self._tokens_before_end -= 1
            if not self._tokens_before_end:
                self._set_biases(ban_end=bool(self._params["ban_eos_token"]))
        return token

    def _sample(self, row: int) -> int:
        logits = self._model.logits(row)
        if self._greedy and self._grammar is None and not len(self._biased_tokens):
            return int(logits.argmax())
        unbiased = logits[self._biased_tokens]
        logits[self._biased_tokens] += self._biases
        token = self._select(logits) if self._grammar is None else self._select_by(self._grammar, logits)
        logits[self._biased_tokens] = unbiased  # log probabilities are those of the model
        if self._looks_back:
            native.llama_sampler_accept(self._adjusting, token)
        return token

    def _select_by(self, grammar: Matcher, logits: Logits) -> int:
        """Select a token that the grammar accepts, and advance the grammar."""
        with time_limit():
            token = self._select(logits)
            if not self._advance(grammar, token):
                allowed = _only(grammar.allowed(), logits)
                is_stuck = allowed.max() == -np.inf and grammar.may_end()
                if is_stuck and self._tokens_before_end and not self._params["ban_eos_token"]:
                    return min(self._model.vocabulary.end_tokens)  # a text that is complete ends, however short it is
                token = self._select(allowed)
                self._advance(grammar, token)
        return token

    def _advance(self, grammar: Matcher, token: int) -> bool:
        return grammar.may_end() if self._model.vocabulary.is_end_token(token) else grammar.accept(token)

    def _select(self, logits: Logits) -> int:
        if logits.max() == -np.inf:
            raise GenerationFailed("llama.cpp", "the grammar or the bans leave no token to continue with")
        if self._greedy:
            return int(logits.argmax())
        candidates = self._candidates
        candidates.fill(logits)
        if self._adjusting is not None:
            candidates.apply(self._adjusting)
        if self._nucleus is not None:
            candidates.keep(nucleus(candidates.logits, *self._nucleus))
        candidates.apply(self._selecting)
        return candidates.selected

    def probabilities(self, row: int) -> NDArray[np.float64]:
        """Return how likely `sample` is to return each token from that row of logits, shape [n_vocab].

        Only for the first token, since nothing is recorded. Raises GenerationFailed if no token is allowed.
        """
        logits = self._model.logits(row).copy()
        logits[self._biased_tokens] += self._biases
        chances = self._chances(logits)
        if self._grammar is None:
            return chances
        with time_limit():  # as `_select_by`: what the grammar refuses is selected again
            allowed = self._grammar.allowed()
            ends = list(self._model.vocabulary.end_tokens)
            chances[~allowed] = 0
            chances[ends] *= self._grammar.may_end()
            refused = 1 - float(chances.sum())
            return chances + refused * self._chances(_only(allowed, logits)) if refused > _ROUNDING else chances

    def _chances(self, logits: Logits) -> NDArray[np.float64]:
        """Return the chances of each token in `_select`, shape [n_vocab]."""
        selected = self._select(logits)
        if self._draws:
            return self._candidates.probabilities()
        certain: NDArray[np.float64] = np.eye(1, len(logits), selected)[0]
        return certain

    def free(self) -> None:
        for sampler in (self._adjusting, self._selecting):
            if sampler is not None:
                native.llama_sampler_free(sampler)
        self._grammar = self._adjusting = self._selecting = None


def first_token_probabilities(
    model: Model, params: Mapping[str, Json], prompt: Sequence[int], row: int
) -> NDArray[np.float64]:
    """Return how likely each token is to be the first one of an answer to `prompt`, shape [n_vocab].

    `row` has the logits after the prompt. Raises GenerationFailed if no token is allowed.
    """
    chances = np.zeros(model.n_vocab)
    for share, always in next_token.without_chance(params):
        sampler = Sampler(model, always, prompt)
        try:
            chances += share * sampler.probabilities(row)
        finally:
            sampler.free()
    return chances


def _only(allowed: NDArray[np.bool_], logits: Logits) -> Logits:
    return np.where(allowed, logits, np.float32(-np.inf))


def nucleus(logits: Logits, top_p: float, min_p: float) -> NDArray[np.intp]:
    """Return the indices of the tokens that top-p and then min-p keep, highest logit first.

    They are those that llama.cpp's two samplers keep. Theirs sort the whole vocabulary, which takes 4 ms for one of
    49,000 tokens; this takes 0.1 ms.
    """
    weights = np.exp(logits - logits.max())
    if top_p >= 1:
        return _sort_descending(weights, np.flatnonzero(weights >= min_p))
    likely = np.flatnonzero(weights >= max(min_p, _UNLIKELY))
    target = top_p * float(weights.sum(dtype=np.float64))
    if min_p < _UNLIKELY and float(weights[likely].sum(dtype=np.float64)) < target:
        likely = np.flatnonzero(weights >= min_p)  # a flat distribution, where unlikely tokens matter
    likely = _sort_descending(weights, likely)
    return likely[: int(np.searchsorted(np.cumsum(weights[likely], dtype=np.float64), target)) + 1]


def _sort_descending(weights: Logits, indices: NDArray[np.intp]) -> NDArray[np.intp]:
    ordered: NDArray[np.intp] = indices[np.argsort(-weights[indices], kind="stable")]
    return ordered


# -- which samplers ----------------------------------------------------------------------------------------------------


def _chain(samplers: Iterator[Any]) -> Any:
    """Return a sampler chain, which owns `samplers`; None if there are none."""
    listed = list(samplers)
    if not listed:
        return None
    chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
    for sampler in listed:
        native.llama_sampler_chain_add(chain, sampler)
    return chain


def _adjusting_samplers(model: Model, params: Mapping[str, Json]) -> Iterator[Any]:
    """Yield the samplers that change logits of the whole vocabulary."""
    if _has_penalties(params):
        penalties = (params["repetition_penalty"], params["frequency_penalty"], params["presence_penalty"])
        yield native.llama_sampler_init_penalties(model.n_vocab, _lookback_tokens(params), *penalties)
    if params["dry_multiplier"] > 0:
        yield _dry_sampler(model, params)
    if params["top_n_sigma"] > 0:
        yield native.llama_sampler_init_top_n_sigma(params["top_n_sigma"])


def _selecting_samplers(params: Mapping[str, Json], n_vocab: int) -> Iterator[Any]:
    """Yield the samplers that truncate, scale by temperature and, last, select a token."""
    seed = params["seed"] if params["seed"] >= 0 else random.randrange(_SEED_COUNT - 1)
    greedy = params["temperature"] <= 0
    if params["mirostat_mode"] and not greedy:
        yield _temperature_sampler(params)
        tau, eta = params["mirostat_tau"], params["mirostat_eta"]
        if params["mirostat_mode"] == 1:
            yield native.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_M)
        else:
            yield native.llama_sampler_init_mirostat_v2(seed, tau, eta)
        return
    yield from _truncating_samplers(params, seed)
    if greedy:
        yield native.llama_sampler_init_greedy()
        return
    yield _temperature_sampler(params)
    yield native.llama_sampler_init_dist(seed)


def _truncating_samplers(params: Mapping[str, Json], seed: int) -> Iterator[Any]:
    if params["top_k"] > 0:
        yield native.llama_sampler_init_top_k(params["top_k"])
    if params["typical_p"] < 1:
        yield native.llama_sampler_init_typical(params["typical_p"], 1)
    if _combined_cut(params) is None:
        if params["top_p"] < 1:
            yield native.llama_sampler_init_top_p(params["top_p"], 1)
        if params["min_p"] > 0:
            yield native.llama_sampler_init_min_p(params["min_p"], 1)
    if params["xtc_probability"] > 0:
        yield native.llama_sampler_init_xtc(params["xtc_probability"], params["xtc_threshold"], 1, seed)


def _combined_cut(params: Mapping[str, Json]) -> tuple[float, float] | None:
    """Return (top_p, min_p) if `nucleus` is to make those cuts; None if there are none.

    Also None after another cut, which leaves so few tokens that llama.cpp's samplers are fast, and with mirostat.
    """
    earlier = params["top_k"] > 0 or params["typical_p"] < 1 or (params["mirostat_mode"] and params["temperature"] > 0)
    if earlier or (params["top_p"] >= 1 and params["min_p"] <= 0):
        return None
    return params["top_p"], params["min_p"]


def _may_cut_most_likely(params: Mapping[str, Json]) -> bool:
    """Tell whether truncation may remove the most likely token, which top-k, top-p and min-p always keep."""
    return bool(params["typical_p"] < 1 or params["xtc_probability"] > 0)


def _temperature_sampler(params: Mapping[str, Json]) -> Any:
    if not params["dynamic_temperature"]:
        return native.llama_sampler_init_temp(params["temperature"])
    low, high = params["dynatemp_low"], params["dynatemp_high"]
    return native.llama_sampler_init_temp_ext((low + high) / 2, abs(high - low) / 2, params["dynatemp_exponent"])


def _dry_sampler(model: Model, params: Mapping[str, Json]) -> Any:
    breakers = tuple(json.loads(f"[{params['dry_sequence_breakers']}]"))
    settings = (params["dry_multiplier"], params["dry_base"], params["dry_allowed_length"], _lookback_tokens(params))
    return model.dry_samplers.start(*settings, breakers)


def _has_penalties(params: Mapping[str, Json]) -> bool:
    neutral = {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
    return any(params[key] != value for key, value in neutral.items())


def _lookback_tokens(params: Mapping[str, Json]) -> int:
    """Return how many tokens penalties look back over. llama.cpp allocates them all, so "no limit" needs a number."""
    return int(params["repetition_penalty_range"]) or _WHOLE_CONTEXT
