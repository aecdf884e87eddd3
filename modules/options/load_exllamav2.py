"""Load options of ExLlamav2 and ExLlamav2_HF."""

from __future__ import annotations

from modules.options import load_shared as shared
from modules.options.load_shared import FRACTIONS
from modules.options.option import Option

EXLLAMAV2 = (
    shared.MAX_SEQ_LEN,
    Option(
        "gpu_split",
        "gpu-split",
        "",
        {"en": "GPU split", "zh": "GPU 分割"},
        {
            "en": "Multiple GPUs: GB of weights on each, such as 20,7. Leave room on each for the KV cache.",
            "zh": "多 GPU：各 GPU 存放的权重（GB），例如 20,7。每个 GPU 都要为其各层的缓存留出显存。",
        },
        pattern=FRACTIONS,
        example="20,7",
    ),
    Option(
        "autosplit",
        "autosplit",
        False,
        {"en": "Automatic split", "zh": "自动分割"},
        {
            "en": "Fill the GPUs one after another; GPU split is ignored.",
            "zh": "依次填满各个 GPU，忽略“GPU 分割”。",
        },
        group="memory",
    ),
    shared.CACHE_8BIT,
    shared.CACHE_4BIT,
    shared.CFG_CACHE,
    shared.ALPHA_VALUE,
    shared.COMPRESS_POS_EMB,
    Option(
        "num_experts_per_token",
        "num_experts_per_token",
        0,
        {"en": "Experts per token", "zh": "每个词符的专家数"},
        {
            "en": "Mixture-of-experts models only; 0 = the model's own number.",
            "zh": "仅适用于混合专家模型；0 表示采用模型自带的数量。",
        },
        minimum=0,
        group="advanced",
    ),
    Option(
        "no_flash_attn",
        "no_flash_attn",
        False,
        {"en": "No FlashAttention", "zh": "不使用 FlashAttention"},
        {
            "en": "Do not use flash-attn. If this is off, it is used whenever it is installed.",
            "zh": "禁用 flash attention。不勾选时，只要已安装就会使用。",
        },
        group="advanced",
    ),
    Option(
        "no_xformers",
        "no_xformers",
        False,
        {"en": "No xformers", "zh": "不使用 xformers"},
        {
            "en": "Do not use xformers. If this is off, it is used whenever it is installed.",
            "zh": "禁用 xformers。不勾选时，只要已安装就会使用。",
        },
        group="advanced",
    ),
    Option(
        "no_sdpa",
        "no_sdpa",
        False,
        {"en": "No SDPA", "zh": "不使用 SDPA"},
        {
            "en": "Do not use PyTorch's fused attention (SDPA).",
            "zh": "禁用 PyTorch 自带的融合注意力（SDPA）。",
        },
        group="advanced",
    ),
    *shared.TOKENIZER,
)
