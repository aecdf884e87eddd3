"""Map module names of transformers to tensor names of llama.cpp, and say which tensors have their rows permuted.

Source: transformers' modeling files, and the tensor names in GGUF models of the same architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
_MLP = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
_SEPARATE = _ATTENTION | _MLP
_FUSED = {"qkv_proj": "attn_qkv", "o_proj": "attn_output", "gate_up_proj": "ffn_up", "down_proj": "ffn_down"}

ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "mistral3", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"), _SEPARATE),
    "phi3": _FUSED,
}
"""The GGUF name of each linear layer of a block, by general.architecture (that of Mistral is "llama")."""

HEADS: Mapping[str, str] = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
"""Layers whose rows belong to attention heads, and the GGUF key of the number of heads."""

_INTERLEAVED = ("llama", "mistral3", "smollm3")
_BLOCK = re.compile(r"(?:(?:model|language_model)\.)*layers\.([0-9]+)\.(?:self_attn|mlp)\.([a-z_]+)")
_OUTPUT = re.compile(r"(?:language_model\.)?lm_head")


def gguf_name(architecture: str, module: str) -> str | None:
    """Return the GGUF tensor that is the weight of a module such as "model.layers.0.self_attn.q_proj", or None."""
    layers = ARCHITECTURES.get(architecture, {})
    if layers and _OUTPUT.fullmatch(module):
        return "output.weight"
    match = _BLOCK.fullmatch(module)
    return f"blk.{match[1]}.{layers[match[2]]}.weight" if match and match[2] in layers else None


def has_interleaved_heads(architecture: str, tensor: str) -> bool:
    """Whether llama.cpp interleaves the rows of each head in that tensor.

    Two rows that RoPE rotates together are neighbors there, and half a head apart in transformers.
    """
    return architecture in _INTERLEAVED and tensor.split(".")[-2] in HEADS
