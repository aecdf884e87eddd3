"""The fields that clients send with a generation request, in four classes.

1. Honored: fields of the schemas, the generation parameters, and `ALIASES` of both from other servers.
2. `NO_EFFECT`: fields that by their meaning do not change the answer.
3. `NEUTRAL`: features that are missing here. Many clients send every parameter with every request, so that values that
   ask for nothing are accepted; others are refused.
4. All others: refused if the name looks like a misspelled one, since that would change the answer; otherwise the
   request is answered without them, and the response lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modules.core.events import Json
from modules.loaders.generation_settings import PARAMETERS
from modules.options.option import nearest

LENGTHS: Mapping[str, tuple[int, ...]] = {
    "max_completion_tokens": (-1,),
    "max_tokens": (-1,),
    "max_new_tokens": (-1, 0),
    "n_predict": (-1, -2),
    "num_predict": (-1, -2),
}
"""Names of the limit of an answer's tokens, and their values for no limit. Of several, the first one counts."""

ALIASES: Mapping[str, str] = {
    "typical": "typical_p",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "rep_pen_range": "repetition_penalty_range",
    "repeat_last_n": "repetition_penalty_range",
    "tfs_z": "tfs",
    "mirostat": "mirostat_mode",
    "nsigma": "top_n_sigma",
    "sampler_seed": "seed",
    "min_tokens": "min_length",
    "ignore_eos": "ban_eos_token",
    "stopping_strings": "stop",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "dynatemp_min": "dynatemp_low",
    "dynatemp_max": "dynatemp_high",
    "dynatemp_mode": "dynamic_temperature",
    "grammar": "grammar_string",
    "guided_grammar": "grammar_string",
    "continue_final_message": "continue_",
}
"""Names of other servers for fields of ours. A field that is sent by its own name, too, has that value."""

NO_EFFECT = frozenset(
    {
        *("user", "safety_identifier", "metadata", "store"),  # for OpenAI's records
        *("service_tier", "prompt_cache_key", "prompt_cache_retention"),  # how its data centers serve the request
        *("client_metadata", "chat_id", "session_id"),  # for a client's own records
        *("api_type", "api_server", "legacy_api"),  # SillyTavern's notes on the server that it talks to
        *("cache_prompt", "id_slot", "cache_control", "context_management"),  # prefixes are cached in any case
        "include",  # of OpenAI's Responses: further parts of the answer
        "parallel_tool_calls",  # meaningless without tools
        "adaptive_decay",  # meaningless without adaptive_target
    }
)

Fields = Mapping[str, Any]


def _is(*values: Json) -> Callable[[Any, Fields], bool]:
    return lambda value, fields: value in values


def _without_tools(value: Any, fields: Fields) -> bool:
    return "none" in (fields.get("tool_choice"), fields.get("function_call"))


NEUTRAL: Mapping[str, Callable[[Any, Fields], bool]] = {
    "guided_regex": _is(),
    "guided_choice": _is(),
    "tools": _without_tools,
    "tool_choice": _is("none", "auto"),
    "functions": _without_tools,
    "function_call": _is("none", "auto"),
    "best_of": lambda value, fields: value in (1, fields.get("n")),
    "suffix": _is(),
    "audio": _is(),
    "modalities": _is(["text"]),
    "prediction": _is(),
    "verbosity": _is("medium"),
    "web_search_options": _is(),
    "add_generation_prompt": lambda value, fields: value is True or bool(fields.get("continue_")),
    "num_beams": _is(1),
    "length_penalty": _is(1),
    "early_stopping": _is(False),  # beams are compared at their ends, so that nothing could be streamed
    "use_beam_search": _is(False),
    "penalty_alpha": _is(0),  # transformers has removed contrastive search
    "max_tokens_second": _is(0),
    "skew": _is(0),
    "rep_pen_slope": _is(0, 1),
    "repetition_decay": _is(0),
    "dry_penalty_last_n": lambda value, fields: value in (0, -1) or not fields.get("dry_multiplier"),
    "banned_strings": _is(),
    "image_data": _is(),
    "images": _is(),
    "multimodal_data": _is(),
    "min_keep": _is(0, 1),
    "adaptive_target": lambda value, fields: _is_number(value) and value <= 0,
    "speculative_ngram": _is(False),
    "include_stop_str_in_output": _is(False),
    "spaces_between_special_tokens": _is(True),
    "trim_stop": _is(True),
    "grammar_retain_state": _is(False),
}
"""Fields of features that are missing here, and whether a value asks for nothing. Empty texts and lists always do."""


