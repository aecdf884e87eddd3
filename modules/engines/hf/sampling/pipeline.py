"""Sampling in the family of Transformers: from the parameters of a generation to what acts on its logits.

What changes single tokens comes first and holds for greedy answers as well. The rest follows in the order of
`sampler_priority`, and only when tokens are drawn at random. Neutral ones are left out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from modules.core.events import Json
from modules.engines.hf.sampling import penalties, warpers
from modules.engines.hf.sampling.grammar import Grammar
from modules.engines.hf.sampling.mirostat import Mirostat
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.token_ids import logit_biases

_UNIT = 1e-4  # of epsilon_cutoff and eta_cutoff, as in the original
_HEAT = ("temperature", "dynamic_temperature", "quadratic_sampling")
_PENALTIES = (
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "dry"),
    *("encoder_repetition_penalty", "no_repeat_ngram"),
)

Params = Mapping[str, Json]


def processors(
    params: Params,
    *,
    prompt_tokens: Sequence[int],
    vocabulary: Vocabulary,
    eos: Sequence[int],
    device: torch.device,
    generator: torch.Generator | None = None,
) -> LogitsProcessorList:
    """What acts on the logits of one generation, in order.

    It is called with all tokens so far, the prompt's among them, and never changes the logits it is given. `eos` are
    the tokens that end an answer; `generator` is what XTC draws from. The grammar comes before all cuts, so that
    what they leave is what it takes. OptionError for a grammar that is none, or a token that the vocabulary lacks.
    """
    made = _Makers(params, prompt_tokens, vocabulary, device, generator or seeded(params, device))
    first = list(_biases(params, len(prompt_tokens), vocabulary, eos, device))
    if params["grammar_string"]:
        first.append(Grammar(vocabulary.grammar(params["grammar_string"]), len(prompt_tokens)))
    return LogitsProcessorList([*first, *(each for name in order(params) for each in made(name))])


def order(params: Params) -> list[str]:
    """The samplers that `params` call for, by their names in `sampler_priority`, first to last."""
    asked = [name.strip() for name in params["sampler_priority"].replace("\n", ",").split(",")]
    places = {name: place for place, name in reversed(list(enumerate(asked)))}
    names = sorted(_ALL, key=lambda name: places.get(name, -1))
    if params["temperature_last"]:
        names.sort(key=lambda name: name in _HEAT)
    if greedy(params):
        return [name for name in names if name in _PENALTIES]
    return [name for name in names if name not in _CUTS] if params["mirostat_mode"] else names


def greedy(params: Params) -> bool:
    """Whether the likeliest token is taken every time."""
    return not params["do_sample"] or params["temperature"] <= 0


def seeded(params: Params, device: torch.device) -> torch.Generator:
    """Where the draws of one generation come from. The same seed gives the same draws."""
    seed = params["seed"] if params["seed"] >= 0 else secrets.randbits(32)
    return torch.Generator(device=device).manual_seed(seed)


class NoTokenLeft(Exception):
    """Everything is forbidden."""


def none_left(logits: Tensor) -> NoTokenLeft:
    """Why none of `logits` is a finite number."""
    if bool(logits.isnan().any()):
        return NoTokenLeft("what the model computes are no numbers")
    return NoTokenLeft("the grammar or the bans leave no token to go on with")


def choose(logits: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """A token for each row of `logits`, which all processors have seen. NoTokenLeft if a row has none."""
    if not bool(logits.isfinite().any(dim=1).all()):
        raise none_left(logits)
    if greedy(params):
        return logits.argmax(dim=1)
    # By hand, as `torch.multinomial` takes 3.5 ms for 150,000 tokens and this takes 0.5.
    reached = logits.double().softmax(dim=1).cumsum(dim=1)
    whole = reached[:, -1:]
    luck = torch.rand(logits.shape[0], 1, generator=generator, device=generator.device, dtype=torch.float64)
    target = torch.minimum(luck.to(logits.device) * whole, whole.nextafter(torch.zeros_like(whole)))
    return torch.searchsorted(reached, target, right=True).squeeze(1)


def guided(scores: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2306.17806): logits led away from those after the negative prompt.

    As transformers' `UnbatchedClassifierFreeGuidanceLogitsProcessor` combines them. It comes before all processors.
    """
    if scale == 1:
        return scores
    wanted, unwanted = scores.log_softmax(dim=-1), negative.log_softmax(dim=-1)
    return scale * (wanted - unwanted) + unwanted


