"""What one generation is to be: its parameters, settled from the table in `sampling_options`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.loaders.registry import Loader
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Value, parse_all

__all__ = ["PARAMETERS", "refuse_missing", "settle"]

_QUOTED = ("dry_sequence_breakers", "custom_stopping_strings")

STRONGEST_BIAS = 100
"""As in OpenAI's API, where it is as good as a ban or a command."""


def settle(
    raw: Mapping[str, object],
    stops: Iterable[str] = (),
    top_logprobs: int | None = None,
    logit_bias: Mapping[str, object] | None = None,
) -> dict[str, Json]:
    """The parameters of one generation, complete: `raw` over the defaults. OptionError, UnknownOption.

    `stops` end the answer and are not shown; so do the texts in `custom_stopping_strings`. `top_logprobs` asks for
    log-probabilities, of that many candidates besides the chosen token; None asks for none. `logit_bias` is added to
    the logits of single tokens, by number.
    """
    values: dict[str, Value] = {key: option.default for key, option in PARAMETERS.items()}
    values |= parse_all(PARAMETERS, {key: as_text(key, value) for key, value in raw.items()})
    texts = {key: _texts(key, str(values[key])) for key in _QUOTED}
    if values["auto_max_new_tokens"]:
        values["max_new_tokens"] = 0
    every_stop = dict.fromkeys([*_checked(stops), *texts["custom_stopping_strings"]])
    more = {"stop": list(every_stop), "top_logprobs": top_logprobs, "logit_bias": _biases(logit_bias or {})}
    return values | more


def as_text(key: str, value: object) -> object:
    """`value`, or the text it stands for: what the original's clients may send as a list is one text in the form."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return value
    if key == "sampler_priority":
        return "\n".join(value)
    return ", ".join(json.dumps(each, ensure_ascii=False) for each in value) if key in _QUOTED else value


def refuse_missing(asked: Iterable[str], loader: Loader) -> None:
    """Unsupported if `asked` names a parameter that `loader` does not have: it would be left undone in silence."""
    missing = next((name for name in asked if name not in loader.samplers | SUPPORTED_BY_ALL), "")
    if missing:
        raise Unsupported(
            {
                "en": f"The loader {loader.name} has no {missing}.",
                "zh": f"加载器 {loader.name} 不支持 {missing}。",
            }
        )


def changed(params: Mapping[str, Json]) -> list[str]:
    """The parameters among `params` that are not what they are by default."""
    return [key for key, option in PARAMETERS.items() if key in params and params[key] != option.default]


def _checked(stops: Iterable[str]) -> list[str]:
    listed = list(stops)
    for stop in listed:
        if not isinstance(stop, str) or not stop:
            raise OptionError("stop", stop, {"en": "texts that are not empty", "zh": "非空文本"})
    return listed


def _texts(key: str, text: str) -> list[str]:
    """Its pattern has seen to the quotes; what is between them must be texts as JSON has them."""
    try:
        found: list[str] = json.loads(f"[{text}]")
        return found
    except ValueError:
        raise OptionError(key, text, PARAMETERS[key].expected()) from None


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
