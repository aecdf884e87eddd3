"""Settle the generation parameters of a request; refuse what the loaded model cannot do instead of ignoring it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from modules.api.schemas import GenerationRequest
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
        *("user", "safety_identifier", "metadata", "store"),  # for OpenAI's records
        *("service_tier", "prompt_cache_key", "prompt_cache_retention"),  # how its data centers serve the request
        "parallel_tool_calls",  # meaningless without tools
    }
)
"""Parameters of OpenAI's API that by their meaning do not change the answer."""

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
    "verbosity": ("medium",),
    "web_search_options": (),
    "num_beams": (1,),
    "length_penalty": (1,),
    "early_stopping": (False,),  # beams are compared at their ends, so that nothing could be streamed
    "penalty_alpha": (0,),  # transformers has removed contrastive search
    "max_tokens_second": (0,),
}
"""Parameters of OpenAI's API and the original's that are not supported, with the values that have no effect."""

_NAMES = (*PARAMETERS, *_LENGTHS, *IGNORED, *NEUTRAL)


def resolve(request: GenerationRequest, model: LoadedModel, defaults: Mapping[str, Value]) -> dict[str, Json]:
    """Return all parameters of `request`, on top of `defaults`.

    Raises OptionError, UnknownOption, or Unsupported for a parameter that the model's loader lacks.
    """
    extra = request.model_extra or {}
    for name, value in extra.items():
        _check_name(type(request), name, value)
    requested = {name: value for name, value in extra.items() if name in PARAMETERS}
    for name in [name for name in _LENGTHS if name in extra]:
        requested[_LENGTH] = _LENGTHS[name].parse(extra[name])
    params = generation_settings.resolve(
        {**defaults, **requested}, request.stops, request.candidates, request.logit_bias
    )
    # Many clients send all parameters with every request: those at neutral values need no support.
    effective = [name for name in generation_settings.changed(params) if name in requested]
    generation_settings.require_supported([*effective, *(["logit_bias"] if request.logit_bias else [])], model.loader)
    return params


def _check_name(schema: type[GenerationRequest], name: str, value: object) -> None:
    if name not in _NAMES:
        raise UnknownOption(name, nearest(name, (*schema.model_fields, *_NAMES)))
    if name in NEUTRAL and value not in NEUTRAL[name]:
        raise Unsupported({"en": f"{name} is not supported.", "zh": f"不支持 {name}。"})


def seeded(params: Mapping[str, Json], number: int) -> dict[str, Json]:
    """Return `params` with the seed of answer `number` to one prompt: they count up, unless seeds are random."""
    seed = params["seed"]
    highest = int(PARAMETERS["seed"].maximum or 0)
    return {**params, "seed": seed if seed < 0 else (seed + number) % (highest + 1)}
