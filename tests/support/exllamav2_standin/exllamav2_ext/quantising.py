"""For the package's own conversion to EXL2: ext_quant.cpp, cuda/pack_tensor.cu, quantize.cu, cpp/quantize_func.cpp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layout import packed_nibbles, signed

# -- packing -----------------------------------------------------------------------------------------------------------


def pack_rows_4(levels: Tensor, output: Tensor) -> None:
    """Eight neighbours of a row, less one, in a word, the first in the lowest bits."""
    output.copy_(packed_nibbles(levels.long() - 1 & 15))


def pack_columns(levels: Tensor, output: Tensor, bits: int) -> None:
    """In every column one stream of bits from the lowest of the first word on."""
    assert len(output) == len(levels) * bits // 32, "Wrong output shape for input and bitrate"
    rows = 32 // math.gcd(32, bits)  # as many as end together with a word
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
    """Rows `a` to `b` to the nearest."""
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
    """Rows `a` to `b` one by one, each one's error spread over those that follow, as GPTQ does."""
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
    """Per factor of the scales, from `min_p` to `max_p`: the error. All of it in the first of the row's places."""
    for step in range(p_grid + 1):
        share = step / p_grid
        scaled = scale * (max_p * share + min_p * (1 - share))
        values = (_levels(source, scaled, qzero, maxq) - qzero) * scaled
        output[step, 0] = (values - source).abs().pow(err_norm).sum()


def _levels(values: Tensor, scale: Tensor, qzero: float, maxq: float) -> Tensor:
    return ((values / scale).round() + qzero).clamp(0, maxq)


def _values(levels: Tensor, scale: Tensor, qzero: float) -> Tensor:
    return ((levels - qzero).half() * scale.half()).float()
