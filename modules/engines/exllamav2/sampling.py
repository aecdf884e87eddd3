"""From generation parameters to the fields of ExLlamaV2Sampler.Settings. Pure.

Its order is its own: penalties, bias, DRY and grammar; temperature and smoothing; top-k, top-p, top-a, min-p,
tail-free, typical, mirostat; dynamic temperature, or temperature_last; XTC. Where a number means something else there
than here, such as a top-p of 0 that turns it off, the nearest one that does not is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.core.errors import OptionError
from modules.core.events import Json

COLDEST = 0.01
"""Temperatures below it take the likeliest token, as ExLlamaV2 has it."""
_EDGE = 1e-6


def fields(params: Mapping[str, Json]) -> dict[str, Json]:
    """All that do not depend on the vocabulary. OptionError for what it does not have."""
    if params["mirostat_mode"] == 1:
        wish = {"en": "0 or 2: ExLlamaV2 has only the second version", "zh": "0 或 2（ExLlamaV2 只有第二版）"}
        raise OptionError("mirostat_mode", 1, wish)
    return _repetition(params) | (_greedy() if greedy(params) else _heat(params) | _cuts(params))


def greedy(params: Mapping[str, Json]) -> bool:
    return not params["do_sample"] or params["temperature"] < COLDEST


def _greedy() -> dict[str, Json]:
    return {"temperature": 1.0, "top_k": 1, "top_p": 0.0}


def _repetition(params: Mapping[str, Json]) -> dict[str, Json]:
    return {
        "token_repetition_penalty": params["repetition_penalty"],
        "token_repetition_range": params["repetition_penalty_range"] or -1,
        "token_frequency_penalty": params["frequency_penalty"],
        "token_presence_penalty": params["presence_penalty"],
        "dry_multiplier": params["dry_multiplier"],
        "dry_base": params["dry_base"],
        "dry_allowed_length": params["dry_allowed_length"],
    }


def _heat(params: Mapping[str, Json]) -> dict[str, Json]:
    made = {"smoothing_factor": params["smoothing_factor"], "temperature_last": params["temperature_last"]}
    if not params["dynamic_temperature"]:
        return made | {"temperature": params["temperature"]}
    low, high = sorted((params["dynatemp_low"], params["dynatemp_high"]))
    if low == high:
        return made | {"temperature": low}
    exponent = params["dynatemp_exponent"]
    return made | {"temperature": 1.0, "min_temp": low, "max_temp": high, "temp_exponent": exponent}


def _cuts(params: Mapping[str, Json]) -> dict[str, Json]:
    made = {
        "top_k": params["top_k"],
        "top_p": max(params["top_p"], _EDGE),
        "top_a": params["top_a"],
        "min_p": min(params["min_p"], 1 - _EDGE),
        "tfs": max(params["tfs"], _EDGE),
        "typical": params["typical_p"],
        "xtc_probability": params["xtc_probability"],
        "xtc_threshold": params["xtc_threshold"],
    }
    if params["mirostat_mode"]:
        made |= {"mirostat": True, "mirostat_tau": params["mirostat_tau"], "mirostat_eta": params["mirostat_eta"]}
    return made
