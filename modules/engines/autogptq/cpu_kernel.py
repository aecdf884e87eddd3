"""On a CPU, PyTorch's own kernel for weights of 4 bits in the place of auto-gptq's way, which unpacks each anew.

auto-gptq's kernels are for CUDA; without them it makes a layer's floats out of its words for every token: a layer of
2048 x 5632 takes 225 ms so, and 7 ms by this kernel in bfloat16 (measured on two busy cores; with float32 it is no
faster). Only what the kernel reads is in bfloat16. Its weights take as much memory as they did: half a byte each. Those
of 8 bits are two of 4, whose results add up. What the kernel cannot take stays as it is: 2 or 3 bits, groups whose
inputs are not all of one size, odd shapes, layers that accelerate moves about.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.engines.autogptq.arguments import KERNEL_BITS, KERNEL_GROUPS

_ROWS = 16  # of the weight at once
_DTYPE = torch.bfloat16  # PyTorch has the fast kernel for no other


class PackedLinear(torch.nn.Module):
    """`qweight` holds one or two sets of weights, which add up; `order` brings the inputs of a group together; None if
    they are."""

    qweight: Tensor
    scales_and_zeros: Tensor
    order: Tensor | None
    bias: Tensor | None

    def __init__(self, packed: Tensor, scales_and_zeros: Tensor, group: int) -> None:
        super().__init__()
        self.register_buffer("qweight", packed)  # by the name under which PEFT looks for weights
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.register_buffer("order", None)
        self.register_buffer("bias", None)
        self.group = group
        self.outfeatures, self.infeatures = packed.shape[1], 2 * packed.shape[2]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.infeatures).to(_DTYPE)
        if self.order is not None:
            rows = rows[:, self.order]
        parts = [
            torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, self.group, scales)
            for packed, scales in zip(self.qweight, self.scales_and_zeros, strict=True)
        ]
        out: Tensor = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        out = out.reshape(*x.shape[:-1], self.outfeatures).to(x.dtype)
        return out if self.bias is None else out + self.bias


def quicken(module: Any) -> None:
    """Replace every layer of auto-gptq's that the kernel can take."""
    for name in [name for name, each in module.named_modules() if hasattr(each, "qweight")]:
        if (made := _packed(module.get_submodule(name))) is not None:
            module.set_submodule(name, made)  # what was there is let go of before the next one is unpacked


def _packed(layer: Any) -> PackedLinear | None:
    group = next((each for each in KERNEL_GROUPS if layer.group_size % each == 0), 0)
    here = layer.qweight.device.type == "cpu" and not hasattr(layer, "_hf_hook")
    fits = layer.outfeatures % _ROWS == 0 and layer.infeatures % layer.group_size == 0
    if not (here and fits and group and layer.bits in KERNEL_BITS):
        return None
    order = _order(layer)
    if order is None:
        return None
    levels = _unpacked(layer.qweight.T, layer.bits).index_select(1, order)  # (outputs, inputs)
    zeros = _unpacked(layer.qzeros, layer.bits) + 1
    if layer.QUANT_TYPE == "cuda-old":
        zeros &= 2**layer.bits - 1
    # The kernel takes 8 off each: (high - 8) * 16 + (low - 8) + 136 is what 8 bits say.
    parts = [(levels, 1, 8 - zeros)] if layer.bits == 4 else [(levels >> 4, 16, 128 - zeros), (levels & 15, 1, 8)]
    packed = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(each, 1) for each, _, _ in parts]
    scales = layer.scales.float()
    both = torch.stack([torch.stack([scales * by, scales * zero], -1) for _, by, zero in parts]).to(_DTYPE)
    both = both.repeat_interleave(layer.group_size // group, 1).contiguous()  # (parts, groups, outputs, 2)
    made = PackedLinear(torch.stack(packed), both, group)
    if not torch.equal(order, torch.arange(len(order))):
        made.order = order
    made.bias = layer.bias
    return made


def _order(layer: Any) -> Tensor | None:
    """The inputs, group by group; None if groups differ in size. Of queries, keys and values fused there are three
    lists, which are one where all read the same."""
    if layer.QUANT_TYPE == "cuda-old":  # takes no notice of g_idx
        return torch.arange(layer.infeatures)
    lists = layer.g_idx.view(-1, layer.infeatures)
    counts = torch.bincount(lists[0], minlength=len(layer.scales))
    if not (lists == lists[0]).all() or not (counts == layer.group_size).all():
        return None
    order: Tensor = lists[0].argsort(stable=True)
    return order


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """(rows, 32 / bits * n) out of (rows, n)"""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    parts: Tensor = words[..., None] >> shifts & 2**bits - 1
    return parts.reshape(len(words), -1)
