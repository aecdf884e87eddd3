"""A stand-in for flash-attn on a machine without a GPU: the two functions that fused layers call.

They follow the documentation (https://github.com/Dao-AILab/flash-attention). Shapes are (rows, tokens, heads, size).
"""

from __future__ import annotations

import torch
from torch import Tensor


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, **_: object) -> Tensor:
    assert causal
    return _attend(q, k, v, True)


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    *,
    cache_seqlens: Tensor,
    **_: object,
) -> Tensor:
    """Compute attention of one new token. If `k` and `v` are given, append them to the `cache_seqlens` tokens first."""
    (end,) = cache_seqlens.tolist()
    if k is not None and v is not None:
        assert end < k_cache.shape[1], "a real kernel would write beyond the cache"
        k_cache[:, end], v_cache[:, end] = k[:, 0], v[:, 0]
        end += 1
    return _attend(q, k_cache[:, :end], v_cache[:, :end], False)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    heads = [tensor.float().transpose(1, 2) for tensor in (q, k, v)]
    output = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=causal, enable_gqa=True)
    return output.transpose(1, 2).to(q.dtype)
