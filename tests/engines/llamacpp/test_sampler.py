"""Every sampler on fixed logits, compared with its definition: remaining candidates and how often they are sampled.

Tokens 100 to 104 have the probabilities 0.4, 0.3, 0.15, 0.1 and 0.05 unless a test says otherwise.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from modules.core.paths import ROOT
from tests.conftest import SMOLLM2

pytestmark = pytest.mark.usefixtures("smollm2")

CHANCES = {100: 0.4, 101: 0.3, 102: 0.15, 103: 0.1, 104: 0.05}
NEUTRAL = {"temperature": 1.0, "min_p": 0.0, "top_p": 1.0, "top_k": 0}
DRAWS = 2000
END = 2  # <|im_end|>


def probe(*cases: Mapping[str, Any]) -> list[Any]:
    """Run tests/support/sampler_probe.py."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.support.sampler_probe"],
        cwd=ROOT,
        input=json.dumps({"path": str(SMOLLM2), "cases": cases}),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    results: list[Any] = json.loads(child.stdout)
    return results


def case(draw: int = DRAWS, chances: Mapping[int, float] = CHANCES, **params: Any) -> dict[str, Any]:
    extra = {key: params.pop(key) for key in ("prompt", "logit_bias", "first") if key in params}
    logits = {token: math.log(chance) for token, chance in chances.items()}
    return {"params": {"seed": 7} | NEUTRAL | params, "logits": logits, "draw": draw, **extra}


class Results:
    """Results of the probe for some cases. The probe runs once for all cases of this file."""

    _cases: ClassVar[list[Mapping[str, Any]]] = []
    _results: ClassVar[list[Any]] = []

    def __init__(self, *cases: Mapping[str, Any]) -> None:
        self._slice = slice(len(self._cases), len(self._cases) + len(cases))
        self._cases.extend(cases)

    def __call__(self) -> list[Any]:
        if not self._results:
            self._results.extend(probe(*self._cases))
        return self._results[self._slice]


def normal(weights: Mapping[int, float]) -> dict[int, float]:
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items() if weight}


def powered(exponent: float, chances: Mapping[int, float] = CHANCES) -> dict[int, float]:
    return normal({token: chance**exponent for token, chance in chances.items()})


def top(count: int) -> dict[int, float]:
    return normal(dict(list(CHANCES.items())[:count]))


def only(*tokens: int) -> dict[int, float]:
    return normal({token: CHANCES[token] for token in tokens})


def scaled(**changes: float) -> dict[int, float]:
    """Return the probabilities after changes of logits: `t100=x` adds x to the logit of token 100."""
    return normal({token: chance * math.exp(changes.get(f"t{token}", 0)) for token, chance in CHANCES.items()})


def rescaled(penalty: float, *tokens: int) -> dict[int, float]:
    """Return the probabilities after a repetition penalty of `tokens`. It multiplies the logits: all are negative."""
    return normal({token: chance ** (penalty if token in tokens else 1) for token, chance in CHANCES.items()})


def entropy() -> float:
    return -sum(chance * math.log(chance) for chance in CHANCES.values())


def typical(mass: float) -> dict[int, float]:
    nearest = sorted(CHANCES, key=lambda token: abs(-math.log(CHANCES[token]) - entropy()))
    kept: list[int] = []
    while sum(CHANCES[token] for token in kept) <= mass and nearest:
        kept.append(nearest.pop(0))
    return only(*kept)


def dynamic(low: float, high: float, exponent: float) -> dict[int, float]:
    share = entropy() / math.log(5)  # of the highest entropy of five candidates
    return powered(1 / (low + (high - low) * share**exponent))


