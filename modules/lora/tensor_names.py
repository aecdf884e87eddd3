"""What llama.cpp calls the modules of transformers' models, and which it keeps in another order of rows.

Source: transformers' modeling files, and the names of tensors in llama.cpp's models of the same architectures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
_NETWORK = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
_APART = _ATTENTION | _NETWORK
_FUSED = {"qkv_proj": "attn_qkv", "o_proj": "attn_output", "gate_up_proj": "ffn_up", "down_proj": "ffn_down"}

ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "mistral3", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"), _APART),
    "phi3": _FUSED,
}
"""By a GGUF's general.architecture (Mistral's is "llama"): its name for each linear layer of a block."""

HEADS: Mapping[str, str] = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
"""The layers whose rows belong to heads, and the key of a GGUF that has their number."""

_REORDERED = ("llama", "mistral3", "smollm3")
_BLOCK = re.compile(r"(?:(?:model|language_model)\.)*layers\.([0-9]+)\.(?:self_attn|mlp)\.([a-z_]+)")
_OUTPUT = re.compile(r"(?:language_model\.)?lm_head")


def gguf_name(architecture: str, module: str) -> str | None:
    """The tensor that is the weight of `module`, such as "model.layers.0.self_attn.q_proj"; None if there is none."""
    layers = ARCHITECTURES.get(architecture, {})
    if layers and _OUTPUT.fullmatch(module):
        return "output.weight"
    match = _BLOCK.fullmatch(module)
    return f"blk.{match[1]}.{layers[match[2]]}.weight" if match and match[2] in layers else None


def reordered(architecture: str, tensor: str) -> bool:
    """Whether that tensor has the rows of each head interleaved: what rotates together lies side by side in it, and
    half a head apart in transformers."""
    return architecture in _REORDERED and tensor.split(".")[-2] in HEADS
