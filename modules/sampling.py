"""What one generation is to be: its parameters, settled from the table in `sampling_options`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from modules.errors import OptionError
from modules.events import Json
from modules.options import Value, parse_all
from modules.sampling_options import PARAMETERS

__all__ = ["PARAMETERS", "settle"]

STRONGEST_BIAS = 100
"""As in OpenAI's API, where it is as good as a ban or a command."""


def settle(
    raw: Mapping[str, object],
    stops: Iterable[str] = (),
    top_logprobs: int | None = None,
    logit_bias: Mapping[str, object] | None = None,
) -> dict[str, Json]:
    """The parameters of one generation, complete: `raw` over the defaults. OptionError, UnknownOption.

    `stops` end the answer and are not shown. `top_logprobs` asks for log-probabilities, of that many candidates
    besides the chosen token; None asks for none. `logit_bias` is added to the logits of single tokens, by number.
    """
    values: dict[str, Value] = {key: option.default for key, option in PARAMETERS.items()}
    values |= parse_all(PARAMETERS, raw)
    _check_breakers(str(values["dry_sequence_breakers"]))
    more = {"stop": _checked(stops), "top_logprobs": top_logprobs, "logit_bias": _biases(logit_bias or {})}
    return values | more


def _checked(stops: Iterable[str]) -> list[str]:
    listed = list(stops)
    for stop in listed:
        if not isinstance(stop, str) or not stop:
            raise OptionError("stop", stop, {"en": "texts that are not empty", "zh": "非空文本"})
    return listed


def _check_breakers(text: str) -> None:
    """Its pattern has seen to the quotes; what is between them must be texts as JSON has them."""
    try:
        json.loads(f"[{text}]")
    except ValueError:
        raise OptionError("dry_sequence_breakers", text, PARAMETERS["dry_sequence_breakers"].expected()) from None


def _biases(raw: Mapping[str, object]) -> list[list[float]]:
    """Pairs of a token's number and its bias."""
    wish = {
        "en": f'an object such as {{"50256": -100}}, with biases from -{STRONGEST_BIAS} to {STRONGEST_BIAS}',
        "zh": f'形如 {{"50256": -100}} 的对象，取值在 -{STRONGEST_BIAS} 到 {STRONGEST_BIAS} 之间',
    }
    pairs: list[list[float]] = []
    for token, bias in raw.items():
        number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
        if not (token.isascii() and token.isdigit() and number and abs(bias) <= STRONGEST_BIAS):  # type: ignore[arg-type]
            raise OptionError("logit_bias", f"{token}: {bias}"[:80], wish)
        pairs.append([int(token), float(bias)])  # type: ignore[arg-type]
    return pairs
