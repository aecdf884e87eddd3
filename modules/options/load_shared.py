"""Load options of more than one loader family. A family's table refers to them by name."""

from __future__ import annotations

from modules.options.option import Option

LONGEST_CONTEXT = 16_777_216
"""Upper limit of context lengths, in tokens."""

SHORTEST_CONTEXT = 16
"""Lower limit of context lengths: in fewer tokens no question has room beside its answer."""

FRACTIONS = r"\d+(\.\d+)?( *, *\d+(\.\d+)?)*"
"""Numbers separated by commas: `20,7` or `30, 70`."""

_SIZE = r"\d+(\.\d+)?(?i:[GM]i?B)?"
_SIZES = rf"{_SIZE}(( *, *| +){_SIZE})*"

# Device

CPU = Option(
    "cpu",
    "cpu",
    False,
    {"en": "CPU only", "zh": "仅用 CPU"},
    {
        "en": "Run on the CPU even if there is a GPU.",
        "zh": "即使有 GPU，也只用 CPU 计算。",
    },
    group="memory",
)
GPU_MEMORY = Option(
    "gpu_memory",
    "gpu-memory",
    "",
    {"en": "GPU memory", "zh": "GPU 内存"},
    {
        "en": "VRAM limit per GPU (plain numbers: GiB); the remaining layers go to RAM. Leave 1-2 GiB free.",
        "zh": "每个 GPU 可用于模型的显存上限（纯数字单位为 GiB），其余层放到内存。请预留 1–2 GiB。",
    },
    pattern=_SIZES,
    example="9.5GiB, 8000MiB",
    many=True,
)
CPU_MEMORY = Option(
    "cpu_memory",
    "cpu-memory",
    "",
    {"en": "CPU memory", "zh": "CPU 内存"},
    {
        "en": "RAM limit for offloaded layers (plain number: GiB). The rest goes to disk if that is allowed.",
        "zh": "可用于模型的内存上限（纯数字单位为 GiB）。超出的层写入磁盘，须勾选“卸载到磁盘”。",
    },
    pattern=_SIZE,
    example="16GiB",
    group="memory",
)
AUTO_DEVICES = Option(
    "auto_devices",
    "auto-devices",
    False,
    {"en": "Automatic devices", "zh": "自动分配设备"},
    {
        "en": "Set the GPU memory from the free VRAM. A value set by hand usually fits better.",
        "zh": "根据 GPU 显存自动估计“GPU 内存”的值，手动设置更稳妥。",
    },
    group="memory",
)
DISK = Option(
    "disk",
    "disk",
    False,
    {"en": "Offload to disk", "zh": "卸载到磁盘"},
    {
        "en": "Offload to disk the layers that fit neither in VRAM nor in RAM. Very slow.",
        "zh": "显存和内存都放不下的层改存磁盘，速度很慢。",
    },
    group="memory",
)

# Context and KV cache

N_CTX = Option(
    "n_ctx",
    "n_ctx",
    0,
    {"en": "Context length", "zh": "上下文长度"},
    {
        "en": "Context length in tokens; 0 = the model's maximum. Local models reserve memory for it: lower it if you "
        "run out.",
        "zh": "上下文长度（词符数）；0 表示模型的上限。本机的模型加载时即占用内存，不足时请调低。",
    },
    minimum=0,
    maximum=LONGEST_CONTEXT,
    least=SHORTEST_CONTEXT,
)
MAX_SEQ_LEN = Option(
    "max_seq_len",
    "max_seq_len",
    0,
    {"en": "Context length", "zh": "上下文长度"},
    {
        "en": "Context length in tokens; 0 = the model's maximum. VRAM is reserved at load; lower it if you run out.",
        "zh": "上下文长度（词符数）；0 表示模型的上限。加载时即占用显存，不足时请调低。",
    },
    minimum=0,
    maximum=LONGEST_CONTEXT,
    least=SHORTEST_CONTEXT,
)
CFG_CACHE = Option(
    "cfg_cache",
    "cfg-cache",
    False,
    {"en": "CFG cache", "zh": "CFG 缓存"},
    {
        "en": "Second KV cache for the negative prompt, required for CFG. Doubles the cache memory.",
        "zh": "为负面提示词另建一份缓存，使用 CFG 时需要。缓存占用会翻倍。",
    },
    group="memory",
)
CACHE_8BIT = Option(
    "cache_8bit",
    "cache_8bit",
    False,
    {"en": "8-bit cache", "zh": "8 位缓存"},
    {
        "en": "8-bit KV cache: half the memory at almost the same accuracy. Turns on Flash attention in llama.cpp.",
        "zh": "8 位 KV 缓存：占用减半，精度几乎不变。llama.cpp 会同时启用 Flash Attention。",
    },
    group="memory",
)
CACHE_4BIT = Option(
    "cache_4bit",
    "cache_4bit",
    False,
    {"en": "4-bit cache", "zh": "4 位缓存"},
    {
        "en": "4-bit KV cache: about a quarter of the memory. Turns on Flash attention in llama.cpp.",
        "zh": "4 位 KV 缓存：占用约为四分之一。llama.cpp 会同时启用 Flash Attention。",
    },
    group="memory",
)

