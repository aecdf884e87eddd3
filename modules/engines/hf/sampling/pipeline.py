"""The sampling pipeline of the transformers family: logits processors from the parameters of a generation.

Biases, bans and the grammar come first and apply to greedy decoding as well. The samplers follow in the order of
`sampler_priority`; those that are neutral are left out.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
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
from modules.engines.grammars import GrammarRequest
from modules.engines.hf.sampling import penalties, warpers
from modules.engines.hf.sampling.grammar import Grammar
from modules.engines.hf.sampling.mirostat import Mirostat
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.next_token import without_chance
from modules.engines.token_ids import logit_biases

_CUTOFF_UNIT = 1e-4  # of epsilon_cutoff and eta_cutoff, as in text-generation-webui
_TEMPERATURES = ("temperature", "dynamic_temperature", "quadratic_sampling")
_PENALTIES = (
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "dry"),
    *("encoder_repetition_penalty", "no_repeat_ngram"),
)

Params = Mapping[str, Json]


def build_processors(
    params: Params,
    *,
    prompt_tokens: Sequence[int],
    vocabulary: Vocabulary,
    eos: Sequence[int],
    device: torch.device,
    generator: torch.Generator | None = None,
) -> LogitsProcessorList:
    """Return the logits processors of one generation, in the order in which they apply.

    They are called with all tokens so far, int64 [batch, length], prompt included, and logits, float32 [batch,
    vocabulary], which they never modify. `eos` are the tokens that end an answer; XTC draws from `generator`. The
    grammar precedes all truncation, which then chooses among the tokens that the grammar allows. Raises OptionError
    for an invalid grammar, or a token outside the vocabulary.
    """
    factory = _ProcessorFactory(params, prompt_tokens, vocabulary, device, generator or new_generator(params, device))
    always = list(_biases(params, len(prompt_tokens), vocabulary, eos, device))
    if request := GrammarRequest.of(params):
        ends = eos if params["min_length"] and not params["ban_eos_token"] else ()
        always.append(Grammar(vocabulary.grammar(request), len(prompt_tokens), ends))
    samplers = (processor for name in sampler_order(params) for processor in factory.build(name))
    return LogitsProcessorList([*always, *samplers])


def sampler_order(params: Params) -> list[str]:
    """Return the samplers that apply, by their names in `sampler_priority`, in order. Those it omits come first."""
    priority = [name.strip() for name in params["sampler_priority"].replace("\n", ",").split(",")]
    positions = {name: position for position, name in reversed(list(enumerate(priority)))}
    names = sorted(_BUILDERS, key=lambda name: positions.get(name, -1))
    if params["temperature_last"]:
        names.sort(key=lambda name: name in _TEMPERATURES)
    if is_greedy(params):
        return [name for name in names if name in _PENALTIES]
    return [name for name in names if name not in _TRUNCATIONS] if params["mirostat_mode"] else names


def is_greedy(params: Params) -> bool:
    """Return whether the most likely token is always chosen."""
    return not params["do_sample"] or params["temperature"] <= 0


def new_generator(params: Params, device: torch.device) -> torch.Generator:
    """Return the random generator of one generation: with the parameter `seed`, or a random seed if it is negative."""
    seed = params["seed"] if params["seed"] >= 0 else secrets.randbits(32)
    return torch.Generator(device=device).manual_seed(seed)


class NoTokenLeft(Exception):
    """No token can be sampled: all logits are minus infinity or NaN."""


def no_token_left(logits: Tensor) -> NoTokenLeft:
    """Return the error for `logits` of which none is finite."""
    if bool(logits.isnan().any()):
        return NoTokenLeft("the model produces NaN: its files are damaged, or config.json does not match the weights")
    return NoTokenLeft("the grammar or the bans leave no token to continue with")


def sample_token(logits: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """Sample a token for every row of processed `logits`, float [batch, vocabulary]; return int64 [batch].

    Raises NoTokenLeft if a row has no finite logit.
    """
    if is_greedy(params):
        _require_a_token(logits)
        return logits.argmax(dim=1)
    # By inverse transform sampling, as `torch.multinomial` takes 3.5 ms for 150,000 tokens and this takes 0.5.
    cumulative = token_chances(logits, params).cumsum(dim=1)
    total = cumulative[:, -1:]
    draw = torch.rand(logits.shape[0], 1, generator=generator, device=generator.device, dtype=torch.float64)
    target = torch.minimum(draw.to(logits.device) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def token_chances(logits: Tensor, params: Params) -> Tensor:
    """Return what `sample_token` draws from: probabilities, float64 [batch, vocabulary]. Raises NoTokenLeft."""
    _require_a_token(logits)
    if is_greedy(params):
        return one_hot(logits.argmax(dim=1), logits.shape[1]).double()
    return logits.double().softmax(dim=1)


def first_token_chances(
    params: Params, build: Callable[[Params], LogitsProcessorList], token_ids: Tensor, logits: Tensor
) -> Tensor:
    """Return how likely each token is to be the first one of an answer, float64 [batch, vocabulary].

    `build` returns new processors, `token_ids` are the prompt's, `logits` those after it. Raises NoTokenLeft.
    """
    chances = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
    for share, always in without_chance(params):
        processors: Any = build(always)
        chances += share * token_chances(processors(token_ids, logits), params)
    return chances


def _require_a_token(logits: Tensor) -> None:
    if not bool(logits.isfinite().any(dim=1).all()):
        raise no_token_left(logits)


def apply_guidance(logits: Tensor, negative_logits: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance (arXiv 2306.17806): move logits away from those after the negative prompt.

    Both are float32 [batch, vocabulary], before all processors. The formula is that of transformers'
    `UnbatchedClassifierFreeGuidanceLogitsProcessor`.
    """
    if scale == 1:
        return logits
    logprobs, negative = logits.log_softmax(dim=-1), negative_logits.log_softmax(dim=-1)
    return scale * (logprobs - negative) + negative


