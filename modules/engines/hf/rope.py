"""Rotary position embeddings (RoPE), and the three options that stretch a model's context.

A model rotates each pair of a head's elements by position × base^(-2i/d). `rope_freq_base` replaces the base;
`alpha_value` multiplies it by alpha^(d/(d-2)), so that the slowest pair rotates alpha times slower and the fastest as
before ("NTK-aware scaling", bloc97, 2023); `compress_pos_emb` divides the positions (kaiokendev, 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.formats.rope_parameters import ALL_LAYERS, DEFAULT_BASE, linear_factor, rope_parameters

NO_ROPE_MODEL_TYPES = frozenset(
    {"gpt2", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "opt", "bloom", "mpt", "xglm", "biogpt", "ctrl", "openai-gpt"}
    | {"t5", "mt5", "umt5", "longt5", "bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "led"}
    | {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlnet", "transfo-xl", "bert", "roberta", "fsmt", "prophetnet"}
)
"""Model types whose positions are learned, absent, or computed in a way that has no parameters in Transformers."""


@dataclass(frozen=True)
class RopeScaling:
    """The changes that the three options make.

    `parameters` is the `rope_parameters` argument of Transformers 5, None to keep the model's own. `context_factor` is
    by how much the context grows. `replaces` names the model's own kind of scaling if linear scaling replaces it.
    """

    parameters: dict[str, Any] | None = None
    context_factor: float = 1.0
    replaces: str = ""


def scaled_rope(config: Mapping[str, Any], base: float, alpha: float, compression: float) -> RopeScaling:
    """Apply the options to the model's own RoPE; `base` 0, `alpha` 1 and `compression` 1 leave it as it is."""
    own = rope_parameters(config) or {ALL_LAYERS: {"rope_type": "default", "rope_theta": DEFAULT_BASE}}
    changed = {name: _changed(rope, config, base, alpha, compression) for name, rope in own.items()}
    if changed == own:
        return RopeScaling()
    kinds = {rope["rope_type"] for rope in own.values()}
    replaces = next(iter(kinds - {"default", "linear"}), "") if compression > 1 else ""
    parameters = changed.get(ALL_LAYERS, changed)
    own_factor = max(map(linear_factor, own.values()))
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
    if compression > 1 and compression != linear_factor(own):
        kept: dict[str, Any] = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        rope = {"rope_type": "linear", "factor": compression, **kept}
    return rope


def _head_size(config: Mapping[str, Any]) -> float:
    size = config.get("head_dim") or config.get("qk_rope_head_dim")
    return float(size or config.get("hidden_size", 4096) / (config.get("num_attention_heads") or 32))
