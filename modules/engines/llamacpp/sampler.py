"""Drawing a token: llama.cpp's samplers over the logits of one row, in llama.cpp's own order.

What changes logits comes first (bias, penalties, DRY, top-n-sigma), then what cuts the tail (top-k, typical, top-p,
min-p, XTC), then temperature and the draw; mirostat takes the place of cuts and draw. Neutral ones are left out. The
grammar, which is slow over a whole vocabulary, is only asked whether it takes what was drawn; if it does not, the draw
is made once more among what it does take.
"""

from __future__ import annotations

import ctypes
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.core.errors import GenerationFailed, OptionError
from modules.core.events import Json
from modules.engines.llamacpp.bindings import Model

_MULTIPLE = 2**32  # llama.cpp's sampler seeds are 32 bits wide
_MIROSTAT_M = 100  # how many of the likeliest tokens mirostat 1 estimates from, as in its paper
_NO_CHOICE = -1

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)], align=True)
"""`llama_token_data` as numpy has it."""

Logits = NDArray[np.float32]


class Sampler:
    """The samplers of one generation. `prompt` is what penalties and DRY look back on at first.

    OptionError for a grammar that is none, or for a token that the vocabulary lacks.
    """

    def __init__(self, model: Model, params: Mapping[str, Json], prompt: Sequence[int]) -> None:
        self._model = model
        self._biased, self._biases = _biases(model, params)
        self._grammar = grammar(model, params["grammar_string"])
        self._shapers = _chain(_shaping(model, params))
        self._choosers = _chain(_choosing(params, model.n_vocab))
        self._nucleus = _cuts_at_once(params)
        self._candidates, self._asked = Candidates(model.n_vocab), Candidates(1)
        # For a plain greedy draw llama.cpp would copy and walk the vocabulary: 50 microseconds instead of 6.
        changed = self._shapers is not None or self._grammar is not None or _cuts_the_likeliest(params)
        self._greedy = params["temperature"] <= 0 and not changed
        self._looks_back = _penalises(params) or params["dry_multiplier"] > 0
        if self._looks_back:
            for token in prompt[-_window(params) :]:
                native.llama_sampler_accept(self._shapers, token)

    def sample(self, row: int) -> int:
        """Draw a token from the logits of that row, and remember it. GenerationFailed if the grammar takes none."""
        logits = self._model.logits(row)
        if self._greedy and not len(self._biased):
            return int(logits.argmax())
        plain = logits[self._biased]
        logits[self._biased] += self._biases
        token = self._draw(logits)
        if self._grammar is not None and not self._allows(token):
            token = self._draw(logits, self._grammar)
        logits[self._biased] = plain  # for the log-probabilities, which are those of the model
        self._accept(token)
        return token

    def _draw(self, logits: Logits, grammar: Any = None) -> int:
        if self._greedy:
            return int(logits.argmax())
        candidates = self._candidates
        candidates.fill(logits)
        for changes in (grammar, self._shapers):
            if changes is not None:
                candidates.apply(changes)
                if not candidates:
                    raise GenerationFailed("llama.cpp", "the grammar or the bans leave no token to go on with")
        if self._nucleus is not None:
            candidates.keep(nucleus(candidates.logits, *self._nucleus))
        candidates.apply(self._choosers)
        return candidates.selected

    def _allows(self, token: int) -> bool:
        self._asked.fill(np.zeros(1, np.float32), np.array([token], np.int32))
        self._asked.apply(self._grammar)
        return bool(self._asked)

    def _accept(self, token: int) -> None:
        if self._looks_back:
            native.llama_sampler_accept(self._shapers, token)
        if self._grammar is not None and not self._model.ends(token):
            native.llama_sampler_accept(self._grammar, token)

    def left(self) -> dict[int, float]:
        """What the last draw was made from, by token: logits after all samplers. Nothing after a plain greedy one."""
        return self._candidates.remaining()

    def free(self) -> None:
        for each in (self._grammar, self._shapers, self._choosers):
            if each is not None:
                native.llama_sampler_free(each)
        self._grammar = self._shapers = self._choosers = None


