"""Corrections of faults in ExLlamaV2 0.3.2.

LoRA: in an EXL2 model the rows of `down_proj` stay in the order in which they are packed, and `gate_proj` and `up_proj`
write their columns in that order (load() in its mlp.py and linear.py); what a LoRA adds to them comes in the model's
order. Noticed by logits that were off by 25 (no issue about it at https://github.com/turboderp-org/exllamav2).
tests/engines/exllamav2/test_standin.py fails once this is corrected there.

Attention without flash-attention and xformers (`_attn_torch` of its attn.py): with SDPA, `if layer_idx in
block_diag_layers or causal` uses a mask that is None for text, so a token of a prompt attends to later ones. Without
SDPA, the product of queries and keys is kept in 16 bits before it is scaled and overflows in some models, such as
Qwen2; and all tokens of a chunk share the last one's sliding window, so that the first ones have nothing to attend to.
tests/engines/exllamav2_hf/test_build.py and tests/engines/exllamav2/test_patches.py fail once this is corrected
there.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

_MASKED = torch.finfo(torch.float16).min


def patch_attention(fused: bool) -> None:
    """Make ExLlamaV2's own attention causal and correct within sliding windows, for the rest of the process.

    `fused` computes it with SDPA, which takes less memory.
    """
    layer: Any = importlib.import_module("exllamav2.attn").ExLlamaV2Attention
    original = layer._attn_torch

    def attend(
        self: Any, rows: int, length: int, q: Tensor, k: Tensor, v: Tensor, params: Any, cfg: Any, causal: bool = True
    ) -> Tensor:
        """Return the attention of the last `length` tokens, shape [rows, length, heads * head size].

        `q` has shape [rows, length, heads, head size], `k` and `v` [rows, all tokens so far, kv heads, head size].
        """
        if not causal or self.layer_idx in params.block_diag_layers:  # images
            attended: Tensor = original(self, rows, length, q, k, v, params, cfg, causal)
            return attended
        mask = params.get_attn_mask(q.device)
        if self.sliding_window:
            mask, k, v = _apply_window(mask, length, k, v, self.sliding_window)
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        k, v = (self.repeat_kv(tensor, self.num_key_value_groups) for tensor in (k, v))
        softcap = float(cfg.attn_logit_softcapping or 0)
        out = (
            functional.scaled_dot_product_attention(q, k, v, mask, scale=self.scaling)
            if fused and not softcap
            else _unfused_attention(q * self.scaling, k, v, mask, softcap)
        )
        return out.transpose(1, 2).reshape(rows, length, -1)

    layer._attn_torch = attend


def _apply_window(
    mask: Tensor | None, length: int, k: Tensor, v: Tensor, window: int
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Drop the keys and values that none of the last `length` tokens may attend to, and mask those that some may not.

    A token attends to `window` tokens, itself the last. Keys and values have shape [rows, tokens, kv heads, head size].
    """
    dropped = max(k.shape[1] - length - window + 1, 0)
    k, v, mask = k[:, dropped:], v[:, dropped:], None if mask is None else mask[..., dropped:]
    if length == 1 or k.shape[1] <= window:
        return mask, k, v
    outside = torch.full((length, k.shape[1]), _MASKED, dtype=k.dtype, device=k.device)
    outside = outside.tril(k.shape[1] - length - window)
    return outside if mask is None else torch.minimum(mask, outside), k, v


def _unfused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, softcap: float) -> Tensor:
    """Compute attention step by step. `q` is scaled already; shapes are [rows, heads, tokens, head size]."""
    scores = q @ k.transpose(-1, -2)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v


def permute_lora(model: Any, lora: Any) -> None:
    """Reorder in place what `lora` adds to the MLPs of an EXL2 model; other models need no change."""
    orders: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name, module in model.modules_dict.items():
            mlp, _, part = name.rpartition(".")
            key = f"{mlp}.down_proj.q_invperm"
            halves = module.lora_a_tensors if part == "down_proj" else getattr(module, "lora_b_tensors", {})
            if not mlp.endswith(".mlp") or key not in model.config.tensor_file_map or lora not in halves:
                continue
            if key not in orders:
                orders[key] = _read_order(model.config.tensor_file_map[key], key)
            half, order = halves[lora], orders[key].to(halves[lora].device)
            half.copy_(half[order] if part == "down_proj" else half[:, order])


def _read_order(file: str, name: str) -> Tensor:
    """Return the packed order of an MLP's inner columns, shape [intermediate size]."""
    with safe_open(file, "pt") as tensors:
        return torch.argsort(tensors.get_tensor(name))
