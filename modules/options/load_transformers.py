"""Load options of the loader Transformers."""

from __future__ import annotations

from modules.options import load_shared as shared
from modules.options.option import Option

TRANSFORMERS = (
    Option(
        "load_in_4bit",
        "load-in-4bit",
        False,
        {"en": "Load in 4 bits", "zh": "以 4 位量化加载"},
        {
            "en": "Quantize to 4 bits while loading (bitsandbytes): about a quarter of the memory.",
            "zh": "加载时用 bitsandbytes 量化为 4 位，内存占用约为四分之一。",
        },
    ),
    Option(
        "use_double_quant",
        "use_double_quant",
        False,
        {"en": "Double quantization", "zh": "使用双重量化"},
        {
            "en": "With 4-bit loading: quantize the scales too, which saves a little more memory.",
            "zh": "配合 4 位加载：对缩放系数再次量化，进一步节省少量内存。",
        },
    ),
    Option(
        "load_in_8bit",
        "load-in-8bit",
        False,
        {"en": "Load in 8 bits", "zh": "以 8 位量化加载"},
        {
            "en": "Quantize to 8 bits while loading (bitsandbytes): more accurate than 4 bits, but slower.",
            "zh": "加载时用 bitsandbytes 量化为 8 位：比 4 位更准确，但更慢。",
        },
    ),
    Option(
        "bf16",
        "bf16",
        False,
        {"en": "bfloat16", "zh": "bfloat16"},
        {
            "en": "Compute in bfloat16 instead of float16 (CPU: float32). No effect on most quantized models.",
            "zh": "以 bfloat16 代替 float16（在 CPU 上代替 float32）计算，对多数量化模型无效。",
        },
    ),
    shared.GPU_MEMORY,
    shared.CPU_MEMORY,
    shared.AUTO_DEVICES,
    shared.DISK,
    shared.CPU,
    shared.ALPHA_VALUE,
    shared.ROPE_FREQ_BASE,
    shared.COMPRESS_POS_EMB,
    Option(
        "quant_type",
        "quant_type",
        "nf4",
        {"en": "Quantization type", "zh": "量化类型"},
        {
            "en": "With 4-bit loading: data type of the quantized weights. nf4 is more accurate.",
            "zh": "配合 4 位加载：权重的量化类型，nf4 更准确。",
        },
        choices=("nf4", "fp4"),
        group="advanced",
    ),
    Option(
        "compute_dtype",
        "compute_dtype",
        "float16",
        {"en": "Compute data type", "zh": "计算数据类型"},
        {
            "en": "With 4-bit loading: dtype of the computation.",
            "zh": "配合 4 位加载：计算时使用的数据类型。",
        },
        choices=("bfloat16", "float16", "float32"),
        group="advanced",
    ),
    Option(
        "use_flash_attention_2",
        "use_flash_attention_2",
        False,
        {"en": "FlashAttention-2", "zh": "使用 FlashAttention-2"},
        {
            "en": "Use the flash-attn package, which must be installed. Helps with long texts and training.",
            "zh": "使用 flash-attn 计算注意力（须已安装），有利于长文本和训练。",
        },
        group="advanced",
    ),
    Option(
        "use_eager_attention",
        "use_eager_attention",
        False,
        {"en": "Eager attention", "zh": "使用 eager 注意力"},
        {
            "en": "Plain PyTorch attention: slower, but some models, such as Gemma 2, are only correct with it.",
            "zh": "使用 PyTorch 的普通注意力实现：较慢，但 Gemma 2 等模型需要它才能得到正确结果。",
        },
        group="advanced",
    ),
    shared.DISABLE_EXLLAMA,
    shared.DISABLE_EXLLAMAV2,
    *shared.TOKENIZER,
)
