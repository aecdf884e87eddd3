"""Functions for the conversion to EXL2: ext_quant.cpp, cuda/pack_tensor.cu, quantize.cu, cpp/quantize_func.cpp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layout import packed_nibbles, signed

# -- packing -----------------------------------------------------------------------------------------------------------


def pack_rows_4(levels: Tensor, output: Tensor) -> None:
    """Subtract 1 from the levels and pack eight neighbors of a row into a word, the first in the lowest bits."""
    output.copy_(packed_nibbles(levels.long() - 1 & 15))


def pack_columns(levels: Tensor, output: Tensor, bits: int) -> None:
    """Pack every column into a stream of bits that begins with the lowest bit of the first word."""
    assert len(output) == len(levels) * bits // 32, "Wrong output shape for input and bitrate"
    rows = 32 // math.gcd(32, bits)  # the fewest rows that end at the end of a word
    blocks = levels.long().view(-1, rows, levels.shape[1])
    words = torch.zeros((len(blocks), rows * bits // 32, levels.shape[1]), dtype=torch.long)
    for row in range(rows):
        word, shift = divmod(row * bits, 32)
        words[:, word] |= blocks[:, row] << shift & 0xFFFFFFFF
        if shift + bits > 32:
            words[:, word + 1] |= blocks[:, row] >> 32 - shift
    output.copy_(signed(words.flatten(0, 1)))


# -- rounding ----------------------------------------------------------------------------------------------------------


def quantize(source: Tensor, output: Tensor, scale: Tensor, out_q: Tensor, qzero: float, maxq: float) -> None:
    levels = _levels(source, scale, qzero, maxq)
    if not out_q.is_meta:
        out_q.copy_(levels)
    output.copy_(_values(levels, scale, qzero))


def quantize_range_inplace(
    weights: Tensor, scale: Tensor, out_q: Tensor, qzero: float, maxq: float, a: int, b: int
) -> None:
    """Round rows `a` to `b` to the nearest levels."""
    quantize(weights[a:b], weights[a:b], scale, out_q if out_q.is_meta else out_q[a:b], qzero, maxq)


def quantize_range(
    quant: Tensor,
    scale: Tensor,
    out_q: Tensor,
    qzero: float,
    maxq: float,
    hessian_inv: Tensor,
    weights: Tensor,
    error: Tensor,
    a: int,
    b: int,
) -> None:
    """Quantize rows `a` to `b` one by one, and spread the error of each over the following rows, as GPTQ does."""
    for row in range(a, b):
        levels = _levels(weights[row], scale, qzero, maxq)
        if not out_q.is_meta:
            out_q[row] = levels
        quant[row] = _values(levels, scale, qzero)
        error[row] = (weights[row] - quant[row]) / hessian_inv[row, row]
        weights[row:b] -= hessian_inv[row, row:b, None] * error[row]
    weights[b:].addmm_(hessian_inv[a:b, b:].T, error[a:b], alpha=-1)


def quantize_err(
    source: Tensor,
    output: Tensor,
    scale: Tensor,
    qzero: float,
    maxq: float,
    err_norm: float,
    min_p: float,
    max_p: float,
    p_grid: int,
) -> None:
    """Write the error for every factor of the scales from `min_p` to `max_p`, all of it into the first column."""
    for step in range(p_grid + 1):
        fraction = step / p_grid
        scaled = scale * (max_p * fraction + min_p * (1 - fraction))
        values = (_levels(source, scaled, qzero, maxq) - qzero) * scaled
        output[step, 0] = (values - source).abs().pow(err_norm).sum()


def _levels(values: Tensor, scale: Tensor, qzero: float, maxq: float) -> Tensor:
    return ((values / scale).round() + qzero).clamp(0, maxq)


def _values(levels: Tensor, scale: Tensor, qzero: float) -> Tensor:
    return ((levels - qzero).half() * scale.half()).float()
