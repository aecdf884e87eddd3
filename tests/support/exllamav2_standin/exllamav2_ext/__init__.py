"""A stand-in, in torch on the CPU, for the compiled extension of exllamav2 0.3.2: for tests on machines without CUDA.

If the folder that contains this package is on PYTHONPATH, exllamav2's own Python code imports it as its extension. It
does what the sources in exllamav2/exllamav2_ext of that version do, with the same rounding where that is cheap, and
with their mistakes where these change results. Not implemented: tensor parallelism, mixtures of experts, vision,
Hadamard matrices.
"""

from .cuda_on_cpu import redirect_cuda_to_cpu

redirect_cuda_to_cpu()  # before any other module of exllamav2 asks for a device

from .blocks import (  # noqa: E402
    free_q_attn,
    free_q_mlp,
    make_q_attn,
    make_q_mlp,
    q_attn_forward_1,
    q_attn_forward_2,
    q_attn_set_loras,
    q_mlp_forward_,
    q_mlp_set_loras,
)
from .caches import (  # noqa: E402
    cache_rotate,
    count_match,
    fp8_to_fp16,
    fp16_to_fp8,
    fp16_to_q_kv,
    matrix_fp16_to_q4,
    matrix_q4_to_fp16,
    q_to_fp16_kv,
)
from .files import stloader_read, tensor_remap, tensor_remap_4bit  # noqa: E402
from .layers import head_norm, layer_norm, rms_norm, rope_, softcap_  # noqa: E402
from .matrices import free_q_matrix, gemm_half_q_half, make_group_map, make_q_matrix, reconstruct  # noqa: E402
from .quantization import (  # noqa: E402
    pack_columns,
    pack_rows_4,
    quantize,
    quantize_err,
    quantize_range,
    quantize_range_inplace,
)
from .sampling import (  # noqa: E402
    apply_rep_penalty,
    fast_copy_cpu,
    fast_fadd_cpu,
    fast_fill_cpu_ones_bool,
    logit_filter_exclusive,
    sample_basic,
)
from .stop_strings import partial_strings_match  # noqa: E402

__all__ = [
    "apply_rep_penalty",
    "cache_rotate",
    "count_match",
    "fast_copy_cpu",
    "fast_fadd_cpu",
    "fast_fill_cpu_ones_bool",
    "fp8_to_fp16",
    "fp16_to_fp8",
    "fp16_to_q_kv",
    "free_q_attn",
    "free_q_matrix",
    "free_q_mlp",
    "gemm_half_q_half",
    "head_norm",
    "layer_norm",
    "logit_filter_exclusive",
    "make_group_map",
    "make_q_attn",
    "make_q_matrix",
    "make_q_mlp",
    "matrix_fp16_to_q4",
    "matrix_q4_to_fp16",
    "pack_columns",
    "pack_rows_4",
    "partial_strings_match",
    "q_attn_forward_1",
    "q_attn_forward_2",
    "q_attn_set_loras",
    "q_mlp_forward_",
    "q_mlp_set_loras",
    "q_to_fp16_kv",
    "quantize",
    "quantize_err",
    "quantize_range",
    "quantize_range_inplace",
    "reconstruct",
    "rms_norm",
    "rope_",
    "sample_basic",
    "softcap_",
    "stloader_read",
    "tensor_remap",
    "tensor_remap_4bit",
]