class _Makers:
    """By the name of a sampler: the processors that it takes, none if it would change nothing."""

    def __init__(
        self,
        params: Params,
        prompt: Sequence[int],
        vocabulary: Vocabulary,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self._params, self._prompt, self._vocabulary = params, prompt, vocabulary
        self._device, self._generator = device, generator
        self._window = int(params["repetition_penalty_range"])

    def __call__(self, name: str) -> Iterator[LogitsProcessor]:
        return _ALL[name](self)

    def repetition(self) -> Iterator[LogitsProcessor]:
        if self._params["repetition_penalty"] != 1:
            yield penalties.Repetition(float(self._params["repetition_penalty"]), self._window)

    def presence(self) -> Iterator[LogitsProcessor]:
        if self._params["presence_penalty"]:
            yield penalties.Presence(self._params["presence_penalty"], self._window)

    def frequency(self) -> Iterator[LogitsProcessor]:
        if self._params["frequency_penalty"]:
            yield penalties.Frequency(self._params["frequency_penalty"], self._window)

    def dry(self) -> Iterator[LogitsProcessor]:
        params = self._params
        if params["dry_multiplier"] > 0:
            texts = tuple(json.loads(f"[{params['dry_sequence_breakers']}]"))
            shape = (params["dry_multiplier"], params["dry_base"], params["dry_allowed_length"], self._window)
            yield penalties.Dry(*shape, penalties.breakers(texts, self._vocabulary))

    def encoder_repetition(self) -> Iterator[LogitsProcessor]:
        known = sorted({token for token in self._prompt if token < self._vocabulary.size})
        if self._params["encoder_repetition_penalty"] != 1 and known:
            tokens: Any = torch.tensor([known], device=self._device)
            yield EncoderRepetitionPenaltyLogitsProcessor(float(self._params["encoder_repetition_penalty"]), tokens)

    def no_repeat(self) -> Iterator[LogitsProcessor]:
        if self._params["no_repeat_ngram_size"] > 0:
            yield penalties.NoRepeat(self._params["no_repeat_ngram_size"])

    def temperature(self) -> Iterator[LogitsProcessor]:
        if not self._params["dynamic_temperature"] and self._params["temperature"] != 1:
            yield TemperatureLogitsWarper(float(self._params["temperature"]))

    def dynamic_temperature(self) -> Iterator[LogitsProcessor]:
        params = self._params
        if params["dynamic_temperature"]:
            low, high = sorted((params["dynatemp_low"], params["dynatemp_high"]))
            yield warpers.DynamicTemperature(low, high, params["dynatemp_exponent"])

    def smoothing(self) -> Iterator[LogitsProcessor]:
        if self._params["smoothing_factor"] > 0:
            yield warpers.Smoothing(self._params["smoothing_factor"], self._params["smoothing_curve"])

    def top_n_sigma(self) -> Iterator[LogitsProcessor]:
        if self._params["top_n_sigma"] > 0:
            yield warpers.TopNSigma(self._params["top_n_sigma"])

    def top_k(self) -> Iterator[LogitsProcessor]:
        if self._params["top_k"] > 0:
            yield TopKLogitsWarper(self._params["top_k"])

    def top_p(self) -> Iterator[LogitsProcessor]:
        if self._params["top_p"] < 1:
            yield warpers.TopP(self._params["top_p"])

    def typical(self) -> Iterator[LogitsProcessor]:
        if self._params["typical_p"] < 1:
            yield warpers.Typical(self._params["typical_p"])

    def epsilon(self) -> Iterator[LogitsProcessor]:
        if self._params["epsilon_cutoff"] > 0:
            yield EpsilonLogitsWarper(self._params["epsilon_cutoff"] * _UNIT)

    def eta(self) -> Iterator[LogitsProcessor]:
        if self._params["eta_cutoff"] > 0:
            yield EtaLogitsWarper(self._params["eta_cutoff"] * _UNIT, device=str(self._device))

    def tail_free(self) -> Iterator[LogitsProcessor]:
        if self._params["tfs"] < 1:
            yield warpers.TailFree(self._params["tfs"])

    def top_a(self) -> Iterator[LogitsProcessor]:
        if self._params["top_a"] > 0:
            yield warpers.TopA(self._params["top_a"])

    def min_p(self) -> Iterator[LogitsProcessor]:
        if self._params["min_p"] > 0:
            yield MinPLogitsWarper(self._params["min_p"])

    def mirostat(self) -> Iterator[LogitsProcessor]:
        params = self._params
        if params["mirostat_mode"]:
            depth = 1 + params["prompt_lookup_num_tokens"]
            yield Mirostat(params["mirostat_mode"], params["mirostat_tau"], params["mirostat_eta"], depth)

    def xtc(self) -> Iterator[LogitsProcessor]:
        params = self._params
        if params["xtc_probability"] > 0:
            yield warpers.Xtc(params["xtc_threshold"], params["xtc_probability"], self._generator)


_ALL: Mapping[str, Callable[[_Makers], Iterator[LogitsProcessor]]] = {
    "repetition_penalty": _Makers.repetition,
    "presence_penalty": _Makers.presence,
    "frequency_penalty": _Makers.frequency,
    "dry": _Makers.dry,
    "encoder_repetition_penalty": _Makers.encoder_repetition,
    "no_repeat_ngram": _Makers.no_repeat,
    "temperature": _Makers.temperature,
    "dynamic_temperature": _Makers.dynamic_temperature,
    "quadratic_sampling": _Makers.smoothing,
    "top_n_sigma": _Makers.top_n_sigma,
    "top_k": _Makers.top_k,
    "top_p": _Makers.top_p,
    "typical_p": _Makers.typical,
    "epsilon_cutoff": _Makers.epsilon,
    "eta_cutoff": _Makers.eta,
    "tfs": _Makers.tail_free,
    "top_a": _Makers.top_a,
    "min_p": _Makers.min_p,
    "mirostat": _Makers.mirostat,
    "xtc": _Makers.xtc,
}
"""By their names in `sampler_priority`, in the order that it has by default."""

_CUTS = frozenset(_ALL) - {*_PENALTIES, *_HEAT, "mirostat"}
"""What mirostat takes the place of."""


def _biases(
    params: Params, prompt: int, vocabulary: Vocabulary, eos: Sequence[int], device: torch.device
) -> Iterator[LogitsProcessor]:
    """What is added to the logits of single tokens: biases, then bans, which win."""
    ends = [token for token in eos if token < vocabulary.size]
    biases = logit_biases(params, vocabulary.size, ends)
    least = prompt + params["min_length"] if params["min_length"] else 0
    if biases or least:
        yield penalties.Biases(biases, ends, least, device)
