"""AWQ layers computed on a CPU by PyTorch's own kernel for 4-bit weights.

autoawq's only kernel for CPUs is that of a discontinued package (intel_extension_for_pytorch); without it, every layer
is dequantized to float16 for every token. Here the weights are repacked once in the layout of PyTorch's kernel, in no
more memory, and `Kernels` replaces autoawq's own kernels, awq_ext. Only the kernel's inputs are bfloat16; everything
else stays in float16, for which the model was made: with all of it in bfloat16, results were four times as far from
those in float32, and no faster.

AWQ's weight is (level - zero) * scale; that of PyTorch's kernel is (level - 8) * scale + offset.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.engines.autoawq.package import WQLinear_GEMM, reverse_awq_order, unpack_awq
from modules.engines.hf.model import compute_logits_in_float32
from modules.engines.legacy.int4_kernel import GROUP_SIZES, MIDDLE_LEVEL, OUTPUT_MULTIPLE

DTYPE = torch.bfloat16
"""The only dtype for which PyTorch has the fast kernel."""
_CHUNK_ROWS = 512  # dequantized at once


class Kernels:
    """The functions of awq_ext that autoawq calls, for layers after `repack_model`.

    There `qweight` is packed int4 for PyTorch's kernel, or a bfloat16 weight [inputs, outputs]; `scales` holds scales
    and offsets [groups, padded outputs, 2]; and `qzeros` is empty, [0, outputs].
    """

    @staticmethod
    def gemm_forward_cuda(x: Tensor, qweight: Tensor, scales: Tensor, qzeros: Tensor, _split_k: int) -> Tensor:
        """Return `x` [tokens, inputs] times the weight: [tokens, outputs], in the dtype of `x`."""
        if qweight.is_floating_point():
            return (x.to(DTYPE) @ qweight).to(x.dtype)
        group_size = x.shape[-1] // scales.shape[0]
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x.to(DTYPE), qweight, group_size, scales)
        return out[:, : qzeros.shape[1]].to(x.dtype)

    @classmethod
    def dequantize_weights_cuda(cls, qweight: Tensor, scales: Tensor, qzeros: Tensor, *_: object) -> Tensor:
        """Return the weight [inputs, outputs] in float16, in which autoawq multiplies long prompts."""
        if qweight.is_floating_point():
            return qweight.half()
        inputs = qweight.shape[1] * 2
        identity = torch.split(torch.eye(inputs, dtype=DTYPE), _CHUNK_ROWS)
        return torch.cat([cls.gemm_forward_cuda(rows, qweight, scales, qzeros, 0).half() for rows in identity])


def repack_model(module: Any) -> None:
    """Repack all quantized layers for `Kernels`, and have the output layer return float32 logits."""
    for layer in module.modules():
        if isinstance(layer, WQLinear_GEMM):
            _repack_layer(layer)
    compute_logits_in_float32(module)


def _repack_layer(layer: Any) -> None:
    """Replace the layer's buffers by those `Kernels` takes. Unsupported group sizes are dequantized to bfloat16."""
    levels, zeros = reverse_awq_order(*unpack_awq(layer.qweight, layer.qzeros, 4), 4)
    levels, zeros, scales = levels & 15, zeros & 15, layer.scales.float()
    group_size = next((size for size in GROUP_SIZES if layer.group_size % size == 0), 0)
    if not group_size:
        steps = levels - zeros.repeat_interleave(layer.group_size, dim=0)
        layer.qweight = (steps * scales.repeat_interleave(layer.group_size, dim=0)).to(DTYPE)
        return
    parts = layer.group_size // group_size
    offsets = (MIDDLE_LEVEL - zeros) * scales
    pairs = torch.stack([scales, offsets], dim=-1).repeat_interleave(parts, dim=0)  # [groups, outputs, 2]
    padding = -layer.out_features % OUTPUT_MULTIPLE
    rows = torch.nn.functional.pad(levels.t().int(), (0, 0, 0, padding)).contiguous()  # [padded outputs, inputs]
    layer.qweight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(rows, 1)
    layer.scales = torch.nn.functional.pad(pairs, (0, 0, 0, padding)).to(DTYPE).contiguous()
    layer.qzeros = layer.qzeros.new_empty((0, layer.out_features))  # the number of outputs without padding
