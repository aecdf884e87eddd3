"""Translate config.json for Transformers 4.51, the version that AutoGPTQ and AutoAWQ run with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from modules.formats.json_file import Json, first_integer
from modules.formats.transformers4 import Inexpressible, to_version_4

_NO_ATTENTION_FACTOR = ("phi3",)
"""Architectures whose classes in Transformers 4.51 take no key beside the two lists of factors of LongRoPE."""


def legacy_config(config: Mapping[str, Any]) -> Json:
    """Return config.json as Transformers 4.51 has to read it. Raises Inexpressible if that would change the model."""
    return _with_explicit_factors(to_version_4(config))


def _with_explicit_factors(config: Json) -> Json:
    """Keep Transformers 4.51 from replacing the factor of YaRN and LongRoPE by the ratio of two context lengths."""
    result = dict(config)
    if isinstance(result.get("text_config"), dict):
        result["text_config"] = _with_explicit_factors(result["text_config"])
    scaling = result.get("rope_scaling")
    if isinstance(scaling, dict) and not result.get("auto_map"):
        kind = scaling.get("rope_type") or scaling.get("type")
        if kind == "yarn":
            _set_yarn_factor(result, dict(scaling))
        elif kind in ("longrope", "su"):
            _set_longrope_factor(result, dict(scaling))
    return result


def _set_yarn_factor(config: Json, scaling: Json) -> None:
    """Have the ratio be the factor: without an original context length, 4.51 takes the factor as it is."""
    factor, original = scaling.get("factor"), first_integer(scaling, "original_max_position_embeddings")
    context = first_integer(config, "max_position_embeddings")
    if not isinstance(factor, (int, float)) or not original or math.isclose(context / original, factor):
        return
    if original == context:
        del scaling["original_max_position_embeddings"]
    elif float(factor * original).is_integer():
        # Nothing but the ratio depends on it: the context length of the engine is read from the file.
        config["max_position_embeddings"] = int(factor * original)
    else:
        raise Inexpressible("rope_parameters.factor", factor)
    config["rope_scaling"] = scaling


def _set_longrope_factor(config: Json, scaling: Json) -> None:
    """State the factor of attention, which alone depends on the ratio."""
    factor, original = scaling.pop("factor", None), first_integer(config, "original_max_position_embeddings")
    context, attention = first_integer(config, "max_position_embeddings"), scaling.get("attention_factor")
    if not original or not context:
        return
    ratio = context / original
    by_ratio = _longrope_attention(ratio, original)
    if attention is None:
        attention = _longrope_attention(factor, original) if isinstance(factor, (int, float)) else by_ratio
    scaling.pop("attention_factor", None)
    if not math.isclose(attention, by_ratio):
        if str(config.get("model_type")) in _NO_ATTENTION_FACTOR:
            raise Inexpressible("rope_parameters.factor", factor)
        scaling["attention_factor"] = float(attention)
        scaling["factor"] = factor if factor is not None else ratio
    config["rope_scaling"] = scaling


def _longrope_attention(factor: float, original: int) -> float:
    """Return LongRoPE's factor of attention for a context `factor` times as long as the `original` one, in tokens."""
    return 1.0 if factor <= 1 or original <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