# The parameters, and the distribution by their definition.
DEFINED: dict[str, tuple[dict[str, Any], dict[int, float]]] = {
    "neutral": ({}, dict(CHANCES)),
    "temperature 0.5": ({"temperature": 0.5}, powered(2)),
    "temperature 2": ({"temperature": 2.0}, powered(0.5)),
    "top_k 2": ({"top_k": 2}, top(2)),
    "top_p 0.65": ({"top_p": 0.65}, top(2)),
    "top_p 0.75": ({"top_p": 0.75}, top(3)),
    "top_p after top_k": ({"top_k": 3, "top_p": 0.8}, top(2)),  # of the candidates that top_k has left: 0.47 + 0.35
    "top_p then temperature": ({"top_p": 0.75, "temperature": 0.5}, normal({100: 0.16, 101: 0.09, 102: 0.0225})),
    "min_p 0.3": ({"min_p": 0.3}, top(3)),
    "min_p and top_p": ({"min_p": 0.3, "top_p": 0.65}, top(2)),
    "top_n_sigma": (
        {"top_n_sigma": 0.01},
        top(3),
    ),  # the other 49,147 logits are so low that sigma is 101
    "typical_p 0.2": ({"top_k": 5, "typical_p": 0.2}, typical(0.2)),
    "typical_p 0.5": ({"top_k": 5, "typical_p": 0.5}, typical(0.5)),
    "xtc always": ({"top_k": 5, "xtc_probability": 1.0, "xtc_threshold": 0.14}, only(102, 103, 104)),
    "xtc without effect": (
        {"top_k": 5, "xtc_probability": 1.0, "xtc_threshold": 0.45},
        dict(CHANCES),
    ),
    "dynamic temperature": (
        {"top_k": 5, "dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 1.5, "dynatemp_exponent": 2.0},
        dynamic(0.5, 1.5, 2.0),
    ),
    "repetition penalty": ({"repetition_penalty": 2.0, "prompt": [100, 102]}, rescaled(2.0, 100, 102)),
    "repetition penalty out of range": (
        {"repetition_penalty": 2.0, "repetition_penalty_range": 1, "prompt": [100, 102]},
        rescaled(2.0, 102),
    ),
    "frequency penalty": ({"frequency_penalty": 0.5, "prompt": [100, 100, 101]}, scaled(t100=-1.0, t101=-0.5)),
    "presence penalty": ({"presence_penalty": 0.5, "prompt": [100, 100, 101]}, scaled(t100=-0.5, t101=-0.5)),
    "logit bias": ({"logit_bias": {"104": 2.0, "100": -1.0}}, scaled(t104=2.0, t100=-1.0)),
    "bans": ({"custom_token_bans": "100, 103"}, only(101, 102, 104)),
    # The prompt contains "100 101 102" and ends with "100 101": 102 would continue the repetition, which is already one
    # token longer than allowed.
    "dry": (
        {"dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 1, "prompt": [100, 101, 102, 104, 100, 101]},
        scaled(t102=-0.5 * 2.0 ** (2 - 1)),
    ),
    "dry, within the allowed length": (
        {"dry_multiplier": 0.5, "dry_allowed_length": 3, "prompt": [100, 101, 102, 104, 100, 101]},
        dict(CHANCES),
    ),
    # The sampler is a copy of the one made for the case "dry", and has not seen the prompt of that.
    "dry, after another answer": (
        {"dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 1, "prompt": [100, 101]},
        dict(CHANCES),
    ),
    "mirostat 2 drops tokens whose surprise exceeds 2 tau": (
        {"mirostat_mode": 2, "mirostat_tau": 0.9, "mirostat_eta": 0.0},
        top(2),  # -log2 of 0.4 and 0.3 is 1.3 and 1.7, of 0.15 it is 2.7
    ),
}


REMAINING = Results(*(case(0, **params) for params, _ in DEFINED.values()))


@pytest.fixture(scope="module")
def remaining() -> dict[str, dict[int, float]]:
    """Return for every case the probabilities of the tokens that may be sampled, by token."""
    shares = [{int(token): chance for token, chance in chances.items()} for chances in REMAINING()]
    return dict(zip(DEFINED, shares, strict=True))


def test_the_remaining_candidates_follow_the_definition(
    remaining: dict[str, dict[int, float]], subtests: pytest.Subtests
) -> None:
    for name in DEFINED:
        with subtests.test(name):
            _, expected = DEFINED[name]
            assert remaining[name] == pytest.approx(expected, abs=1e-4)


CUTS: tuple[dict[str, Any], ...] = ({}, {"top_p": 0.75}, {"top_k": 3}, {"repetition_penalty": 1.0, "min_p": 0.3})
DRAWN = Results(*(case(**params) for params in CUTS))


@pytest.mark.parametrize("params", CUTS)
def test_tokens_are_sampled_as_often_as_they_are_likely(params: dict[str, Any]) -> None:
    tokens = DRAWN()[CUTS.index(params)]
    expected = top(3) if params else CHANCES
    assert set(tokens) == set(expected)
    assert_frequencies(tokens, expected)


DIGITS = 'root ::= "1" "2"*'
ONE, TWO = 33, 34  # "1" and "2" in SmolLM2's vocabulary
FIRST: dict[str, dict[str, Any]] = {
    "XTC half of the time": {"top_k": 5, "xtc_probability": 0.5, "xtc_threshold": 0.14},
    "XTC, then temperature": {"xtc_probability": 0.3, "xtc_threshold": 0.05, "top_k": 4, "temperature": 2.0},
    "a grammar that refuses most tokens": {"grammar_string": 'root ::= ("1" | "2")+', "temperature": 1.5},
    "a grammar and truncation": {"grammar_string": 'root ::= ("1" | "2")+', "top_k": 2, "min_p": 0.1},
    "penalties": {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "prompt": [100, 100, ONE], "top_p": 0.95},
    "mirostat 1": {"mirostat_mode": 1, "mirostat_tau": 1.5},
}
FIRST_CHANCES = {100: 0.5, ONE: 0.3, TWO: 0.15, 103: 0.05}
FIRST_PROBABILITIES = Results(*(case(0, FIRST_CHANCES, **params) for params in FIRST.values()))
FIRST_DRAWS = Results(*(case(DRAWS, FIRST_CHANCES, first=True, **params) for params in FIRST.values()))


def test_the_first_token_is_drawn_as_often_as_its_probability_says(subtests: pytest.Subtests) -> None:
    for name, chances, tokens in zip(FIRST, FIRST_PROBABILITIES(), FIRST_DRAWS(), strict=True):
        with subtests.test(name):
            expected = {int(token): chance for token, chance in chances.items()}
            assert sum(expected.values()) == pytest.approx(1, abs=1e-6)
            assert_frequencies(tokens, expected)


def assert_frequencies(tokens: Sequence[int], expected: Mapping[int, float]) -> None:
    """Fail unless every token was drawn as often as expected, within 4.5 standard deviations."""
    counts = Counter(tokens)
    assert set(counts) <= set(expected)
    for token, chance in expected.items():
        deviation = math.sqrt(len(tokens) * chance * (1 - chance))
        assert abs(counts[token] - len(tokens) * chance) <= 4.5 * deviation + 0.5, (token, counts[token], chance)


GREEDY_PROBABILITIES = Results(
    case(0, temperature=0.0),
    case(0, temperature=0.0, top_k=5, xtc_probability=1.0, xtc_threshold=0.14),
    case(0, {100: 0.9, ONE: 0.06, TWO: 0.04}, temperature=0.0, grammar_string=DIGITS),
)


def test_at_temperature_zero_one_token_has_all_the_probability() -> None:
    assert GREEDY_PROBABILITIES() == [{"100": 1.0}, {"102": 1.0}, {str(ONE): 1.0}]


GREEDY_CUTS: tuple[dict[str, Any], ...] = (
    *({}, {"top_p": 0.1}, {"min_p": 0.9}, {"top_k": 1}, {"dynamic_temperature": True}, {"mirostat_mode": 2}),
)
GREEDY = Results(*(case(3, temperature=0.0, **cut) for cut in GREEDY_CUTS))
GREEDY_XTC = Results(case(3, temperature=0.0, xtc_probability=1.0, xtc_threshold=0.14))


def test_at_temperature_zero_the_most_likely_token_is_sampled_with_any_sampler() -> None:
    assert GREEDY() == [[100] * 3] * len(GREEDY_CUTS)


def test_at_temperature_zero_the_most_likely_token_that_xtc_keeps_is_sampled() -> None:
    assert GREEDY_XTC() == [[102] * 3]


XTC = Results(case(DRAWS, top_k=5, xtc_probability=0.5, xtc_threshold=0.14))


def test_xtc_acts_with_its_probability() -> None:
    (tokens,) = XTC()
    expected = 0.5 * 0.7  # in the other half 100 and 101 are removed
    share = sum(token in (100, 101) for token in tokens) / DRAWS
    assert share == pytest.approx(expected, abs=0.04)


WIDE = {1000 + rank: 1 / (rank + 1) ** 1.1 for rank in range(2000)}
SETTLING, MEASURED = 150, 450
"""Numbers of samples. Each one reduces the distance to the target by a tenth."""


def mirostat(mode: int, target: float) -> dict[str, Any]:
    return case(SETTLING + MEASURED, WIDE, mirostat_mode=mode, mirostat_tau=target, mirostat_eta=0.1)


MIROSTAT = {mode: Results(mirostat(mode, 2.0), mirostat(mode, 4.0)) for mode in (1, 2)}


@pytest.mark.parametrize("mode", MIROSTAT)
def test_mirostat_keeps_the_surprise_near_its_target(mode: int) -> None:
    chances = normal(WIDE)
    surprises = []
    for tokens in MIROSTAT[mode]():
        settled = tokens[SETTLING:]
        surprises.append(sum(-math.log2(chances[token]) for token in settled) / len(settled))
    assert surprises[0] < surprises[1] - 1
    if mode == 2:  # version 1 estimates the surprise after its truncation and aims at that
        assert surprises == pytest.approx([2.6, 4.5], abs=0.9)


ALMOST_THE_END = {END: 0.99, 100: 0.01}
ENDS = Results(case(50, ALMOST_THE_END), case(50, ALMOST_THE_END, ban_eos_token=True))


def test_the_end_token_can_be_banned() -> None:
    allowed, banned = ENDS()
    assert END in allowed
    assert set(banned) == {100}


NOT_BEFORE = Results(
    case(4, ALMOST_THE_END, min_length=2, temperature=0.0),
    case(2, ALMOST_THE_END, min_length=2, temperature=0.0, ban_eos_token=True),
    case(2, {100: 0.9, ONE: 0.1}, min_length=5, temperature=0.0, grammar_string='root ::= "1"'),
    case(2, {ONE: 1}, min_length=5, temperature=0.0, grammar_string='root ::= "1"', ban_eos_token=True),
)


def test_the_end_token_is_banned_until_the_answer_is_long_enough_or_its_grammar_complete() -> None:
    delayed, banned, complete, without_end = NOT_BEFORE()
    assert (delayed, banned) == ([100, 100, END, END], [100, 100])
    assert complete[0] == ONE and complete[1] in (0, END)
    assert "no token" in without_end["error"]


DIGIT_SAMPLES = Results(
    *(
        case(draw, {100: 0.9, ONE: 0.06, TWO: 0.04}, grammar_string=DIGITS, **params)
        for draw, params in ((1, {}), (6, {}), (6, {"temperature": 0.0}))
    )
)


def test_only_tokens_that_the_grammar_accepts_are_sampled() -> None:
    single, sampled, greedy = DIGIT_SAMPLES()
    assert single == [ONE]
    assert sampled == greedy == [ONE, TWO, TWO, TWO, TWO, TWO]


INVALID_GRAMMARS = ["root ::= (", "nonsense", 'other ::= "a"', "root ::= root"]
REFUSED_GRAMMARS = Results(*(case(1, grammar_string=text) for text in INVALID_GRAMMARS))


@pytest.mark.parametrize("text", INVALID_GRAMMARS)
def test_an_invalid_grammar_is_refused_by_name(text: str) -> None:
    assert "grammar_string" in REFUSED_GRAMMARS()[INVALID_GRAMMARS.index(text)]["error"]


INVALID_TOKENS: list[dict[str, Any]] = [{"logit_bias": {"49152": 1.0}}, {"custom_token_bans": "49152"}]
REFUSED_TOKENS = Results(*(case(1, **params) for params in INVALID_TOKENS))


@pytest.mark.parametrize("params", INVALID_TOKENS)
def test_a_token_id_outside_the_vocabulary_is_refused_by_name(params: dict[str, Any]) -> None:
    assert next(iter(params)) in REFUSED_TOKENS()[INVALID_TOKENS.index(params)]["error"]


NO_TOKEN_ALLOWED = Results(case(1, grammar_string='root ::= "1"', custom_token_bans="33", logit_bias={"1": 0}))


def test_a_grammar_and_bans_that_allow_no_token_are_reported() -> None:
    (result,) = NO_TOKEN_ALLOWED()
    assert "leave no token" in result["error"]


# No threshold is so close to a sum of probabilities that rounding decides.
NUCLEI = (
    {"top_p": 0.903},
    {"top_p": 0.511},
    {"min_p": 0.097},
    {"min_p": 3e-6},
    {"top_p": 0.787, "min_p": 0.043},
    {"top_p": 0.0},
)
SHAPES = {
    "flat": {500 + index: 1.0 for index in range(40)},
    "steep": {500 + index: math.exp(-index) for index in range(40)},
    "long": {500 + index: 1 / (index + 1) for index in range(40)},
}


CUT = {  # a top_k of all candidates makes the engine use llama.cpp's own samplers, and changes nothing else
    shape: Results(
        *(case(0, chances, **params, **top_k) for params in NUCLEI for top_k in ({}, {"top_k": len(chances)}))
    )
    for shape, chances in SHAPES.items()
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_nucleus_is_the_one_that_llama_cpp_keeps(shape: str) -> None:
    results = CUT[shape]()
    for ours, theirs in zip(results[::2], results[1::2], strict=True):
        if shape == "flat":  # the choice among equal candidates is arbitrary
            assert len(ours) == len(theirs)
        else:
            assert set(ours) == set(theirs)
