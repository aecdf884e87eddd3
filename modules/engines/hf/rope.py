"""How positions enter the attention (RoPE), and what the three options for longer contexts make of a model's own way.

A model turns each pair of a head's elements by position × base^(-2i/d). `rope_freq_base` replaces the base;
`alpha_value` stretches it to base × alpha^(d/(d-2)), so that the slowest pair turns alpha times slower and the fastest
as before ("NTK-aware scaling", bloc97, 2023); `compress_pos_emb` divides the positions (kaiokendev, 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

USUAL_BASE = 10000.0

ROPELESS = frozenset(
    {"gpt2", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "opt", "bloom", "mpt", "xglm", "biogpt", "ctrl", "openai-gpt"}
    | {
        "t5",
        "mt5",
        "umt5",
        "longt5",
        "bart",
        "mbart",
        "pegasus",
        "marian",
        "m2m_100",
        "blenderbot",
        "led",
        "prophetnet",
    }
    | {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlnet", "transfo-xl", "bert", "roberta", "fsmt"}
)
"""Model types whose positions are learned, left out or computed in a way that transformers gives no parameters for."""


@dataclass(frozen=True)
class Rope:
    """What transformers 5 is given as `rope_parameters`, None for the model's own; `stretch` is by how much the context
    grows. `replaces` names the model's own kind of scaling if that is given up for the linear one."""

    parameters: dict[str, Any] | None = None
    stretch: float = 1.0
    replaces: str = ""


def stretched(config: Mapping[str, Any], base: float, alpha: float, compression: float) -> Rope:
    """`base` 0, `alpha` 1 and `compression` 1 mean the model's own."""
    own = _own(config)
    each = own if _by_layer(own) else {"": own}
    changed = {name: _changed(part, config, base, alpha, compression) for name, part in each.items()}
    if changed == each:
        return Rope()
    kinds = {part["rope_type"] for part in each.values()}
    replaces = next(iter(kinds - {"default", "linear"}), "") if compression > 1 else ""
    parameters = changed if _by_layer(own) else changed[""]
    return Rope(parameters, _longer(alpha) * max(compression / _factor(next(iter(each.values()))), 1), replaces)


def _changed(
    own: Mapping[str, Any], config: Mapping[str, Any], base: float, alpha: float, compression: float
) -> dict[str, Any]:
    made = dict(own)
    if base and base != own["rope_theta"]:
        made["rope_theta"] = base
    if alpha > 1:
        turned = _head_size(config) * float(
            own.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1
        )
        made["rope_theta"] *= alpha ** (turned / (turned - 2))
    if compression > 1 and compression != _factor(own):
        kept: dict[str, Any] = {key: made[key] for key in ("rope_theta", "partial_rotary_factor") if key in made}
        made = {"rope_type": "linear", "factor": compression, **kept}
    return made


def _longer(alpha: float) -> float:
    """The original's help: 1.75 is for 1.5 times the context, 2.5 for twice; 1 for 1. They lie on a line."""
    return 1 + (alpha - 1) * 2 / 3


def _factor(rope: Mapping[str, Any]) -> float:
    return float(rope.get("factor") or 1) if rope["rope_type"] == "linear" else 1.0


def _head_size(config: Mapping[str, Any]) -> float:
    size = config.get("head_dim") or config.get("qk_rope_head_dim")
    return float(size or config.get("hidden_size", 4096) / (config.get("num_attention_heads") or 32))


def _by_layer(rope: Mapping[str, Any]) -> bool:
    """Whether kinds of layers have parameters of their own."""
    return bool(rope) and all(isinstance(part, dict) for part in rope.values())


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own parameters, as version 5 writes them or as those before did."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if _by_layer(found):
        return {name: _complete(part, config) for name, part in found.items()}
    return _complete(found, config)


def _complete(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    base = float(rope.get("rope_theta") or config.get("rope_theta") or config.get("rotary_emb_base") or USUAL_BASE)
    return {**{key: value for key, value in rope.items() if key != "type"}, "rope_type": kind, "rope_theta": base}
