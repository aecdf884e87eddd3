"""Settle the generation parameters of a request; refuse what the loaded model cannot do instead of ignoring it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from modules.api import request_fields
from modules.api.request_body import respelled
from modules.api.request_fields import ALIASES, LENGTHS, MAX_COMPARED, NAMES, NEUTRAL, NO_EFFECT
from modules.api.schemas import ChatRequest, CompletionRequest, GenerationRequest
from modules.core.errors import OptionError, UnknownOption, Unsupported
from modules.core.events import Json
from modules.loaders import generation_settings
from modules.loaders.generation_settings import PARAMETERS
from modules.loaders.server_samplers import SCHEMA
from modules.options.option import Value
from modules.runtime.loaded_model import LoadedModel

_LENGTH = "max_new_tokens"
_LENGTH_OPTIONS = {name: dataclasses.replace(PARAMETERS[_LENGTH], key=name, minimum=1) for name in LENGTHS}
_SCHEMA_FIELDS = frozenset({*CompletionRequest.model_fields, *ChatRequest.model_fields})
_ONE_FORMAT = {"en": "no grammar beside it", "zh": "不与语法同时使用"}
_DONE_WITHOUT = ("sampler_priority", "temperature_last", "repetition_penalty_range")
"""Parameters that clients of the original send with every request, and that loaders and servers without them ignore."""


def resolve(
    request: GenerationRequest, model: LoadedModel, defaults: Mapping[str, Value], strict: bool = False
) -> tuple[dict[str, Json], list[str]]:
    """Return all parameters of `request`, on top of `defaults`, and the fields that the answer does without.

    With `strict`, there are no such fields outside messages. Raises OptionError, UnknownOption, or Unsupported for
    what this program or the model's loader lacks.
    """
    extra = request.model_extra or {}
    ignored = [name for name, value in extra.items() if not _is_known(request, name, value, model)]
    _refuse_misspelled(request, ignored, strict)
    requested = {name: value for name, value in extra.items() if name in PARAMETERS and name not in LENGTHS}
    length = next((name for name in LENGTHS if name in extra), "")
    if length:
        requested[_LENGTH] = _length(length, extra[length])
    try:
        params = generation_settings.resolve(
            {**defaults, **requested}, request.stops, request.candidates, request.logit_bias
        )
    except OptionError as error:
        raise respelled(error, request.spelled) from None
    # Many clients send all parameters with every request: those at neutral values need no support.
    effective = generation_settings.effective(params, requested)
    unused = [] if strict else [name for name in effective if name in _DONE_WITHOUT and name not in model.samplers]
    needed = [name for name in effective if name not in unused] + (["logit_bias"] if request.logit_bias else [])
    generation_settings.require_supported(needed, model.samplers, model.engine_name)
    if request.schema is not None:
        require_grammar(request, model, requested, "response_format")
        params["answer_grammar"] = ["json", request.schema]
    grammar_field = "grammar_string" if request.schema is None else "response_format"
    if grammar_field in request.spelled:
        params["grammar_field"] = request.spelled[grammar_field]
    return params, [*ignored, *unused, *request.ignored, *_unused_by_template(request, model)]


def require_grammar(request: GenerationRequest, model: LoadedModel, params: Mapping[str, Any], field: str) -> None:
    """Raise OptionError if `params` have a grammar beside the one for `field`, Unsupported if there cannot be one."""
    if params.get("grammar_string"):
        raise respelled(OptionError(field, str(getattr(request, field))[:80], _ONE_FORMAT), request.spelled)
    if SCHEMA not in model.samplers:
        generation_settings.require_supported(["grammar_string"], model.samplers, model.engine_name)


def _is_known(request: GenerationRequest, name: str, value: Any, model: LoadedModel) -> bool:
    """Return whether a field is honored or asks for nothing; False if the answer does without it."""
    fields = request.model_extra or {}
    if name in PARAMETERS or name in LENGTHS or name in NO_EFFECT:
        return True
    if name in NEUTRAL:
        everything = {**fields, **{key: getattr(request, key) for key in type(request).model_fields}}
        if request_fields.is_empty(value) or NEUTRAL[name](value, everything):
            return True
        raise Unsupported({"en": f"{name} is not supported.", "zh": f"不支持 {name}。"})
    if name == "num_ctx":
        _check_context(value, model)
        return True
    if name == "dynatemp_range":
        raise OptionError(name, str(value), {"en": "a number", "zh": "数字"})
    return False


def _refuse_misspelled(request: GenerationRequest, names: Sequence[str], strict: bool) -> None:
    """Raise UnknownOption for a name that looks like one with an effect, with `strict` for any name."""
    if not names:
        return
    known = frozenset({*type(request).model_fields, *NAMES})
    if strict:
        raise UnknownOption(names[0], request_fields.misspelled(names[0], known))
    effective = known - NO_EFFECT
    for name in names[:MAX_COMPARED]:
        of_other_endpoint = name in _SCHEMA_FIELDS or ALIASES.get(name) in _SCHEMA_FIELDS
        guess = "" if of_other_endpoint else request_fields.misspelled(name, effective)
        if guess:
            raise UnknownOption(name, guess)


def _check_context(value: object, model: LoadedModel) -> None:
    """Refuse a context that is larger than the loaded one: a request never loads a model anew."""
    length = model.info.context_length
    if not isinstance(value, int) or value > length:
        expected = {
            "en": f"at most {length}, the context that the model was loaded with",
            "zh": f"不超过 {length}，即加载模型时的上下文长度",
        }
        raise OptionError("num_ctx", value if isinstance(value, (int, float)) else str(value)[:80], expected)


def _length(name: str, value: Any) -> Value:
    """Return the limit of an answer's tokens; 0 for no limit."""
    is_unlimited = not isinstance(value, (bool, str)) and value in LENGTHS[name]
    return 0 if is_unlimited else _LENGTH_OPTIONS[name].parse(value)


def _unused_by_template(request: GenerationRequest, model: LoadedModel) -> list[str]:
    """Return the fields with variables for the chat template of which it uses none."""
    if not isinstance(request, ChatRequest):
        return []
    template = model.info.chat_template or model.record.chat_template
    words = set(re.findall(r"\w+", template)) if request.template_kwargs else set()
    unused = [name for name in request.template_kwargs if name not in words]
    fields = {f"chat_template_kwargs.{name}" for name in unused if name in request.chat_template_kwargs}
    if "enable_thinking" in unused and request.enable_thinking is not None:
        fields.add("enable_thinking")
    if request.reasoning_effort is not None:
        variable = "enable_thinking" if request.reasoning_effort == "none" else "reasoning_effort"
        fields |= {"reasoning_effort"} if variable in unused else set()
    return sorted(fields)


def seeded(params: Mapping[str, Json], number: int) -> dict[str, Json]:
    """Return `params` with the seed of answer `number` to one prompt: they count up, unless seeds are random."""
    seed = params["seed"]
    highest = int(PARAMETERS["seed"].maximum or 0)
    return {**params, "seed": seed if seed < 0 else (seed + number) % (highest + 1)}
