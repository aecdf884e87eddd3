"""Load options of AutoGPTQ and AutoAWQ."""

from __future__ import annotations

from modules.options import load_shared as shared
from modules.options.option import Option

_NO_INJECT_FUSED_ATTENTION = Option(
    "no_inject_fused_attention",
    "no_inject_fused_attention",
    False,
    {"en": "No fused attention", "zh": "不使用融合注意力"},
    {
        "en": "Do not use fused attention: less VRAM, but slower.",
        "zh": "不使用融合注意力：节省显存，但速度变慢。",
    },
    group="advanced",
)

AUTOGPTQ = (
    shared.GPU_MEMORY,
    Option(
        "wbits",
        "wbits",
        0,
        {"en": "Weight bits", "zh": "权重位数"},
        {
            "en": "Bits per weight, for old models without quantization settings. 0 = the model's own.",
            "zh": "每个权重的位数，用于缺少量化信息的旧模型。0 表示以模型为准。",
        },
        choices=(0, 1, 2, 3, 4, 8),
    ),
    Option(
        "groupsize",
        "groupsize",
        -1,
        {"en": "Group size", "zh": "组大小"},
        {
            "en": "Group size, for old models without quantization settings. -1 = the model's own, or no groups.",
            "zh": "组大小，用于缺少量化信息的旧模型。-1 表示以模型为准，否则不分组。",
        },
        choices=(-1, 32, 64, 128, 1024),
    ),
    Option(
        "desc_act",
        "desc_act",
        False,
        {"en": "Act-order", "zh": "按激活递减顺序（act-order）"},
        {
            "en": "The model was quantized with act-order. For old models without quantization settings.",
            "zh": "模型以 act-order 方式量化，用于缺少量化信息的旧模型。",
        },
    ),
    shared.CPU_MEMORY,
    shared.AUTO_DEVICES,
    shared.DISK,
    shared.CPU,
    Option(
        "triton",
        "triton",
        False,
        {"en": "Triton", "zh": "Triton"},
        {
            "en": "Use Triton kernels: for act-order with groups, or if auto-gptq's own kernels do not match PyTorch.",
            "zh": "Triton 内核：用于 act-order 加组大小的模型，或自带内核与 PyTorch 不匹配时。",
        },
        group="advanced",
    ),
    _NO_INJECT_FUSED_ATTENTION,
    Option(
        "no_inject_fused_mlp",
        "no_inject_fused_mlp",
        False,
        {"en": "No fused MLP", "zh": "不使用融合 MLP"},
        {
            "en": "With Triton: do not use the fused MLP. Less VRAM, but slower.",
            "zh": "配合 Triton：不使用融合 MLP。节省显存，但速度变慢。",
        },
        group="advanced",
    ),
    Option(
        "no_use_cuda_fp16",
        "no_use_cuda_fp16",
        False,
        {"en": "No CUDA FP16", "zh": "不使用 CUDA FP16"},
        {
            "en": "Do not use the half-precision CUDA kernels. Try this if generation is very slow.",
            "zh": "不使用半精度 CUDA 内核。若生成速度异常缓慢，可尝试勾选。",
        },
        group="advanced",
    ),
    shared.DISABLE_EXLLAMA,
    shared.DISABLE_EXLLAMAV2,
    *shared.TOKENIZER,
)

AUTOAWQ = (
    shared.GPU_MEMORY,
    shared.MAX_SEQ_LEN,
    shared.CPU_MEMORY,
    shared.AUTO_DEVICES,
    _NO_INJECT_FUSED_ATTENTION,
    *shared.TOKENIZER,
)
