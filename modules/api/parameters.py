"""From a request to the parameters of its generation: nothing that was asked for is silently left undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from modules.api.schemas import Generation
from modules.core.errors import UnknownOption, Unsupported
from modules.core.events import Json
from modules.loaders import generation_settings
from modules.loaders.generation_settings import PARAMETERS
from modules.options.option import Value, nearest
from modules.runtime.loaded_model import LoadedModel

_LENGTH = "max_new_tokens"
_LENGTH_NAMES = ("max_tokens", "max_completion_tokens")  # OpenAI's names for it; of several the last one counts
_LENGTHS = {name: dataclasses.replace(PARAMETERS[_LENGTH], key=name, minimum=1) for name in _LENGTH_NAMES}

IGNORED = frozenset(
    {
        *("user", "safety_identifier", "metadata", "store"),  # for OpenAI's own records; we keep none
        *("service_tier", "prompt_cache_key", "prompt_cache_retention"),  # how its data centres serve the request
        "parallel_tool_calls",  # says nothing as long as there are no tools
    }
)
"""What OpenAI's clients may send and what by its own meaning changes no answer of ours."""

NEUTRAL: Mapping[str, tuple[Json, ...]] = {
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "best_of": (1,),
    "suffix": ("",),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "num_beams": (1,),
    "length_penalty": (1,),
    "early_stopping": (False,),  # beams are compared at their ends, so that nothing could be streamed
    "penalty_alpha": (0,),  # transformers has given contrastive search up
    "max_tokens_second": (0,),
}
"""What we know of OpenAI's API and of the original's and cannot do, each with the values that ask for nothing."""

_NAMES = (*PARAMETERS, *_LENGTHS, *IGNORED, *NEUTRAL)


def settle(request: Generation, model: LoadedModel, defaults: Mapping[str, Value]) -> dict[str, Json]:
    """All parameters of `request`, over `defaults`. OptionError, UnknownOption or Unsupported for what cannot be."""
    given = request.model_extra or {}
    for name, value in given.items():
        _check(type(request), name, value)
    asked = {name: value for name, value in given.items() if name in PARAMETERS}
    for name in [name for name in _LENGTHS if name in given]:
        asked[_LENGTH] = _LENGTHS[name].parse(given[name])
    params = generation_settings.settle({**defaults, **asked}, request.stops, request.candidates, request.logit_bias)
    # What a client sends with every request, but neutral, asks for nothing.
    wishes = [name for name in generation_settings.changed(params) if name in asked]
    generation_settings.require_supported([*wishes, *(["logit_bias"] if request.logit_bias else [])], model.loader)
    return params


def _check(kind: type[Generation], name: str, value: object) -> None:
    if name not in _NAMES:
        raise UnknownOption(name, nearest(name, (*kind.model_fields, *_NAMES)))
    if name in NEUTRAL and value not in NEUTRAL[name]:
        raise Unsupported({"en": f"{name} is not supported here.", "zh": f"此处不支持 {name}。"})


def seeded(params: Mapping[str, Json], number: int) -> dict[str, Json]:
    """`params` for the answer `number` of several to one prompt: each has a seed of its own, if there is one at all."""
    seed = params["seed"]
    highest = int(PARAMETERS["seed"].maximum or 0)
    return {**params, "seed": seed if seed < 0 else (seed + number) % (highest + 1)}
