"""AWQ's layers computed on a CPU by PyTorch's own kernel for weights of 4 bits.

autoawq has no kernel for a CPU but that of a package which is no longer made (intel_extension_for_pytorch); without it,
every layer is unpacked in float16 for every token. Here the weights are put once in the order that PyTorch's kernel
reads, in no more memory, and `Kernels` stands where autoawq looks for its own, awq_ext. Only what the kernel reads is
in bfloat16; all else stays in float16, as the model was made for: with it, too, in bfloat16 the answers were four times
as far from those of floats, and no faster.

A weight is (level - zero) * scale; PyTorch's kernel has (level - 8) * scale + offset.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.engines.autoawq.package import WQLinear_GEMM, reverse_awq_order, unpack_awq
from modules.engines.hf.model import compute_logits_in_float32

DTYPE = torch.bfloat16  # PyTorch has the fast kernel for no other
_GROUPS = (256, 128, 64, 32)  # that it takes
_OUTPUTS = 16  # of which it takes multiples
_MIDDLE = 8
_ROWS = 512  # that are unpacked at once


class Kernels:
    """What autoawq calls of awq_ext, for layers that `repack` has been at."""

    @staticmethod
    def gemm_forward_cuda(x: Tensor, qweight: Tensor, scales: Tensor, qzeros: Tensor, _parts: int) -> Tensor:
        """`x` times the weight: (tokens, inputs) to (tokens, outputs)."""
        if qweight.is_floating_point():
            return (x.to(DTYPE) @ qweight).to(x.dtype)
        group = x.shape[-1] // scales.shape[0]
        made: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(DTYPE), qweight, group, scales)
        return made[:, : qzeros.shape[1]].to(x.dtype)

    @classmethod
    def dequantize_weights_cuda(cls, qweight: Tensor, scales: Tensor, qzeros: Tensor, *_: object) -> Tensor:
        """The weight, (inputs, outputs), in the type that autoawq multiplies it in."""
        if qweight.is_floating_point():
            return qweight.half()
        inputs = qweight.shape[1] * 2
        rows = torch.split(torch.eye(inputs, dtype=DTYPE), _ROWS)
        return torch.cat([cls.gemm_forward_cuda(each, qweight, scales, qzeros, 0).half() for each in rows])


def repack(module: Any) -> None:
    """Make all of the model such that `Kernels` compute it; the output gives logits in float32."""
    for layer in module.modules():
        if isinstance(layer, WQLinear_GEMM):
            _repack_layer(layer)
    compute_logits_in_float32(module)


def _repack_layer(layer: Any) -> None:
    levels, zeros = reverse_awq_order(*unpack_awq(layer.qweight, layer.qzeros, 4), 4)
    levels, zeros, scales = levels & 15, zeros & 15, layer.scales.float()
    group = next((size for size in _GROUPS if layer.group_size % size == 0), 0)
    if not group:
        steps = levels - zeros.repeat_interleave(layer.group_size, dim=0)
        layer.qweight = (steps * scales.repeat_interleave(layer.group_size, dim=0)).to(DTYPE)
        return
    parts = layer.group_size // group
    offsets = (_MIDDLE - zeros) * scales
    pairs = torch.stack([scales, offsets], dim=-1).repeat_interleave(parts, dim=0)
    beyond = -layer.out_features % _OUTPUTS
    rows = torch.nn.functional.pad(levels.t().int(), (0, 0, 0, beyond)).contiguous()
    layer.qweight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(rows, 1)
    layer.scales = torch.nn.functional.pad(pairs, (0, 0, 0, beyond)).to(DTYPE).contiguous()
    layer.qzeros = layer.qzeros.new_empty((0, layer.out_features))  # how many outputs are not padding
