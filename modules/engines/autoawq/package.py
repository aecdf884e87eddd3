"""The parts of autoawq 0.2.9 that we use, imported without its deprecation warning."""

from __future__ import annotations

import warnings

from modules.engines.legacy import import_stubs

import_stubs.prepare()
with warnings.catch_warnings(record=True):  # it resets the warning filters before it warns
    from awq import AutoAWQForCausalLM
    from awq.models import base
    from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
    from awq.modules.fused import attn
    from awq.modules.linear import WQLinear_GEMM, gemm
    from awq.utils.packing_utils import reverse_awq_order, unpack_awq

__all__ = [
    "AWQ_CAUSAL_LM_MODEL_MAP",
    "AutoAWQForCausalLM",
    "WQLinear_GEMM",
    "attn",
    "base",
    "gemm",
    "reverse_awq_order",
    "unpack_awq",
]
