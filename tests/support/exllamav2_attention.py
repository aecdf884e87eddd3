"""Measure the errors of ExLlamaV2's attention without flash-attention, with and without our patches: a script.

`python -m tests.support.exllamav2_attention`, with the stand-in for the extension on PYTHONPATH, prints JSON: for every
variant and case the largest difference from float32, relative to the largest number; null after overflow.
"""

from __future__ import annotations

import json
import math
from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from exllamav2.attn import ExLlamaV2Attention
from exllamav2.attn_params import Params
from torch import Tensor

from modules.engines.exllamav2.patches import patch_attention

HEADS, KV_HEADS, HEAD = 4, 2, 64
CASES = {
    "a prompt": {"length": 40},
    "a prompt after cached tokens": {"length": 40, "past": 25},
    "one token": {"length": 1, "past": 50},
    "one token with a window": {"length": 1, "past": 50, "window": 16},
    "a prompt longer than its window": {"length": 40, "window": 16},
    "a prompt after cached tokens with a window": {"length": 40, "past": 25, "window": 16},
    "a prompt with a cap": {"length": 40, "softcap": 30.0},
    "a cap and a window": {"length": 40, "past": 5, "softcap": 30.0, "window": 16},
    "large numbers": {"length": 40, "scale": 60.0},
    "two rows, one padded": {"length": 20, "past": 10, "rows": 2, "padding": 7},
}


def main() -> None:
    variants: dict[str, Any] = {"exllamav2 0.3.2": ExLlamaV2Attention._attn_torch}
    for name, fused in (("fused", True), ("step by step", False)):
        patch_attention(fused)
        variants[name] = ExLlamaV2Attention._attn_torch
    errors = {
        name: {case: _error(attention, **parameters) for case, parameters in CASES.items()}
        for name, attention in variants.items()
    }
    print("\n" + json.dumps(errors))


def _error(
    attention: Any,
    length: int,
    past: int = 0,
    rows: int = 1,
    padding: int = 0,
    window: int = 0,
    softcap: float = 0,
    scale: float = 1,
) -> float | None:
    torch.manual_seed(0)
    shapes = ((length, HEADS), (past + length, KV_HEADS), (past + length, KV_HEADS))
    q, k, v = (torch.randn(rows, *shape, HEAD, dtype=torch.half) for shape in shapes)
    q, k = q * scale, k * scale
    layer = SimpleNamespace(
        layer_idx=0, sliding_window=window, scaling=HEAD**-0.5, num_key_value_groups=HEADS // KV_HEADS
    )
    layer.repeat_kv = lambda states, times: ExLlamaV2Attention.repeat_kv(layer, states, times)
    config = SimpleNamespace(no_sdpa=True, attn_logit_softcapping=softcap)
    mask = torch.zeros(rows, past + length, dtype=torch.half)
    mask[0, :padding] = -65504.0
    params = Params(rows, length, past, mask if padding else None)
    actual = attention(layer, rows, length, q, k, v, params, config).view(rows, length, HEADS, HEAD)
    expected = _in_float32(q, k, v, window, softcap, padding)
    error = ((actual.float() - expected).abs().max() / expected.abs().max()).item()
    return None if math.isnan(error) else error


def _in_float32(q: Tensor, k: Tensor, v: Tensor, window: int, softcap: float, padding: int) -> Tensor:
    """Compute attention token by token."""
    output = torch.empty(q.shape)
    past = k.shape[1] - q.shape[1]
    for row, token, head in product(range(q.shape[0]), range(q.shape[1]), range(q.shape[2])):
        end, kv_head = past + token + 1, head // (HEADS // KV_HEADS)
        begin = max(padding if row == 0 else 0, end - window if window else 0)
        scores = k[row, begin:end, kv_head].float() @ q[row, token, head].float() * HEAD**-0.5
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        output[row, token, head] = scores.softmax(0) @ v[row, begin:end, kv_head].float()
    return output


if __name__ == "__main__":
    main()