SCHEMAS = ("json_schema", "guided_json")
"""Names of other servers for the schema of `response_format`."""

NAMES = frozenset(
    {*PARAMETERS, *LENGTHS, *ALIASES, *NO_EFFECT, *NEUTRAL, *SCHEMAS, "dynatemp_range", "n_probs", "num_ctx"}
)

MAX_COMPARED = 32
"""How many unknown fields of a request are compared with the known ones: that takes about a millisecond each."""

_OTHER_SERVERS = frozenset({"mode", "models", "n_keep", "samplers"})
"""Fields of other servers whose names look like misspelled ones of ours."""


def misspelled(name: str, names: frozenset[str]) -> str:
    """Return the one of `names` that `name` looks like a misspelling of, or ""."""
    if name in _OTHER_SERVERS:
        return ""
    # In a short name, one wrong letter weighs more.
    return nearest(name, names, cutoff=0.75 if len(name) < 6 else 0.8 if len(name) < 8 else 0.85)


def is_empty(value: object) -> bool:
    """Whether a value asks for nothing, whatever it is a value of."""
    return value is None or value == "" or value == []


# -- spellings -------------------------------------------------------------------------------------------------------


def canonical(raw: Fields) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields by their own names, with values in our spelling, and the name that each alias had."""
    fields = {name: value for name, value in raw.items() if name not in ALIASES}
    spelled: dict[str, str] = {}
    for alias, name in ALIASES.items():
        if alias in raw and name not in fields:
            fields[name], spelled[name] = raw[alias], alias
    if spelled.get("repetition_penalty_range") == "repeat_last_n" and fields["repetition_penalty_range"] == 0:
        # For llama.cpp, 0 means that the penalties consider no token; for us, all tokens.
        fields |= {"repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
    _split_range(fields)
    _join_schemas(fields, spelled)
    return {
        name: _CONVERSIONS[name](value) if name in _CONVERSIONS else value for name, value in fields.items()
    }, spelled


def _split_range(fields: dict[str, Any]) -> None:
    """Replace llama.cpp's `dynatemp_range`, the distance of both ends from `temperature`, unless the ends are sent."""
    distance = fields.pop("dynatemp_range", 0)
    if distance == 0 or "dynatemp_low" in fields or "dynatemp_high" in fields:
        return
    center = fields.get("temperature", PARAMETERS["temperature"].default)
    if not all(_is_number(number) and abs(number) < _MAX_TEMPERATURE for number in (distance, center)):
        fields["dynatemp_range"] = distance  # refused by `parameters`
        return
    low = PARAMETERS["dynatemp_low"].minimum or 0
    fields |= {
        "dynamic_temperature": True,
        "dynatemp_low": max(low, center - distance),
        "dynatemp_high": center + distance,
    }


def _join_schemas(fields: dict[str, Any], spelled: dict[str, str]) -> None:
    for name in SCHEMAS:
        schema = fields.pop(name, None)
        if "response_format" not in fields and not is_empty(schema) and schema != {}:
            fields["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
            spelled["response_format"] = name


_MAX_TEMPERATURE = 100  # the bound of what is added up here; `parameters` has the true one


def _minus_one_is_off(value: Any) -> Any:
    return 0 if _is_number(value) and value == -1 else value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _without_empty(value: Any) -> Any:
    if isinstance(value, list):
        return [item for item in value if item not in ("", None)]
    return [] if value == "" else value


def _whole(value: Any) -> Any:
    """Convert 1.0, as some languages write whole numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _within_seeds(value: Any) -> Any:
    """Fold a whole number beyond our seeds into them: other servers' have 64 bits, or any negative one is random."""
    value = _whole(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return -1 if value < 0 else value % (int(PARAMETERS["seed"].maximum or 0) + 1)


def _joined_tokens(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(token, int) and not isinstance(token, bool) for token in value):
        return ",".join(map(str, value))
    return value


def _bias_by_token(value: Any) -> Any:
    """Convert llama.cpp's list of pairs of token ID and bias, in which false bans a token."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return value
    return {str(token): -100 if bias is False else bias for token, bias in value}


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "top_k": _minus_one_is_off,
    "top_n_sigma": _minus_one_is_off,
    "repetition_penalty_range": _minus_one_is_off,
    "min_length": _minus_one_is_off,
    "no_repeat_ngram_size": _minus_one_is_off,
    "seed": _within_seeds,
    "n": _whole,
    "logprobs": _whole,
    "top_logprobs": _whole,
    "stop": _without_empty,
    "custom_token_bans": _joined_tokens,
    "logit_bias": _bias_by_token,
}
