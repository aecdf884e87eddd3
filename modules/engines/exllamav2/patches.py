"""What ExLlamaV2 0.3.2 does wrong, put right.

LoRAs: on an EXL2 model it keeps the rows of `down_proj` in the order that they are packed in, and has `gate_proj` and
`up_proj` write their columns in that order (load() in its mlp.py and linear.py); what a LoRA adds there still comes in
the model's own order. Seen by its effects: logits were off by 25 (no issue of it is known at
https://github.com/turboderp-org/exllamav2). tests/engines/exllamav2/test_standin.py tells when that is no longer so.

Attention without flash-attention and xformers (`_attn_torch` of its attn.py): with SDPA, `if layer_idx in
block_diag_layers or causal` takes a mask that is None for text, so each token of a prompt looks at those after it.
Without SDPA, what queries and keys make is kept in 16 bits before it is scaled, and exceeds them in some models, such
as Qwen2; and all tokens of a piece share the last one's sliding window, so that the first ones have nothing left to
look at. tests/engines/exllamav2_hf/test_exllamav2_hf.py and tests/engines/exllamav2/test_patches.py tell when that has
ended."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

_NEVER = torch.finfo(torch.float16).min


def look_back(fused: bool) -> None:
    """Have each token of a text look at those before it, within the layer's window; `fused` is by SDPA, which takes
    less memory. It changes ExLlamaV2 for good."""
    layer: Any = importlib.import_module("exllamav2.attn").ExLlamaV2Attention
    of_images = layer._attn_torch

    def attend(
        self: Any, rows: int, length: int, q: Tensor, k: Tensor, v: Tensor, params: Any, cfg: Any, causal: bool = True
    ) -> Tensor:
        """Tensors of shape (rows, tokens, heads, size of a head), the keys and values of all tokens so far."""
        if not causal or self.layer_idx in params.block_diag_layers:
            looked_at: Tensor = of_images(self, rows, length, q, k, v, params, cfg, causal)
            return looked_at
        mask = params.get_attn_mask(q.device)
        if self.sliding_window:
            mask, k, v = _in_window(mask, length, k, v, self.sliding_window)
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        k, v = (self.repeat_kv(each, self.num_key_value_groups) for each in (k, v))
        softcap = float(cfg.attn_logit_softcapping or 0)
        seen = (
            functional.scaled_dot_product_attention(q, k, v, mask, scale=self.scaling)
            if fused and not softcap
            else _step_by_step(q * self.scaling, k, v, mask, softcap)
        )
        return seen.transpose(1, 2).reshape(rows, length, -1)

    layer._attn_torch = attend


def _in_window(
    mask: Tensor | None, length: int, k: Tensor, v: Tensor, window: int
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Without the keys that none of the last `length` tokens may look at, and with a mask of those that some may not:
    a token looks at `window` of them, itself the last."""
    unseen = max(k.shape[1] - length - window + 1, 0)
    k, v, mask = k[:, unseen:], v[:, unseen:], None if mask is None else mask[..., unseen:]
    if length == 1 or k.shape[1] <= window:
        return mask, k, v
    far = torch.full((length, k.shape[1]), _NEVER, dtype=k.dtype, device=k.device).tril(k.shape[1] - length - window)
    return far if mask is None else torch.minimum(mask, far), k, v


def _step_by_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, softcap: float) -> Tensor:
    """Of queries that have been scaled."""
    scores = q @ k.transpose(-1, -2)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v


def in_the_layers_order(model: Any, lora: Any) -> None:
    """Reorder in place what `lora` has for the networks of an EXL2 model; of other models nothing is packed so."""
    orders: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name, module in model.modules_dict.items():
            network, _, part = name.rpartition(".")
            down = f"{network}.down_proj.q_invperm"
            halves = module.lora_a_tensors if part == "down_proj" else getattr(module, "lora_b_tensors", {})
            if not network.endswith(".mlp") or down not in model.config.tensor_file_map or lora not in halves:
                continue
            if down not in orders:
                orders[down] = _order(model.config.tensor_file_map[down], down)
            half, order = halves[lora], orders[down].to(halves[lora].device)
            half.copy_(half[order] if part == "down_proj" else half[:, order])


def _order(file: str, name: str) -> Tensor:
    with safe_open(file, "pt") as tensors:
        return torch.argsort(tensors.get_tensor(name))
