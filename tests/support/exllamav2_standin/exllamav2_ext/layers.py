"""Norms, rotary embeddings and the soft cap: cuda/rms_norm.cu, layer_norm.cu, head_norm.cu, rope.cu, softcap.cu."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 65504.0
"""The largest float16 number, to which float16 states are clamped before their norm."""


def rms_norm(x: Tensor, w: Tensor, y: Tensor, epsilon: float) -> None:
    y.copy_(rms_normed(x, w, epsilon))


def rms_normed(x: Tensor, w: Tensor, epsilon: float) -> Tensor:
    floats = x.float()
    if x.dtype == torch.half:
        floats = floats.clamp(-LARGEST, LARGEST)
    return floats * torch.rsqrt(floats.square().mean(-1, keepdim=True) + epsilon) * w.float()


def layer_norm(x: Tensor, w: Tensor, b: Tensor, y: Tensor, epsilon: float) -> None:
    y.copy_(layer_normed(x, w, None if b.is_meta else b, epsilon))


def layer_normed(x: Tensor, w: Tensor, b: Tensor | None, epsilon: float) -> Tensor:
    return torch.layer_norm(x.float(), w.shape, w.float(), None if b is None else b.float(), epsilon)


def head_norm(x: Tensor, w: Tensor, b: Tensor, y: Tensor, epsilon: float, rms: bool) -> None:
    """`w` is (heads, width) or (width): each head has its own norm."""
    normed = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], None, None, epsilon)
    if rms:
        y.copy_(rms_normed(x, w, epsilon))
    else:
        y.copy_(normed * w.float() + (0 if b.is_meta else b.float()))


def rope_(
    x: Tensor, sin: Tensor, cos: Tensor, past_len: int, num_heads: int, head_dim: int, offsets: Tensor, neox: bool
) -> None:
    """Rotate in place. `offsets` is added to `past_len` for each row of the batch, or replaces a `past_len` of -1."""
    heads = x.view(x.shape[0], -1, num_heads, head_dim)
    size = sin.shape[-1]
    positions = _positions(heads, past_len, offsets)
    s, c = (table.view(-1, size)[positions].float()[:, :, None] for table in (sin, cos))
    part = heads[..., :size]
    part.copy_(_rotate_halves(part, s, c) if neox else _rotate_pairs(part, s, c))


def _positions(heads: Tensor, past_len: int, offsets: Tensor) -> Tensor:
    """Return the position of each token, of the shape (batch, tokens)."""
    first = torch.full((heads.shape[0], 1), max(past_len, 0))
    if not offsets.is_meta:
        row_offsets = offsets.view(-1, 1).long()
        first = first + (row_offsets.clamp(min=0) if past_len == -1 else row_offsets)
    return (first + torch.arange(heads.shape[1])).clamp(min=0)


def _rotate_halves(part: Tensor, s: Tensor, c: Tensor) -> Tensor:
    middle = part.shape[-1] // 2
    left, right = part[..., :middle].float(), part[..., middle:].float()
    s, c = s[..., :middle], c[..., :middle]
    return torch.cat((left * c + (right * -s).half().float(), right * c + (left * s).half().float()), -1)


def _rotate_pairs(part: Tensor, s: Tensor, c: Tensor) -> Tensor:
    crossed = torch.stack((-part[..., 1::2], part[..., ::2]), -1).flatten(-2).float()
    return crossed * s + (part.float() * c).half().float()


def softcap_(x: Tensor, scale: float) -> None:
    x.copy_((x.float() / scale).tanh() * scale)
