"""The parameters of one generation, validated against the table in `options/generation.py`."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterable, Mapping

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.options.generation import OFF, PARAMETERS, SUPPORTED_BY_ALL, SWITCHES
from modules.options.option import Value, parse_all

__all__ = ["PARAMETERS", "require_supported", "resolve"]

_QUOTED_LISTS = ("dry_sequence_breakers", "custom_stopping_strings")

_FOREIGN_SAMPLERS = ("adaptive_p",)

_DEFAULTS: dict[str, Value] = {key: option.default for key, option in PARAMETERS.items()}

MAX_LOGIT_BIAS = 100
"""Limit of OpenAI's API: -100 bans a token, 100 forces it."""


def resolve(
    raw: Mapping[str, object],
    stops: Iterable[str] = (),
    top_logprobs: int | None = None,
    logit_bias: Mapping[str, object] | None = None,
) -> dict[str, Json]:
    """Return all parameters of one generation: `raw` values over the defaults.

    `stops` are strings that end the answer, in addition to `custom_stopping_strings`; they are not part of it.
    `top_logprobs` requests the log probabilities of the sampled token and of that many candidates; None requests none.
    `logit_bias` is added to the logits of tokens, by token ID. Raises OptionError or UnknownOption.
    """
    values = _DEFAULTS | parse_all(PARAMETERS, {key: as_text(key, value) for key, value in raw.items()})
    lists = {key: _parse_list(key, str(values[key])) for key in _QUOTED_LISTS}
    if values["auto_max_new_tokens"]:
        values["max_new_tokens"] = 0
    all_stops = dict.fromkeys([*_validated_stops(stops), *lists["custom_stopping_strings"]])
    extra = {"stop": list(all_stops), "top_logprobs": top_logprobs, "logit_bias": _parse_biases(logit_bias or {})}
    return values | extra


def as_text(key: str, value: object) -> object:
    """Convert a list of strings, or its JSON, as clients of the original API send it, to the text of the option."""
    if key in _QUOTED_LISTS and isinstance(value, str) and value.strip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if key == "sampler_priority":
        return _without_foreign_samplers(value)
    if key not in _QUOTED_LISTS or not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return value
    return ", ".join(json.dumps(item, ensure_ascii=False) for item in value if item)


def _without_foreign_samplers(value: object) -> object:
    """Return the lines of `sampler_priority` without the samplers that only the original has."""
    names = re.split(r"\s*[\n,]\s*", value.strip()) if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return value
    return "\n".join(name for name in names if name not in _FOREIGN_SAMPLERS)


def require_supported(parameters: Iterable[str], samplers: frozenset[str], engine: str) -> None:
    """Raise `Unsupported` instead of silently ignoring a parameter that is not among `samplers`, those of `engine`."""
    missing = next((name for name in parameters if name not in samplers | SUPPORTED_BY_ALL), "")
    if missing:
        raise Unsupported(
            {
                "en": f"The loader {engine} does not support {missing}.",
                "zh": f"加载器 {engine} 不支持 {missing}。",
            }
        )


def changed(params: Mapping[str, Json]) -> list[str]:
    """Return the keys of parameters that differ from their defaults and are not switched off by another one."""
    differing = [key for key, option in PARAMETERS.items() if key in params and params[key] != option.default]
    return [key for key in differing if SWITCHES.get(key, key) in differing]


def effective(params: Mapping[str, Json], names: Collection[str]) -> list[str]:
    """Return the keys among `names` whose values change the answer, even if they are the defaults."""
    named = [(key, option) for key, option in PARAMETERS.items() if key in names]
    differing = [key for key, option in named if params[key] != OFF.get(key, option.default)]
    on = changed(params) if any(key in SWITCHES for key in differing) else ()
    return [key for key in differing if key not in SWITCHES or SWITCHES[key] in on]


def _validated_stops(stops: Iterable[str]) -> list[str]:
    strings = list(stops)
    for stop in strings:
        if not isinstance(stop, str) or not stop:
            raise OptionError("stop", stop, {"en": "non-empty strings", "zh": "非空字符串"})
    return strings


def _parse_list(key: str, text: str) -> list[str]:
    """Parse JSON strings separated by commas. The option's pattern has checked the quotes, but not the escapes.

    Half of a surrogate pair is refused: tokenizers take none.
    """
    if not text:
        return []
    try:
        strings: list[str] = json.loads(f"[{text}]")
        "".join(strings).encode()
        return strings
    except ValueError:
        raise OptionError(key, text, PARAMETERS[key].expected()) from None


def _parse_biases(raw: Mapping[str, object]) -> list[list[float]]:
    """Return pairs of token ID and bias."""
    expected = {
        "en": f'an object such as {{"50256": -100}}, with biases from -{MAX_LOGIT_BIAS} to {MAX_LOGIT_BIAS}',
        "zh": f'形如 {{"50256": -100}} 的对象，取值在 -{MAX_LOGIT_BIAS} 到 {MAX_LOGIT_BIAS} 之间',
    }
    pairs: list[list[float]] = []
    for token, bias in raw.items():
        is_number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
        if not (token.isascii() and token.isdigit() and is_number and abs(bias) <= MAX_LOGIT_BIAS):  # type: ignore[arg-type]
            raise OptionError("logit_bias", f"{token}: {bias}"[:80], expected)
        pairs.append([int(token), float(bias)])  # type: ignore[arg-type]
    return pairs