class Candidates:
    """Tokens with their logits, as llama.cpp's samplers take them: they reorder them, cut them and select one."""

    def __init__(self, size: int) -> None:
        self._data = np.empty(size, CANDIDATE)
        self._array = native.llama_token_data_array()

    def __bool__(self) -> bool:
        """Whether any is left that can be drawn at all."""
        return bool(np.isfinite(self.logits).any())

    def fill(self, logits: Logits, tokens: NDArray[np.int32] | None = None) -> None:
        """As many as there is room for; the tokens are 0, 1, … unless said otherwise."""
        self._data["id"] = _numbers(len(self._data)) if tokens is None else tokens
        self._data["logit"] = logits
        self._point(len(self._data))

    @property
    def logits(self) -> Logits:
        logits: Logits = self._data["logit"][: self._array.size]
        return logits

    def keep(self, places: NDArray[np.intp]) -> None:
        """Only those at `places`, which are sorted by logit, highest first."""
        self._data[: len(places)] = self._data[places]
        self._point(len(places), is_sorted=True)

    def apply(self, sampler: Any) -> None:
        native.llama_sampler_apply(sampler, ctypes.byref(self._array))

    @property
    def selected(self) -> int:
        # Not by our own view: XTC moves the beginning.
        return int(self._array.data[self._array.selected].id)

    def remaining(self) -> dict[int, float]:
        """The logit of each candidate that is left, by token."""
        left = (self._array.data[place] for place in range(self._array.size))
        return {each.id: each.logit for each in left if math.isfinite(each.logit)}

    def _point(self, size: int, is_sorted: bool = False) -> None:
        self._array.data = self._data.ctypes.data_as(native.llama_token_data_p)
        self._array.size = size
        self._array.selected = _NO_CHOICE
        self._array.sorted = is_sorted


@lru_cache(maxsize=2)
def _numbers(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def nucleus(logits: Logits, top_p: float, min_p: float) -> NDArray[np.intp]:
    """Where the tokens are that top-p and, of those, min-p keep; highest first.

    The same set that llama.cpp's two samplers keep. Theirs sort the whole vocabulary, which for one of 49,000 tokens
    takes 4 ms; this takes 0.1.
    """
    weights = np.exp(logits - logits.max())
    likely = np.flatnonzero(weights >= max(min_p, 1e-4))
    if top_p >= 1:
        return _descending(weights, likely if min_p > 0 else np.arange(len(weights)))
    target = top_p * float(weights.sum(dtype=np.float64))
    if min_p < 1e-4 and float(weights[likely].sum(dtype=np.float64)) < target:
        likely = np.flatnonzero(weights >= min_p)  # a flat distribution: what is unlikely counts as well
    likely = _descending(weights, likely)
    return likely[: int(np.searchsorted(np.cumsum(weights[likely], dtype=np.float64), target)) + 1]


def _descending(weights: Logits, places: NDArray[np.intp]) -> NDArray[np.intp]:
    ordered: NDArray[np.intp] = places[np.argsort(-weights[places], kind="stable")]
    return ordered


# -- which samplers ----------------------------------------------------------------------------------------------------


def _chain(samplers: Iterator[Any]) -> Any:
    """A chain of them, which owns them; None if there are none."""
    listed = list(samplers)
    if not listed:
        return None
    chain = native.llama_sampler_chain_init(native.llama_sampler_chain_default_params())
    for sampler in listed:
        native.llama_sampler_chain_add(chain, sampler)
    return chain


def _shaping(model: Model, params: Mapping[str, Json]) -> Iterator[Any]:
    """What changes the logits of the whole vocabulary."""
    if _penalises(params):
        penalties = (params["repetition_penalty"], params["frequency_penalty"], params["presence_penalty"])
        yield native.llama_sampler_init_penalties(model.n_vocab, _window(params), *penalties)
    if params["dry_multiplier"] > 0:
        yield _dry(model, params)
    if params["top_n_sigma"] > 0:
        yield native.llama_sampler_init_top_n_sigma(params["top_n_sigma"])


def _choosing(params: Mapping[str, Json], n_vocab: int) -> Iterator[Any]:
    """What cuts the tail, and what draws. It ends with the one that selects a token."""
    seed = params["seed"] if params["seed"] >= 0 else random.randrange(_MULTIPLE - 1)
    greedy = params["temperature"] <= 0
    if params["mirostat_mode"] and not greedy:
        yield _heat(params)
        tau, eta = params["mirostat_tau"], params["mirostat_eta"]
        if params["mirostat_mode"] == 1:
            yield native.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_M)
        else:
            yield native.llama_sampler_init_mirostat_v2(seed, tau, eta)
        return
    yield from _cutting(params, seed)
    if greedy:
        yield native.llama_sampler_init_greedy()
        return
    yield _heat(params)
    yield native.llama_sampler_init_dist(seed)


