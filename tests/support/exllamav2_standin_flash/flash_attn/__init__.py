"""A stand-in for flash-attn in torch, with the functions that exllamav2 0.3.2 needs for paged attention on a CPU.

It is not in the folder of the stand-in for exllamav2's extension, so that tests can run with and without it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__version__ = "2.8.3"


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """Compute attention. Tensors are (batch, length, heads, width); the last query belongs to the last key."""
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    queries, keys, values = (part.float().transpose(1, 2) for part in (q, k, v))
    groups = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = queries @ keys.transpose(-1, -2) * scale
    if softcap:
        scores = (scores / softcap).tanh() * softcap
    scores = scores.masked_fill(~_visible(q.shape[1], k.shape[1], causal, window_size), float("-inf"))
    return (scores.softmax(-1).nan_to_num() @ values).transpose(1, 2).to(q.dtype)


def _visible(queries: int, keys: int, causal: bool, window: tuple[int, int]) -> Tensor:
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)[None]
    visible = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        visible &= distance >= 0
    if window[0] >= 0:
        visible &= distance <= window[0]
    if window[1] >= 0:
        visible &= -distance <= window[1]
    return visible


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """Compute attention. Tensors are (tokens of all sequences, heads, width).

    `cu_seqlens` are the beginnings of the sequences and the end of the last one.
    """
    output = torch.empty_like(q)
    bounds_q, bounds_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for a, b, c, d in zip(bounds_q, bounds_q[1:], bounds_k, bounds_k[1:], strict=False):
        output[a:b] = flash_attn_func(q[None, a:b], k[None, c:d], v[None, c:d], 0.0, softmax_scale, causal)[0]
    return output


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    cache_seqlens: Tensor | int | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    """Append `k` and `v` to the cache, then compute attention.

    With `block_table` the caches are (pages, page size, heads, width).
    """
    output = torch.empty_like(q)
    for row in range(len(q)):
        length = cache_seqlens[row] if isinstance(cache_seqlens, Tensor) else cache_seqlens
        end = k_cache.shape[1] if length is None else int(length)
        cells = _cells(k_cache, row, block_table)
        flat_k, flat_v = k_cache.view(-1, *k_cache.shape[2:]), v_cache.view(-1, *v_cache.shape[2:])
        if k is not None and v is not None:
            new = cells[end : end + k.shape[1]]
            flat_k[new], flat_v[new] = k[row], v[row]
            end += k.shape[1]
        keys, values = flat_k[None, cells[:end]], flat_v[None, cells[:end]]
        arguments = (0.0, softmax_scale, causal, window_size, softcap)
        output[row] = flash_attn_func(q[row : row + 1], keys, values, *arguments)[0]
    return output


def _cells(cache: Tensor, row: int, block_table: Tensor | None) -> Tensor:
    """Return the index of each position of a sequence in the cache, whose first two dimensions are flattened."""
    size = cache.shape[1]
    pages = torch.tensor([row]) if block_table is None else block_table[row].long()
    return (pages[:, None] * size + torch.arange(size)).flatten()
