"""Read the parameters of rotary position embeddings (RoPE) from config.json, in any version of Transformers.

Before version 5 `rope_theta`, `rope_scaling` and `partial_rotary_factor` are keys of their own; version 5 writes one
object `rope_parameters`, which may hold one object for each type of layer ("full_attention", "sliding_attention").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

DEFAULT_BASE = 10000.0
ALL_LAYERS = ""
"""The type of layer under which parameters that all layers share are returned."""
_BASE_KEYS = ("rope_theta", "rotary_emb_base")
_SHARE_KEYS = ("partial_rotary_factor", "rotary_pct")
_OLD_NAMES = {"su": "longrope", "mrope": "default"}

Parameters = dict[str, Any]


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Parameters]:
    """Return the parameters by type of layer; empty if `config` has none.

    Each has "rope_type" and "rope_theta", completed by the keys of earlier versions as Transformers 5 does. `config`
    describes a language model: of a multimodal one it is the `text_config`.
    """
    stored = _stored(config)
    if not stored and not any(_is_number(config.get(key)) for key in _BASE_KEYS):
        return {}
    by_layer_type = {name: part for name, part in stored.items() if isinstance(part, dict)}
    if not by_layer_type:
        return {ALL_LAYERS: _completed(stored, config)}
    shared = {name: value for name, value in stored.items() if name not in by_layer_type and value is not None}
    return {name: _completed({**shared, **part}, config) for name, part in by_layer_type.items()}


def _stored(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object with the parameters. Transformers 5 prefers the earlier key if there are both."""
    objects = (config.get(key) for key in ("rope_scaling", "rope_parameters"))
    return next((value for value in objects if isinstance(value, dict) and value), {})


def _completed(rope: Mapping[str, Any], config: Mapping[str, Any]) -> Parameters:
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    other = config.get("rope_parameters")
    sources = (rope, config, other if isinstance(other, dict) else {})
    bases = (source.get(key) for source in sources for key in _BASE_KEYS)
    shares = (source.get(key) for source in sources[:2] for key in _SHARE_KEYS)
    completed = {key: value for key, value in rope.items() if key != "type"}
    completed["rope_type"] = _OLD_NAMES.get(kind, kind)
    completed["rope_theta"] = next((float(base) for base in bases if _is_number(base)), DEFAULT_BASE)
    if share := next((share for share in shares if _is_number(share)), None):
        completed["partial_rotary_factor"] = share
    return completed


def linear_factor(rope: Mapping[str, Any]) -> float:
    """Return the factor of linear scaling; 1 if `rope` is not scaled so."""
    factor = rope.get("factor")
    return float(factor) if rope.get("rope_type") == "linear" and _is_number(factor) else 1.0


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is a number that a parameter can have: positive, and no Boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e30
