"""Attention of a single token on a CPU, without copying keys and values for each query head.

In 16 bits, PyTorch's `scaled_dot_product_attention` with `enable_gqa` repeats the keys and values of grouped-query
attention: five times slower than handing it the query heads of a group as if they were several tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_OTHER_ARGUMENTS = ("position_bias", "softcap", "cache", "output_attentions", "s_aux")


def speed_up_grouped_queries() -> None:
    """Register our attention for all models that transformers computes with "sdpa"."""
    AttentionInterface.register("sdpa", grouped_query_attention)


def grouped_query_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the output [batch, tokens, heads, head size] of attention, and no weights.

    `query` is [batch, heads, tokens, head size]; `key` and `value` have fewer heads, and all tokens so far.
    """
    batch, heads, tokens, size = query.shape
    is_plain = attention_mask is None and not any(others.get(name) is not None for name in _OTHER_ARGUMENTS)
    if tokens == 1 and is_plain and heads > key.shape[1] and query.device.type == "cpu":
        grouped = query.reshape(batch, key.shape[1], -1, size)
        output = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, dropout_p=dropout, scale=scaling)
        return output.reshape(batch, 1, heads, value.shape[-1]), None
    arguments: Any = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **others}
    return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