def _cutting(params: Mapping[str, Json], seed: int) -> Iterator[Any]:
    if params["top_k"] > 0:
        yield native.llama_sampler_init_top_k(params["top_k"])
    if params["typical_p"] < 1:
        yield native.llama_sampler_init_typical(params["typical_p"], 1)
    if _cuts_at_once(params) is None:
        if params["top_p"] < 1:
            yield native.llama_sampler_init_top_p(params["top_p"], 1)
        if params["min_p"] > 0:
            yield native.llama_sampler_init_min_p(params["min_p"], 1)
    if params["xtc_probability"] > 0:
        yield native.llama_sampler_init_xtc(params["xtc_probability"], params["xtc_threshold"], 1, seed)


def _cuts_at_once(params: Mapping[str, Json]) -> tuple[float, float] | None:
    """(top_p, min_p) if `nucleus` makes those cuts: not after another cut, which leaves them too little to do."""
    earlier = params["top_k"] > 0 or params["typical_p"] < 1 or (params["mirostat_mode"] and params["temperature"] > 0)
    if earlier or (params["top_p"] >= 1 and params["min_p"] <= 0):
        return None
    return params["top_p"], params["min_p"]


def _cuts_the_likeliest(params: Mapping[str, Json]) -> bool:
    """Whether the likeliest token itself may fall to a cut. Top-k, top-p and min-p never take that."""
    return bool(params["typical_p"] < 1 or params["xtc_probability"] > 0)


def _heat(params: Mapping[str, Json]) -> Any:
    if not params["dynamic_temperature"]:
        return native.llama_sampler_init_temp(params["temperature"])
    low, high = params["dynatemp_low"], params["dynatemp_high"]
    return native.llama_sampler_init_temp_ext((low + high) / 2, abs(high - low) / 2, params["dynatemp_exponent"])


def _dry(model: Model, params: Mapping[str, Json]) -> Any:
    breakers = [each.encode() for each in json.loads(f"[{params['dry_sequence_breakers']}]")]
    listed = (ctypes.c_char_p * len(breakers))(*breakers)
    shape = (params["dry_multiplier"], params["dry_base"], params["dry_allowed_length"], _window(params))
    return native.llama_sampler_init_dry(model.vocab, *shape, listed, len(breakers))


def grammar(model: Model, text: str) -> Any:
    """llama.cpp's sampler of that GBNF grammar, which has to be freed; None for no text. OptionError."""
    if not text:
        return None
    before = len(model.complaints)
    grammar = native.llama_sampler_init_grammar(model.vocab, text.encode("utf-8", "replace"), b"root")
    if not grammar:
        said = " / ".join(model.complaints[before:])[:300]
        shown = text if len(text) <= 60 else text[:60] + "…"
        wish = {"en": f"a GBNF grammar with a rule named root ({said})", "zh": f"含 root 规则的 GBNF 语法（{said}）"}
        raise OptionError("grammar_string", shown, wish)
    return grammar


def _biases(model: Model, params: Mapping[str, Json]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Tokens, and what is added to the logit of each."""
    asked = {"logit_bias": {int(token): float(bias) for token, bias in params["logit_bias"]}}
    banned = [int(word) for word in params["custom_token_bans"].split(",") if word.strip()]
    asked["custom_token_bans"] = dict.fromkeys(banned, -math.inf)
    for name, biases in asked.items():
        for token in biases:
            model.check_token(name, token)
    ends = dict.fromkeys(model.end_tokens, -math.inf) if params["ban_eos_token"] else {}
    biases = asked["logit_bias"] | asked["custom_token_bans"] | ends
    return np.array(list(biases), np.int64), np.array(list(biases.values()), np.float32)


def _penalises(params: Mapping[str, Json]) -> bool:
    neutral = {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
    return any(params[key] != value for key, value in neutral.items())


def _window(params: Mapping[str, Json]) -> int:
    """The tokens that penalties look back over. llama.cpp allocates them at once, so "all" needs an end."""
    return int(params["repetition_penalty_range"]) or 1 << 17
