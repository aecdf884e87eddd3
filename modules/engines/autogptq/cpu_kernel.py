"""GPTQ layers computed on a CPU by PyTorch's own kernel for 4-bit weights.

auto-gptq's kernels are for CUDA. Without them it dequantizes a layer for every token: one of 2048 x 5632 takes 225 ms
that way, and 7 ms with this kernel in bfloat16 (measured on two busy cores; in float32 it is no faster). Only the
kernel's inputs are bfloat16. Packed weights take as much memory as before, half a byte each. An 8-bit weight becomes
two of 4 bits, whose products are added. Layers that the kernel cannot compute stay as they are: those of 2 or 3 bits,
with groups of different sizes, of odd shapes, or moved about by accelerate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.engines.autogptq.arguments import KERNEL_BITS
from modules.engines.legacy.int4_kernel import GROUP_SIZES, MIDDLE_LEVEL, OUTPUT_MULTIPLE

_DTYPE = torch.bfloat16  # the only dtype for which PyTorch has the fast kernel


class PackedLinear(torch.nn.Module):
    """A linear layer of one or two int4 weights, whose products are added.

    `qweight` holds them packed, [weights, outputs, inputs / 2]; `scales_and_zeros` is [weights, groups, outputs, 2].
    `order` [inputs] sorts the inputs by group, None if they are sorted.
    """

    qweight: Tensor
    scales_and_zeros: Tensor
    order: Tensor | None
    bias: Tensor | None

    def __init__(self, packed: Tensor, scales_and_zeros: Tensor, group_size: int) -> None:
        super().__init__()
        self.register_buffer("qweight", packed)  # the name by which PEFT finds a layer's weights
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.register_buffer("order", None)
        self.register_buffer("bias", None)
        self.group_size = group_size
        self.outfeatures, self.infeatures = packed.shape[1], 2 * packed.shape[2]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.infeatures).to(_DTYPE)
        if self.order is not None:
            rows = rows[:, self.order]
        products = [
            torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, self.group_size, scales)
            for packed, scales in zip(self.qweight, self.scales_and_zeros, strict=True)
        ]
        out: Tensor = products[0] if len(products) == 1 else products[0] + products[1]
        out = out.reshape(*x.shape[:-1], self.outfeatures).to(x.dtype)
        return out if self.bias is None else out + self.bias


def repack_model(module: Any) -> None:
    """Replace every auto-gptq layer that the kernel can compute by a PackedLinear."""
    for name in [name for name, layer in module.named_modules() if hasattr(layer, "qweight")]:
        if (packed := _repack(module.get_submodule(name))) is not None:
            module.set_submodule(name, packed)  # one by one, so that only one layer is unpacked at a time


def _repack(layer: Any) -> PackedLinear | None:
    """Return the layer for PyTorch's kernel, or None if the kernel cannot compute it."""
    group_size = next((size for size in GROUP_SIZES if layer.group_size % size == 0), 0)
    on_cpu = layer.qweight.device.type == "cpu" and not hasattr(layer, "_hf_hook")
    fits = layer.outfeatures % OUTPUT_MULTIPLE == 0 and layer.infeatures % layer.group_size == 0
    if not (on_cpu and fits and group_size and layer.bits in KERNEL_BITS):
        return None
    order = _input_order(layer)
    if order is None:
        return None
    levels = _unpack(layer.qweight.T, layer.bits).index_select(1, order)  # [outputs, inputs]
    zeros = _unpack(layer.qzeros, layer.bits) + 1
    if layer.QUANT_TYPE == "cuda-old":
        zeros &= 2**layer.bits - 1
    # (int4 levels, their factor, their zero); the kernel subtracts 8 from each: an 8-bit level is
    # (high - 8) * 16 + (low - 8) + 136.
    parts: list[tuple[Tensor, int, Any]] = [(levels, 1, MIDDLE_LEVEL - zeros)]
    if layer.bits == 8:
        parts = [(levels >> 4, 16, 16 * MIDDLE_LEVEL - zeros), (levels & 15, 1, MIDDLE_LEVEL)]
    packed = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(int4, 1) for int4, _, _ in parts]
    scales = layer.scales.float()
    pairs = torch.stack([torch.stack([scales * factor, scales * zero], -1) for _, factor, zero in parts]).to(_DTYPE)
    pairs = pairs.repeat_interleave(layer.group_size // group_size, 1).contiguous()  # [weights, groups, outputs, 2]
    linear = PackedLinear(torch.stack(packed), pairs, group_size)
    if not torch.equal(order, torch.arange(len(order))):
        linear.order = order
    linear.bias = layer.bias
    return linear


def _input_order(layer: Any) -> Tensor | None:
    """Return the inputs sorted by group, shape [inputs]; None if groups differ in size.

    Fused queries, keys and values have three lists of groups; None unless they are equal.
    """
    if layer.QUANT_TYPE == "cuda-old":  # ignores g_idx
        return torch.arange(layer.infeatures)
    lists = layer.g_idx.view(-1, layer.infeatures)
    counts = torch.bincount(lists[0], minlength=len(layer.scales))
    if not (lists == lists[0]).all() or not (counts == layer.group_size).all():
        return None
    order: Tensor = lists[0].argsort(stable=True)
    return order


def _unpack(words: Tensor, bits: int) -> Tensor:
    """Unpack int32 words [rows, n] to levels [rows, n * 32 / bits], the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    levels: Tensor = words[..., None] >> shifts & 2**bits - 1
    return levels.reshape(len(words), -1)
