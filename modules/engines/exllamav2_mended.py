"""What ExLlamaV2 0.3.2 does wrong with LoRAs, put right.

On an EXL2 model it keeps the rows of `down_proj` in the order that they are packed in, and has `gate_proj` and
`up_proj` write their columns in that order (load() in its mlp.py and linear.py); what a LoRA adds there still comes in
the model's own order. Seen by its effects: logits were off by 25 (no issue of it is known at
https://github.com/turboderp-org/exllamav2). tests/test_exllamav2_standin.py tells when that is no longer so.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


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