class _ProcessorFactory:
    """Builds the processor of one sampler from the parameters, or none if the sampler is neutral."""

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

    def build(self, name: str) -> Iterator[LogitsProcessor]:
        return _BUILDERS[name](self)

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
            breakers = penalties.find_breakers(texts, self._vocabulary)
            multiplier, base = params["dry_multiplier"], params["dry_base"]
            yield penalties.Dry(multiplier, base, params["dry_allowed_length"], self._window, breakers)

    def encoder_repetition(self) -> Iterator[LogitsProcessor]:
        prompt = sorted({token for token in self._prompt if token < self._vocabulary.size})
        if self._params["encoder_repetition_penalty"] != 1 and prompt:
            tokens: Any = torch.tensor([prompt], device=self._device)
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
            yield EpsilonLogitsWarper(self._params["epsilon_cutoff"] * _CUTOFF_UNIT)

    def eta(self) -> Iterator[LogitsProcessor]:
        if self._params["eta_cutoff"] > 0:
            yield EtaLogitsWarper(self._params["eta_cutoff"] * _CUTOFF_UNIT, device=str(self._device))

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


_BUILDERS: Mapping[str, Callable[[_ProcessorFactory], Iterator[LogitsProcessor]]] = {
    "repetition_penalty": _ProcessorFactory.repetition,
    "presence_penalty": _ProcessorFactory.presence,
    "frequency_penalty": _ProcessorFactory.frequency,
    "dry": _ProcessorFactory.dry,
    "encoder_repetition_penalty": _ProcessorFactory.encoder_repetition,
    "no_repeat_ngram": _ProcessorFactory.no_repeat,
    "temperature": _ProcessorFactory.temperature,
    "dynamic_temperature": _ProcessorFactory.dynamic_temperature,
    "quadratic_sampling": _ProcessorFactory.smoothing,
    "top_n_sigma": _ProcessorFactory.top_n_sigma,
    "top_k": _ProcessorFactory.top_k,
    "top_p": _ProcessorFactory.top_p,
    "typical_p": _ProcessorFactory.typical,
    "epsilon_cutoff": _ProcessorFactory.epsilon,
    "eta_cutoff": _ProcessorFactory.eta,
    "tfs": _ProcessorFactory.tail_free,
    "top_a": _ProcessorFactory.top_a,
    "min_p": _ProcessorFactory.min_p,
    "mirostat": _ProcessorFactory.mirostat,
    "xtc": _ProcessorFactory.xtc,
}
"""The samplers by their names in `sampler_priority`, in the default order."""

_TRUNCATIONS = frozenset(_BUILDERS) - {*_PENALTIES, *_TEMPERATURES, "mirostat"}
"""The samplers that mirostat replaces."""


def _biases(
    params: Params, prompt_length: int, vocabulary: Vocabulary, eos: Sequence[int], device: torch.device
) -> Iterator[LogitsProcessor]:
    """Build what changes the logits of single tokens: biases, then bans, which override them."""
    eos = [token for token in eos if token < vocabulary.size]
    biases = logit_biases(params, vocabulary.size, eos)
    min_length = prompt_length + params["min_length"] if params["min_length"] else 0
    if biases or min_length:
        yield penalties.Biases(biases, eos, min_length, device)
