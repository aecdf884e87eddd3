"""Samplers of the transformers family on small distributions, compared with their definitions and llama.cpp.

Tokens 100 to 104 have the probabilities 0.4, 0.3, 0.15, 0.1 and 0.05 unless a test says otherwise; all others have 0.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from modules.core.errors import OptionError
from modules.core.paths import ROOT
from modules.engines.hf.sampling import warpers
from modules.engines.hf.sampling.mirostat import Mirostat
from modules.engines.hf.sampling.penalties import Dry, NoRepeat, find_breakers
from modules.engines.hf.sampling.pipeline import (
    _BUILDERS,
    NoTokenLeft,
    apply_guidance,
    build_processors,
    first_token_chances,
    new_generator,
    sample_token,
    sampler_order,
    token_chances,
)
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.loaders import generation_settings
from modules.loaders.registry import LOADERS
from modules.options.generation import SAMPLERS
from tests.conftest import SMOLLM2
from tests.engines.llamacpp.test_sampler import (
    CHANCES,
    DEFINED,
    END,
    NEUTRAL,
    case,
    normal,
    only,
    powered,
    probe,
    rescaled,
    scaled,
)
from tests.support.hf_vocabularies import Pieces, small_tokenizer

pytestmark = pytest.mark.usefixtures("backend")

SIZE = 200
CPU = torch.device("cpu")
OFF = -math.inf


def sampling_params(**params: Any) -> dict[str, Any]:
    bias = params.pop("logit_bias", None)
    return generation_settings.resolve({"seed": 7} | NEUTRAL | params, logit_bias=bias)


def processors(params: Mapping[str, Any], prompt: Sequence[int] = (), size: int = SIZE) -> LogitsProcessorList:
    return build_processors(params, prompt_tokens=prompt, vocabulary=Pieces(size), eos=[END], device=CPU)


def logits(chances: Mapping[int, float] = CHANCES, size: int = SIZE, default: float = OFF) -> Tensor:
    row = torch.full((1, size), default)
    for token, chance in chances.items():
        row[0, token] = math.log(chance)
    return row


def probabilities_after(chances: Mapping[int, float] = CHANCES, **params: Any) -> dict[int, float]:
    """Return the probabilities by token after all samplers that are active with `params`."""
    prompt = params.pop("prompt", [1])
    scores = logits(chances)
    before = scores.clone()
    after = processors(sampling_params(**params), prompt)(torch.tensor([prompt]), scores)
    assert torch.equal(scores, before), "the logits of the model are not modified"
    return probabilities(after[0])


def probabilities(row: Tensor) -> dict[int, float]:
    return {token: chance for token, chance in enumerate(row.double().softmax(0).tolist()) if chance > 0}


# -- compared with definitions -----------------------------------------------------------------------------------------


def smoothed(factor: float, curve: float) -> dict[int, float]:
    best = math.log(0.4)
    distances = {token: math.log(chance) - best for token, chance in CHANCES.items()}
    k, s = (3 - curve) / 2, (curve - 1) / 2
    return normal({token: math.exp(-k * factor * d**2 + s * factor * d**3) for token, d in distances.items()})


HOT = {"temperature": 2.0}
DRY = {"dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 1}

# The cases of the llama.cpp sampler are also valid for this pipeline, except two: the order of top-p and temperature
# differs, and top-n-sigma of llama.cpp counts tokens with a probability of 0.
LLAMACPP_CASES = {name: case for name, case in DEFINED.items() if name not in ("top_p then temperature", "top_n_sigma")}

OWN_CASES: dict[str, tuple[dict[str, Any], dict[int, float]]] = {
    "temperature then top_p": ({"top_p": 0.6, "temperature": 0.5}, powered(2, {100: 0.4, 101: 0.3})),
    "top_p then temperature": (
        {"top_p": 0.75, "temperature": 0.5, "temperature_last": True},
        powered(2, {100: 0.4, 101: 0.3, 102: 0.15}),
    ),
    "temperature put last": (
        {"top_p": 0.75, "temperature": 0.5, "sampler_priority": "top_p\ntemperature"},
        powered(2, {100: 0.4, 101: 0.3, 102: 0.15}),
    ),
    "greedy decoding ignores truncation and temperature": (
        {"do_sample": False, "top_k": 2, "temperature": 0.5},
        dict(CHANCES),
    ),
    "greedy decoding applies penalties": (
        {"do_sample": False, "presence_penalty": 1.0, "prompt": [100]},
        scaled(t100=-1.0),
    ),
    # The logits are -0.92, -1.20, -1.90, -2.30 and -3.00: mean -1.864, standard deviation 0.747.
    "top_n_sigma 1": ({"top_n_sigma": 1.0}, only(100, 101)),
    "top_n_sigma 2": ({"top_n_sigma": 2.0}, only(100, 101, 102, 103)),
    "smoothing": ({"smoothing_factor": 0.7}, smoothed(0.7, 1.0)),
    "smoothing with a curve": ({"smoothing_factor": 0.7, "smoothing_curve": 2.5}, smoothed(0.7, 2.5)),
    "top_a": ({"top_a": 0.8}, only(100, 101, 102)),  # 0.8 * 0.4² = 0.128
    # First differences -0.1, -0.15, -0.05, -0.05, then -0.05 and 0; second 0.05, 0.1, 0, 0, 0.05 of 0.2 in all.
    "tfs 0.2": ({"tfs": 0.2}, only(100)),
    "tfs 0.5": ({"tfs": 0.5}, only(100, 101)),
    "tfs 0.76": ({"tfs": 0.76}, only(100, 101, 102, 103, 104)),
    "no repeated pairs": ({"no_repeat_ngram_size": 2, "prompt": [100, 101, 102, 100]}, only(100, 102, 103, 104)),
    "no repeated triples": ({"no_repeat_ngram_size": 3, "prompt": [100, 101, 102, 100]}, dict(CHANCES)),
    "encoder penalty rewards the prompt": ({"encoder_repetition_penalty": 1.25, "prompt": [102]}, rescaled(0.8, 102)),
    "mirostat instead of truncation": (
        {"mirostat_mode": 2, "mirostat_tau": 5.0, "top_k": 1, "min_p": 0.5},
        dict(CHANCES),
    ),
    "smoothing 0 leaves the temperature": ({"smoothing_factor": 0.0, **HOT}, powered(0.5)),
    "dynamic temperature replaces the temperature": (
        {"dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 0.5, **HOT},
        powered(2),
    ),
    "dry within the range only": (
        {**DRY, "repetition_penalty_range": 4, "prompt": [100, 101, 102, 104, 100, 101]},
        dict(CHANCES),
    ),
}


def test_the_cases_of_the_llama_cpp_sampler_give_the_same_results(subtests: pytest.Subtests) -> None:
    for name in LLAMACPP_CASES:
        with subtests.test(name):
            params, expected = LLAMACPP_CASES[name]
            assert probabilities_after(**params) == pytest.approx(expected, abs=1e-5)


def test_every_sampler_follows_its_definition(subtests: pytest.Subtests) -> None:
    for name in OWN_CASES:
        with subtests.test(name):
            params, expected = OWN_CASES[name]
            assert probabilities_after(**params) == pytest.approx(expected, abs=1e-5)


def test_epsilon_and_eta_cutoffs_are_in_units_of_1e_4() -> None:
    chances = {100: 0.9985, 101: 0.0009, 102: 0.0004, 103: 0.0002}
    assert set(probabilities_after(chances, epsilon_cutoff=3.0)) == {100, 101, 102}
    # Eta takes the smaller of epsilon and sqrt(epsilon) * exp(-entropy); here epsilon, as the entropy is 0.0127.
    assert set(probabilities_after(chances, eta_cutoff=3.0)) == {100, 101, 102}
    flat = dict.fromkeys(range(100, 199), 1 / 99) | {199: 0.002}
    bound = math.sqrt(20e-4) * math.exp(-math.log(99))
    assert bound < 20e-4
    assert set(probabilities_after(flat, epsilon_cutoff=9.0)) == set(flat)
    assert set(probabilities_after(flat | {199: bound * 0.9}, eta_cutoff=20.0)) == set(flat) - {199}
    assert set(probabilities_after(flat | {199: bound * 1.2}, eta_cutoff=20.0)) == set(flat)


def test_min_length_bans_the_eos_token_until_the_answer_is_long_enough() -> None:
    chances = {END: 0.99, 100: 0.01}
    chain = processors(sampling_params(min_length=2), [5, 6])
    for length in range(2, 6):
        out = probabilities(chain(torch.tensor([[5, 6, 7, 8, 9][:length]]), logits(chances))[0])
        assert (END in out) == (length >= 4)


def test_the_eos_token_can_be_banned_and_a_ban_overrides_a_bias() -> None:
    chances = {END: 0.99, 100: 0.01}
    assert set(probabilities_after(chances, ban_eos_token=True)) == {100}
    assert set(probabilities_after(custom_token_bans="100", logit_bias={"100": 50.0})) == {101, 102, 103, 104}


@pytest.mark.parametrize("params", [{"logit_bias": {str(SIZE): 1.0}}, {"custom_token_bans": str(SIZE)}])
def test_a_token_outside_the_vocabulary_is_refused_by_the_name_of_the_option(params: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as error:
        processors(sampling_params(**params))
    assert error.value.option == next(iter(params))


ENGINE_PARAMETERS = {"negative_prompt", "add_bos_token", "skip_special_tokens", "prompt_lookup_num_tokens"}
TESTED_ELSEWHERE = {
    *("epsilon_cutoff", "eta_cutoff", "min_length", "ban_eos_token", "guidance_scale", "seed", "grammar_string"),
    *("dry_sequence_breakers", "custom_token_bans"),
}


def test_every_sampling_parameter_has_a_test() -> None:
    tested = {key for params, _ in [*LLAMACPP_CASES.values(), *OWN_CASES.values()] for key in params}
    assert LOADERS["Transformers"].samplers <= tested | ENGINE_PARAMETERS | TESTED_ELSEWHERE


def test_neutral_samplers_are_left_out() -> None:
    assert list(processors(sampling_params())) == []
    assert [type(processor).__name__ for processor in processors(generation_settings.resolve({}))] == [
        "TemperatureLogitsWarper",
        "MinPLogitsWarper",
    ]


# -- the order ---------------------------------------------------------------------------------------------------------


def test_the_options_list_the_samplers_in_the_default_order() -> None:
    assert tuple(_BUILDERS) == SAMPLERS
    assert sampler_order(sampling_params()) == list(SAMPLERS)


def test_samplers_missing_from_sampler_priority_come_first() -> None:
    order = sampler_order(sampling_params(sampler_priority="min_p, temperature\ntop_k"))
    assert order[-3:] == ["min_p", "temperature", "top_k"]
    assert order[:3] == list(SAMPLERS)[:3]


def test_temperature_last_overrides_sampler_priority() -> None:
    order = sampler_order(
        sampling_params(temperature_last=True, sampler_priority="temperature\nquadratic_sampling\nxtc")
    )
    assert order[-3:] == ["dynamic_temperature", "temperature", "quadratic_sampling"]


# -- compared with llama.cpp -------------------------------------------------------------------------------------------

LLAMA_ORDER = "top_n_sigma\ntop_k\ntypical_p\ntop_p\nmin_p\nxtc\nmirostat"  # followed by the temperatures
LLAMA_VOCABULARY = 49152
EXCLUDED = -1e4  # the logit of all other tokens, as in the probe


def compare_with_llamacpp(
    cases: Sequence[dict[str, Any]], vocabulary: Pieces
) -> list[tuple[dict[int, float], dict[int, float]]]:
    """Return the probabilities of each case after this pipeline and after the sampler of llama.cpp."""
    results = []
    for request, llama_chances in zip(cases, probe(*cases), strict=True):
        params = generation_settings.resolve(
            request["params"] | {"sampler_priority": LLAMA_ORDER, "temperature_last": True}
        )
        scores = torch.full((1, LLAMA_VOCABULARY), EXCLUDED)
        for token, logit in request["logits"].items():
            scores[0, token] = logit
        prompt = request.get("prompt") or [1]
        arguments: dict[str, Any] = {"vocabulary": vocabulary, "eos": [END], "device": CPU}
        chain = build_processors(params, prompt_tokens=prompt, **arguments)
        assert "error" not in llama_chances
        theirs = {int(token): chance for token, chance in llama_chances.items()}
        results.append((probabilities(chain(torch.tensor([prompt]), scores)[0]), theirs))
    return results


def random_distribution(count: int, seed: int) -> dict[int, float]:
    """Return a random distribution over `count` tokens from 500 on."""
    rng = random.Random(seed)
    return normal({500 + offset: math.exp(rng.gauss(0, 2)) for offset in range(count)})


COMPARED: list[dict[str, Any]] = [
    {"top_k": 7},
    {"top_p": 0.83},
    {"min_p": 0.07},
    {"top_k": 40, "typical_p": 0.71},
    {"top_k": 40, "xtc_probability": 1.0, "xtc_threshold": 0.06},
    {"top_k": 40, "dynamic_temperature": True, "dynatemp_low": 0.4, "dynatemp_high": 1.7, "dynatemp_exponent": 1.3},
    {"dynamic_temperature": True, "dynatemp_low": 0.4, "dynatemp_high": 1.7},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.05, "temperature": 0.6},
    {"mirostat_mode": 2, "mirostat_tau": 1.5},
    {"mirostat_mode": 1, "mirostat_tau": 1.5},
    {"mirostat_mode": 1, "mirostat_tau": 0.6, "temperature": 1.4},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": -0.4, "prompt": [500, 501, 500, 507]},
    {"repetition_penalty": 0.8, "repetition_penalty_range": 2, "prompt": [500, 501, 500, 507]},
]


def test_probabilities_equal_those_of_llama_cpp() -> None:
    cases = [case(0, random_distribution(40, seed), **params) for seed in range(3) for params in COMPARED]
    names = [json.dumps(params) for _ in range(3) for params in COMPARED]
    for name, (ours, theirs) in zip(names, compare_with_llamacpp(cases, Pieces(LLAMA_VOCABULARY)), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("n", [0.5, 1.5])
def test_top_n_sigma_equals_that_of_llama_cpp(n: float) -> None:
    """Compare them over the full vocabulary, because llama.cpp counts every token."""
    rng = random.Random(1)
    chances = normal({token: math.exp(rng.gauss(0, 1)) for token in range(LLAMA_VOCABULARY)})
    ((ours, theirs),) = compare_with_llamacpp([case(0, chances, top_n_sigma=n)], Pieces(LLAMA_VOCABULARY))
    assert len(ours) > 3
    assert set(ours) == set(theirs)
    assert all(ours[token] == pytest.approx(chance, rel=1e-3) for token, chance in theirs.items())


@pytest.fixture(scope="module")
def smollm2(backend: None) -> Pieces:
    """Return the vocabulary of the demo model, with the tokens of all ends of BREAKERS."""
    texts = [tail for text in BREAKERS for tail in (text[start:] for start in range(1, len(text)))]
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.sampler_probe"],
        cwd=ROOT,
        input=json.dumps({"path": str(SMOLLM2), "texts": texts}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    answer = json.loads(process.stdout)
    return Pieces(LLAMA_VOCABULARY, answer["pieces"], answer["tokens"])


BREAKERS = ("\n", " the end", ":", "###")


def repetitive_text(vocabulary: Pieces, seed: int) -> list[int]:
    """Return a text of few words, with breakers in between, that repeats itself a lot."""
    rng = random.Random(seed)
    by_text = {piece: token for token, piece in reversed(list(enumerate(vocabulary.pieces)))}
    words = [500, 501, 502, by_text["\n"], by_text[" the"], by_text[" end"], by_text["#"], by_text["##"], by_text[":"]]
    weights = [9, 9, 9, 1, 1, 1, 1, 1, 1]
    return rng.choices(words, weights, k=rng.choice((5, 30, 120)))


@pytest.mark.parametrize("breaking", [True, False])
def test_dry_penalties_equal_those_of_llama_cpp(smollm2: Pieces, breaking: bool) -> None:
    texts = ", ".join(json.dumps(text) for text in BREAKERS) if breaking else '"zzzzzz"'
    cases = []
    for seed in range(40):
        rng = random.Random(seed)
        dry = {
            "dry_multiplier": 0.3,
            "dry_base": rng.choice((1.0, 1.2, 1.75)),
            "dry_allowed_length": rng.choice((1, 2, 4)),
        }
        extra = {"dry_sequence_breakers": texts, "repetition_penalty_range": rng.choice((0, 20, 64))}
        cases.append(case(0, random_distribution(5, seed), prompt=repetitive_text(smollm2, seed), **dry, **extra))
    results = compare_with_llamacpp(cases, smollm2)
    for number, (ours, theirs) in enumerate(results):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6), (number, cases[number])
    plain = [normal({token: math.exp(logit) for token, logit in request["logits"].items()}) for request in cases]
    changed = sum(ours != pytest.approx(before, rel=1e-3) for (ours, _), before in zip(results, plain, strict=True))
    assert changed > 10, "the penalties must have an effect"


def test_breakers_are_found_within_tokens_and_across_them() -> None:
    pieces = ["a:b", "x", "th", "the", " the", "e end", "t", ":"]
    breakers = find_breakers((":", "the end"), Pieces(8, pieces, {"e end": [5], " end": [9], "he end": [7, 5]}))
    assert breakers == {0: [[]], 7: [[]], 2: [[5]], 3: [[9]], 4: [[9]], 6: [[7, 5]]}


# -- compared with transformers ----------------------------------------------------------------------------------------

SHAPES = {
    "steep": lambda size: torch.randn(2, size) * 4,
    "flat": lambda size: torch.randn(2, size) * 0.1,
    "cut": lambda size: torch.where(torch.rand(2, size) < 0.9, OFF, torch.randn(2, size)),
}


def test_top_p_and_typical_keep_the_tokens_that_transformers_keeps(subtests: pytest.Subtests) -> None:
    masses = (0.1, 0.5, 0.9, 0.993)  # at which the last bit of a sum does not matter
    for shape, mass, size in itertools.product(SHAPES, masses, (30, 3000)):
        with subtests.test(shape=shape, mass=mass, size=size):
            torch.manual_seed(3)
            scores = SHAPES[shape](size)
            tokens = torch.zeros(2, 1, dtype=torch.long)
            assert torch.equal(warpers.TopP(mass)(tokens, scores), TopPLogitsWarper(mass)(tokens, scores))
            assert torch.equal(warpers.Typical(mass)(tokens, scores), TypicalLogitsWarper(mass)(tokens, scores))


@pytest.mark.parametrize("scale", [-0.5, 0.0, 1.0, 1.5])
def test_guidance_equals_that_of_transformers(scale: float) -> None:
    torch.manual_seed(3)
    scores, negative = torch.randn(1, 50), torch.randn(1, 50)

    class Model:
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return type("Out", (dict,), {"logits": negative[:, None]})()

    theirs = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, Model())(torch.zeros(1, 3, dtype=torch.long), scores)
    ours = apply_guidance(scores, negative, scale)
    assert torch.allclose(ours.log_softmax(1), theirs.log_softmax(1), atol=1e-5)


# -- state, randomness and rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [1, 2])
def test_mirostat_keeps_the_surprise_near_its_target(mode: int) -> None:
    chances = normal({rank: 1 / (rank + 1) ** 1.1 for rank in range(2000)})
    scores, mean = logits(chances, 2000), {}
    for tau in (2.0, 4.0):
        params = sampling_params(mirostat_mode=mode, mirostat_tau=tau)
        chain, rng, text, surprises = processors(params, [0], 2000), new_generator(params, CPU), torch.tensor([[0]]), []
        for _ in range(600):
            token = sample_token(chain(text, scores), params, rng)
            surprises.append(-math.log2(chances[int(token)]))
            text = torch.cat([text, token[:, None]], dim=1)
        mean[tau] = sum(surprises[200:]) / 400
    assert mean[2.0] < mean[4.0] - 1
    if mode == 2:
        assert [mean[2.0], mean[4.0]] == pytest.approx([2.6, 4.5], abs=0.9)


def test_mirostat_follows_its_formula_and_undoes_rejected_draft_tokens() -> None:
    mirostat = Mirostat(2, tau=1.2, eta=0.5, depth=3)
    scores = logits()
    first = mirostat(torch.tensor([[1]]), scores)
    assert set(probabilities(first[0])) == {100, 101}  # 2.4 bits: 0.19
    # 101 was sampled, with probability 3/7: 1.22 bits, so the maximum surprise falls by 0.5 * 0.02 to 2.39.
    second = mirostat(torch.tensor([[1, 101]]), scores)
    assert set(probabilities(second[0])) == {100, 101}
    # 100: 0.81 bits, so it rises to 2.59. Draft tokens that are rejected leave no trace.
    third = mirostat(torch.tensor([[1, 101, 100]]), scores)
    mirostat(torch.tensor([[1, 101, 100, 100]]), scores)
    assert torch.equal(mirostat(torch.tensor([[1, 101, 100]]), scores), third)
    expected = 2.4 - 0.5 * (-math.log2(3 / 7) - 1.2) - 0.5 * (-math.log2(4 / 7) - 1.2)
    assert float(mirostat._steps[3].max_surprise) == pytest.approx(expected, abs=1e-5)


def test_xtc_acts_with_its_probability() -> None:
    params = sampling_params(xtc_probability=0.5, xtc_threshold=0.14)
    chain = processors(params)
    effects = [100 not in probabilities(chain(torch.tensor([[1]]), logits())[0]) for _ in range(1000)]
    assert sum(effects) / 1000 == pytest.approx(0.5, abs=0.06)


def test_a_seed_fixes_the_samples_and_the_global_generator_is_not_used() -> None:
    def samples(seed: int) -> list[int]:
        params = sampling_params(seed=seed, xtc_probability=0.5)
        rng = new_generator(params, CPU)
        arguments: dict[str, Any] = {"vocabulary": Pieces(SIZE), "eos": [END], "device": CPU, "generator": rng}
        chain = build_processors(params, prompt_tokens=[1], **arguments)
        return [int(sample_token(chain(torch.tensor([[1]]), logits()), params, rng)) for _ in range(60)]

    before = torch.random.get_rng_state()
    assert samples(5) == samples(5)
    assert samples(5) != samples(6)
    assert samples(-1) != samples(-1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tokens_are_sampled_as_often_as_they_are_likely() -> None:
    params = sampling_params()
    tokens = sample_token(logits().expand(20000, -1), params, new_generator(params, CPU))
    counts = {token: int((tokens == token).sum()) for token in CHANCES}
    assert sum(counts.values()) == 20000
    for token, chance in CHANCES.items():
        assert abs(counts[token] - 20000 * chance) <= 4.5 * math.sqrt(20000 * chance * (1 - chance))


FIRST: tuple[dict[str, Any], ...] = (
    {"top_k": 4, "temperature": 2.0},
    {"xtc_probability": 0.5, "xtc_threshold": 0.14},
    {"xtc_probability": 0.3, "xtc_threshold": 0.05, "typical_p": 0.9, "temperature_last": True, "temperature": 0.7},
    {"repetition_penalty": 1.5, "presence_penalty": 0.5, "custom_token_bans": "101", "min_p": 0.1},
    {"mirostat_mode": 2, "mirostat_tau": 1.0},
    {"dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 3.0, "smoothing_factor": 0.4},
)


def test_first_tokens_are_sampled_as_often_as_their_chances_say(subtests: pytest.Subtests) -> None:
    draws, prompt = 2000, torch.tensor([[100, 102]])
    for case_params in FIRST:
        with subtests.test(params=case_params):
            params = sampling_params(**case_params)
            generator = new_generator(params, CPU)

            def build(params: Mapping[str, Any], generator: torch.Generator = generator) -> LogitsProcessorList:
                arguments: dict[str, Any] = {"vocabulary": Pieces(SIZE), "eos": [END], "device": CPU}
                return build_processors(params, prompt_tokens=[100, 102], generator=generator, **arguments)

            chances = first_token_chances(params, build, prompt, logits())[0]
            assert float(chances.sum()) == pytest.approx(1)
            rows = build(params)(prompt.expand(draws, -1), logits().expand(draws, -1))
            tokens = sample_token(rows, params, generator)
            for token, chance in enumerate(chances.tolist()):
                deviation = math.sqrt(draws * chance * (1 - chance))
                assert abs(int((tokens == token).sum()) - draws * chance) <= 4.5 * deviation + 0.01


def test_the_chances_of_greedy_decoding_are_one_for_one_token() -> None:
    params = sampling_params(temperature=0.0)
    assert token_chances(logits(), params)[0].nonzero().tolist() == [[100]]
    with pytest.raises(NoTokenLeft):
        token_chances(torch.full((1, SIZE), OFF), params)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"do_sample": False}])
def test_greedy_decoding_takes_the_most_likely_token(params: dict[str, Any]) -> None:
    resolved = sampling_params(**params)
    assert sample_token(logits(), resolved, new_generator(resolved, CPU)).tolist() == [100]


def test_a_row_without_finite_logits_raises_an_error() -> None:
    for params in (sampling_params(), sampling_params(temperature=0.0)):
        for logit, message in ((OFF, "leave no token"), (float("nan"), "produces NaN")):
            with pytest.raises(NoTokenLeft, match=message):
                sample_token(torch.cat([logits(), torch.full((1, SIZE), logit)]), params, new_generator(params, CPU))


def random_parameters(rng: random.Random) -> dict[str, Any]:
    """Return random sampling parameters within their ranges."""
    ranges = {
        key: option
        for key, option in generation_settings.PARAMETERS.items()
        if key in LOADERS["Transformers"].samplers and isinstance(option.default, (int, float)) and option.maximum
    }
    settings: dict[str, Any] = {}
    for key in rng.sample(sorted(ranges.keys() - {"seed", "min_length"}), k=rng.randint(1, 8)):
        option = ranges[key]
        value = rng.choice((option.minimum, option.maximum, rng.uniform(option.minimum or 0, option.maximum or 1)))
        settings[key] = int(value) if isinstance(option.default, int) else value
    flags = ("dynamic_temperature", "temperature_last")
    names = rng.sample(SAMPLERS, k=rng.randint(1, len(SAMPLERS)))
    return settings | {flag: rng.random() < 0.5 for flag in flags} | {"sampler_priority": names, "seed": 3}


def test_random_parameters_always_leave_tokens_to_sample(subtests: pytest.Subtests) -> None:
    for seed in range(150):
        with subtests.test(seed=seed):
            choices = random.Random(seed)
            torch.manual_seed(seed)
            settings = random_parameters(choices) | {"mirostat_mode": choices.choice((0, 0, 1, 2))}
            params = generation_settings.resolve(settings)
            scores = torch.randn(3, 60) * choices.choice((0.0, 1.0, 8.0))
            scores[torch.rand(3, 60) < choices.choice((0.0, 0.5, 0.97))] = OFF
            scores[:, 7] = 0.0
            before, text = scores.clone(), torch.randint(0, 60, (3, 40))
            chain, rng = processors(params, text[0, :30].tolist(), 60), new_generator(params, CPU)
            for _ in range(4):
                after = chain(text, scores)
                assert not after.isnan().any(), settings
                assert after.isfinite().any(dim=1).all(), settings
                assert torch.equal(scores, before), settings
                tokens = sample_token(after, params, rng)
                assert after.gather(1, tokens[:, None]).isfinite().all(), settings
                assert scores.gather(1, tokens[:, None]).isfinite().all(), settings
                text = torch.cat([text, tokens[:, None]], dim=1)


def test_the_rows_of_a_batch_are_independent(subtests: pytest.Subtests) -> None:
    for seed in range(40):
        with subtests.test(seed=seed):
            torch.manual_seed(seed)
            settings = random_parameters(random.Random(seed)) | {
                "mirostat_mode": seed % 3,
                "xtc_probability": float(seed % 2),
            }
            settings.pop("encoder_repetition_penalty", None)  # it uses one prompt for all rows
            params = generation_settings.resolve(settings)
            scores, text = torch.randn(3, 60) * 3, torch.randint(0, 20, (3, 40))
            batched, single_rows = processors(params, [1], 60), [processors(params, [1], 60) for _ in range(3)]
            for _ in range(3):
                expected = torch.cat([chain(text[[row]], scores[[row]]) for row, chain in enumerate(single_rows)])
                assert torch.allclose(batched(text, scores), expected, rtol=1e-4, atol=1e-4)
                text = torch.cat([text, torch.randint(0, 20, (3, 1))], dim=1)


def test_the_only_token_left_by_truncation_may_repeat_an_ngram() -> None:
    text = torch.tensor([[100, 101, 100]])
    assert set(probabilities(NoRepeat(2)(text, logits({101: 1.0}))[0])) == {101}


def test_dry_counts_a_run_of_one_token_as_a_repetition() -> None:
    import numpy as np

    dry = Dry(1.0, 2.0, 2, 1024, {})
    assert dry.repetition_lengths(np.array([5] * 6)) == {5: 5}
    assert dry.repetition_lengths(np.array([5] * 2)) == {}


# -- vocabularies ------------------------------------------------------------------------------------------------------


def test_pieces_are_the_texts_of_tokens_with_their_spaces() -> None:
    tokenizer = small_tokenizer()
    vocabulary = TokenizerVocabulary(tokenizer, len(tokenizer) + 8, [0])
    assert len(vocabulary.pieces) == len(tokenizer)
    assert vocabulary.pieces[0] == "<|end|>"
    text = "the year was good: yes 你好"
    pieces = "".join(vocabulary.pieces[token] for token in vocabulary.encode(text))
    assert pieces.replace("\ufffd", "") == text.replace("你好", "") or pieces == text
    assert any(piece.startswith(" y") for piece in vocabulary.pieces)
    assert find_breakers(("\n",), vocabulary).keys() == {
        token for token, piece in enumerate(vocabulary.pieces) if "\n" in piece
    }
