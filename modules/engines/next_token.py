"""The operation "next": which tokens may follow a prompt, by the model and after the samplers. The pure part.

It is a generation of one token that ends with a `Result` instead of text, so that it waits, is batched and reuses the
prefix cache like every other. The result is {"plain": [[id, text, log-probability], …], "sampled": [[id, text,
probability], …]}, the most likely first. "plain" is before any sampler. "sampled" are the chances of the draw, by the
samplers of a generation that begins after this prompt: mirostat has seen no token yet, and penalties look back on the
prompt. A greedy generation has one token with the probability 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from modules.core.errors import OptionError, Words
from modules.core.events import Json, Logprob, Result

NO_CANDIDATES: Words = {
    "en": "This loader cannot list the candidates for the next token.",
    "zh": "此加载器无法列出下一个词符的候选。",
}
DEFAULT_CANDIDATES, MAX_CANDIDATES = 50, 200
_KEY = "next"


def ask_for(params: Mapping[str, Json], count: int) -> Mapping[str, Json]:
    """Return the parameters of a generation that ends with the `count` most likely next tokens.

    Raises OptionError if `count` is not from 1 to MAX_CANDIDATES.
    """
    if not 1 <= count <= MAX_CANDIDATES:
        expected = {"en": f"1 to {MAX_CANDIDATES} candidates", "zh": f"1 到 {MAX_CANDIDATES} 个候选"}
        raise OptionError("top", count, expected)
    return {**params, _KEY: count, "max_new_tokens": 1}


def candidate_count(params: Mapping[str, Json]) -> int:
    """Return how many next tokens are asked for, 0 for an ordinary generation."""
    return int(params.get(_KEY, 0))


def without_chance(params: Mapping[str, Json]) -> Sequence[tuple[float, Mapping[str, Json]]]:
    """Return parameters whose samplers do the same every time until the draw, and how likely each of these is.

    XTC is the one sampler that acts with a probability.
    """
    probability = params["xtc_probability"]
    if not 0 < probability < 1:
        return [(1.0, params)]
    return [
        (probability, {**params, "xtc_probability": 1.0}),
        (1 - probability, {**params, "xtc_probability": 0.0}),
    ]


def result(plain: Iterable[Logprob], sampled: Iterable[tuple[int, float]], text: Callable[[int], str]) -> Result:
    """Return the end of the operation. `sampled` are ids and probabilities, the most likely first."""
    by_model = [[candidate.id, candidate.text, candidate.logprob] for candidate in plain]
    return Result({"plain": by_model, "sampled": [[token, text(token), round(chance, 9)] for token, chance in sampled]})