# Context extension (RoPE)

ALPHA_VALUE = Option(
    "alpha_value",
    "alpha_value",
    1.0,
    {"en": "NTK alpha", "zh": "Alpha 值（NTK）"},
    {
        "en": "NTK RoPE scaling, extends the context at little loss: 1.75 for 1.5x the context, 2.5 for 2x.",
        "zh": "NTK RoPE 缩放，以较小的质量损失延长上下文：1.75 约为 1.5 倍，2.5 约为 2 倍。",
    },
    minimum=1,
    maximum=8,
    step=0.05,
    group="context",
)
ROPE_FREQ_BASE = Option(
    "rope_freq_base",
    "rope_freq_base",
    0.0,  # a float: the GGUF files of HunYuan contain 11158839.92
    {"en": "RoPE frequency base", "zh": "RoPE 频率基数"},
    {
        "en": "Base of the rotary position embedding (RoPE); 0 = the model's own.",
        "zh": "旋转位置编码（RoPE）的基数；0 表示采用模型自带的值。",
    },
    minimum=0,
    group="context",
)
COMPRESS_POS_EMB = Option(
    "compress_pos_emb",
    "compress_pos_emb",
    1.0,
    {"en": "Compress position embeddings", "zh": "压缩位置嵌入"},
    {
        "en": "Linear RoPE scaling: 2 = twice the context. Only for models fine-tuned with the same factor.",
        "zh": "线性 RoPE 缩放：2 表示两倍上下文。只适合以相同倍数微调过的模型。",
    },
    minimum=1,
    maximum=64,
    step=0.1,
    group="context",
)

# GPTQ kernels

DISABLE_EXLLAMA = Option(
    "disable_exllama",
    "disable_exllama",
    False,
    {"en": "Disable ExLlama", "zh": "禁用 ExLlama"},
    {
        "en": "GPTQ models: do not use the ExLlama kernel, which cannot train LoRAs.",
        "zh": "GPTQ 模型：不使用 ExLlama 内核，训练 LoRA 时须勾选。",
    },
    group="advanced",
)
DISABLE_EXLLAMAV2 = Option(
    "disable_exllamav2",
    "disable_exllamav2",
    False,
    {"en": "Disable ExLlamaV2", "zh": "禁用 ExLlamaV2"},
    {
        "en": "GPTQ models: do not use the ExLlamaV2 kernel, which cannot train LoRAs.",
        "zh": "GPTQ 模型：不使用 ExLlamaV2 内核，训练 LoRA 时须勾选。",
    },
    group="advanced",
)

# Tokenizer and remote code

TRUST_REMOTE_CODE = Option(
    "trust_remote_code",
    "trust-remote-code",
    False,
    {"en": "Trust remote code", "zh": "信任远程代码"},
    {
        "en": "Run the Python files in the model folder. They can do harm: enable it only for sources you trust.",
        "zh": "运行模型文件夹中附带的 Python 代码。代码可能有害，仅对可信来源启用。",
    },
    group="advanced",
)
NO_USE_FAST = Option(
    "no_use_fast",
    "no_use_fast",
    False,
    {"en": "Slow tokenizer", "zh": "不使用快速词符化器"},
    {
        "en": "Use the slow tokenizer, for models whose fast tokenizer fails to load.",
        "zh": "改用慢速词符化器，仅在快速版本无法加载时需要。",
    },
    group="advanced",
)

TOKENIZER = (TRUST_REMOTE_CODE, NO_USE_FAST)
"""Options of every loader whose tokenizer is read by transformers."""
