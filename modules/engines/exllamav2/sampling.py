"""From generation parameters to the fields of ExLlamaV2Sampler.Settings: pure.

ExLlamaV2's order is its own: penalties, bias, DRY and grammar; temperature and smoothing; top-k, top-p, top-a, min-p,
tail-free, typical, mirostat; dynamic temperature, or temperature_last; XTC. Where a value has another meaning there,
such as a top-p of 0 that turns it off, the nearest value with our meaning is passed.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.core.errors import OptionError
from modules.core.events import Json

MIN_TEMPERATURE = 0.01
"""Below this temperature ExLlamaV2 takes the most likely token."""
_EPSILON = 1e-6


def settings_fields(params: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields that do not depend on the vocabulary. Raises OptionError for a parameter it lacks."""
    if params["mirostat_mode"] == 1:
        expected = {"en": "0 or 2: ExLlamaV2 has only the second version", "zh": "0 或 2（ExLlamaV2 只有第二版）"}
        raise OptionError("mirostat_mode", 1, expected)
    return _penalties(params) | (_greedy() if is_greedy(params) else _temperature(params) | _truncation(params))


def is_greedy(params: Mapping[str, Json]) -> bool:
    return not params["do_sample"] or params["temperature"] < MIN_TEMPERATURE


def _greedy() -> dict[str, Json]:
    return {"temperature": 1.0, "top_k": 1, "top_p": 0.0}


def _penalties(params: Mapping[str, Json]) -> dict[str, Json]:
    return {
        "token_repetition_penalty": params["repetition_penalty"],
        "token_repetition_range": params["repetition_penalty_range"] or -1,
        "token_frequency_penalty": params["frequency_penalty"],
        "token_presence_penalty": params["presence_penalty"],
        "dry_multiplier": params["dry_multiplier"],
        "dry_base": params["dry_base"],
        "dry_allowed_length": params["dry_allowed_length"],
    }


def _temperature(params: Mapping[str, Json]) -> dict[str, Json]:
    fields = {"smoothing_factor": params["smoothing_factor"], "temperature_last": params["temperature_last"]}
    if not params["dynamic_temperature"]:
        return fields | {"temperature": params["temperature"]}
    low, high = sorted((params["dynatemp_low"], params["dynatemp_high"]))
    if low == high:
        return fields | {"temperature": low}
    exponent = params["dynatemp_exponent"]
    return fields | {"temperature": 1.0, "min_temp": low, "max_temp": high, "temp_exponent": exponent}


def _truncation(params: Mapping[str, Json]) -> dict[str, Json]:
    fields = {
        "top_k": params["top_k"],
        "top_p": max(params["top_p"], _EPSILON),
        "top_a": params["top_a"],
        "min_p": min(params["min_p"], 1 - _EPSILON),
        "tfs": max(params["tfs"], _EPSILON),
        "typical": params["typical_p"],
        "xtc_probability": params["xtc_probability"],
        "xtc_threshold": params["xtc_threshold"],
    }
    if params["mirostat_mode"]:
        fields |= {"mirostat": True, "mirostat_tau": params["mirostat_tau"], "mirostat_eta": params["mirostat_eta"]}
    return fields
