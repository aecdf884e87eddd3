"""Rotary position embeddings (RoPE), and the three options that stretch a model's context.

A model rotates each pair of a head's elements by position × base^(-2i/d). `rope_freq_base` replaces the base;
`alpha_value` multiplies it by alpha^(d/(d-2)), so that the slowest pair rotates alpha times slower and the fastest as
before ("NTK-aware scaling", bloc97, 2023); `compress_pos_emb` divides the positions (kaiokendev, 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_BASE = 10000.0

NO_ROPE_MODEL_TYPES = frozenset(
    {"gpt2", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "opt", "bloom", "mpt", "xglm", "biogpt", "ctrl", "openai-gpt"}
    | {"t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "led"}
    | {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlnet", "transfo-xl", "bert", "roberta", "fsmt", "prophetnet"}
)
"""Model types whose positions are learned, absent, or computed in a way that has no parameters in Transformers."""


@dataclass(frozen=True)
class RopeScaling:
    """What the three options change.

    `parameters` is the `rope_parameters` argument of Transformers 5, None to keep the model's own. `context_factor` is
    by how much the context grows. `replaces` names the model's own kind of scaling if linear scaling replaces it.
    """

    parameters: dict[str, Any] | None = None
    context_factor: float = 1.0
    replaces: str = ""


def scaled_rope(config: Mapping[str, Any], base: float, alpha: float, compression: float) -> RopeScaling:
    """Apply the options to the model's own RoPE; `base` 0, `alpha` 1 and `compression` 1 leave it as it is."""
    own = _own_parameters(config)
    by_layer_type = own if _is_by_layer_type(own) else {"": own}
    changed = {name: _changed(rope, config, base, alpha, compression) for name, rope in by_layer_type.items()}
    if changed == by_layer_type:
        return RopeScaling()
    kinds = {rope["rope_type"] for rope in by_layer_type.values()}
    replaces = next(iter(kinds - {"default", "linear"}), "") if compression > 1 else ""
    parameters = changed if _is_by_layer_type(own) else changed[""]
    own_factor = _linear_factor(next(iter(by_layer_type.values())))
    return RopeScaling(parameters, context_factor(alpha, compression, own_factor), replaces)


def context_factor(alpha: float, compression: float, own_factor: float) -> float:
    """Return by how much the options lengthen a context that linear scaling by `own_factor` has stretched already.

    The original web UI's help says: alpha 1.75 for 1.5 times the context, 2.5 for twice. With 1 for 1 they lie on a
    line.
    """
    return (1 + (alpha - 1) * 2 / 3) * max(compression / own_factor, 1)


def _changed(
    own: Mapping[str, Any], config: Mapping[str, Any], base: float, alpha: float, compression: float
) -> dict[str, Any]:
    rope = dict(own)
    if base and base != own["rope_theta"]:
        rope["rope_theta"] = base
    if alpha > 1:
        rotated_share = own.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1
        dimensions = _head_size(config) * float(rotated_share)
        rope["rope_theta"] *= alpha ** (dimensions / (dimensions - 2))
    if compression > 1 and compression != _linear_factor(own):
        kept: dict[str, Any] = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        rope = {"rope_type": "linear", "factor": compression, **kept}
    return rope


def _linear_factor(rope: Mapping[str, Any]) -> float:
    return float(rope.get("factor") or 1) if rope["rope_type"] == "linear" else 1.0


def _head_size(config: Mapping[str, Any]) -> float:
    size = config.get("head_dim") or config.get("qk_rope_head_dim")
    return float(size or config.get("hidden_size", 4096) / (config.get("num_attention_heads") or 32))


def _is_by_layer_type(rope: Mapping[str, Any]) -> bool:
    """Whether each type of layer has parameters of its own."""
    return bool(rope) and all(isinstance(part, dict) for part in rope.values())


def _own_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own parameters, written by Transformers 5 or by an earlier version."""
    stored = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if _is_by_layer_type(stored):
        return {name: _completed(part, config) for name, part in stored.items()}
    return _completed(stored, config)


def _completed(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    base = float(rope.get("rope_theta") or config.get("rope_theta") or config.get("rotary_emb_base") or DEFAULT_BASE)
    return {**{key: value for key, value in rope.items() if key != "type"}, "rope_type": kind, "rope_theta": base}
