"""The load options of Transformers, ExLlamaV2, AutoGPTQ and AutoAWQ; `load_options` merges them with the others."""

from __future__ import annotations

from modules.options.option import Option

LONGEST_CONTEXT = 16_777_216
FRACTIONS = r"\d+(\.\d+)?( *, *\d+(\.\d+)?)*"
"""Numbers with commas between them: `20,7` or `30, 70`."""

_SIZE = r"\d+(\.\d+)?(?i:[GM]i?B)?"
_SIZES = rf"{_SIZE}(( *, *| +){_SIZE})*"

_TRANSFORMERS = (
    Option(
        "load_in_4bit",
        "load-in-4bit",
        False,
        {"en": "load-in-4bit", "zh": "以4位量化加载"},
        {
            "en": "Quantize to 4 bits while loading, with bitsandbytes: about a quarter of the memory.",
            "zh": "加载时用 bitsandbytes 量化为 4 位，内存占用约为四分之一。",
        },
    ),
    Option(
        "use_double_quant",
        "use_double_quant",
        False,
        {"en": "use_double_quant", "zh": "使用双重量化"},
        {
            "en": "With load-in-4bit: quantize the scales as well, which saves a little more memory.",
            "zh": "配合 4 位加载：对缩放系数再次量化，进一步节省少量内存。",
        },
    ),
    Option(
        "load_in_8bit",
        "load-in-8bit",
        False,
        {"en": "load-in-8bit", "zh": "以8位量化加载"},
        {
            "en": "Quantize to 8 bits while loading, with bitsandbytes: more accurate than 4 bits, but slower.",
            "zh": "加载时用 bitsandbytes 量化为 8 位：比 4 位更准确，但更慢。",
        },
    ),
    Option(
        "bf16",
        "bf16",
        False,
        {"en": "bf16", "zh": "bf16"},
        {
            "en": "Compute in bfloat16 instead of float16 (float32 on a CPU). Without effect on most quantized models.",
            "zh": "以 bfloat16 代替 float16（在 CPU 上代替 float32）计算，对多数量化模型无效。",
        },
    ),
    Option(
        "quant_type",
        "quant_type",
        "nf4",
        {"en": "quant_type", "zh": "量化类型"},
        {
            "en": "With load-in-4bit: how weights are written. nf4 is the more accurate.",
            "zh": "配合 4 位加载：权重的表示方式，nf4 更准确。",
        },
        choices=("nf4", "fp4"),
        group="advanced",
    ),
    Option(
        "compute_dtype",
        "compute_dtype",
        "float16",
        {"en": "compute_dtype", "zh": "计算数据类型"},
        {
            "en": "With load-in-4bit: the number type that is calculated in.",
            "zh": "配合 4 位加载：计算时使用的数据类型。",
        },
        choices=("bfloat16", "float16", "float32"),
        group="advanced",
    ),
    Option(
        "use_flash_attention_2",
        "use_flash_attention_2",
        False,
        {"en": "use_flash_attention_2", "zh": "使用flash_attention 2"},
        {
            "en": "Attention by the flash-attn package, which must be installed. Helps with long texts and training.",
            "zh": "使用 flash-attn 计算注意力（须已安装），有利于长文本和训练。",
        },
        group="advanced",
    ),
    Option(
        "use_eager_attention",
        "use_eager_attention",
        False,
        {"en": "use_eager_attention", "zh": "使用eager_attention"},
        {
            "en": "Plain PyTorch attention: slower, but some models, such as Gemma 2, are only right with it.",
            "zh": "使用 PyTorch 的普通注意力实现：较慢，但 Gemma 2 等模型需要它才能得到正确结果。",
        },
        group="advanced",
    ),
)

_DEVICES = (
    Option(
        "gpu_memory",
        "gpu-memory",
        "",
        {"en": "gpu-memory", "zh": "GPU内存"},
        {
            "en": "VRAM for the model, one size per GPU (plain number: GiB); the rest goes to RAM. Leave 1-2 GiB free.",
            "zh": "每个 GPU 可用于模型的显存（纯数字单位为 GiB），其余部分转移到内存。请预留 1–2 GiB。",
        },
        pattern=_SIZES,
        example="9.5GiB, 8000MiB",
        many=True,
    ),
    Option(
        "cpu_memory",
        "cpu-memory",
        "",
        {"en": "cpu-memory", "zh": "CPU内存"},
        {
            "en": "Main memory for the model (plain number: GiB). What exceeds it goes to disk, if that is ticked.",
            "zh": "可用于模型的内存（纯数字单位为 GiB）。超出部分写入磁盘，须勾选“磁盘”。",
        },
        pattern=_SIZE,
        example="16GiB",
        group="memory",
    ),
    Option(
        "auto_devices",
        "auto-devices",
        False,
        {"en": "auto-devices", "zh": "自动分配设备"},
        {
            "en": "Guess gpu-memory from what the GPUs have. A value set by hand fits better.",
            "zh": "根据 GPU 显存自动估计“GPU内存”的值，手动设置更稳妥。",
        },
        group="memory",
    ),
    Option(
        "disk",
        "disk",
        False,
        {"en": "disk", "zh": "磁盘"},
        {
            "en": "Keep on disk the layers that fit neither the GPU nor main memory. Very slow.",
            "zh": "显存和内存都放不下的层改存磁盘，速度很慢。",
        },
        group="memory",
    ),
)

_EXLLAMA = (
    Option(
        "max_seq_len",
        "max_seq_len",
        0,
        {"en": "max_seq_len", "zh": "最大序列长度"},
        {
            "en": "Context length in tokens; 0 = the model's maximum. Its VRAM is taken at once: lower it if short.",
            "zh": "上下文长度（词符数）；0 表示模型的上限。缓存会预先分配，显存不足时请调低。",
        },
        minimum=0,
        maximum=LONGEST_CONTEXT,
    ),
    Option(
        "gpu_split",
        "gpu-split",
        "",
        {"en": "gpu-split", "zh": "GPU分割"},
        {
            "en": "Several GPUs: GB of weights on each, such as 20,7. Each needs room for its share of the cache too.",
            "zh": "多 GPU：各 GPU 存放的权重（GB），例如 20,7。每个 GPU 都要为其各层的缓存留出显存。",
        },
        pattern=FRACTIONS,
        example="20,7",
    ),
    Option(
        "autosplit",
        "autosplit",
        False,
        {"en": "autosplit", "zh": "自动分割"},
        {
            "en": "Fill the GPUs one after the other, whatever gpu-split says.",
            "zh": "依次填满各个 GPU，不再理会“GPU分割”。",
        },
        group="memory",
    ),
    Option(
        "num_experts_per_token",
        "num_experts_per_token",
        0,
        {"en": "Number of experts per token", "zh": "每个词符的专家数量"},
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
        {"en": "no_flash_attn", "zh": "不使用flash_attention"},
        {
            "en": "Do without flash-attention, which is otherwise used wherever it is installed.",
            "zh": "禁用 flash attention。不勾选时，只要已安装就会使用。",
        },
        group="advanced",
    ),
    Option(
        "no_xformers",
        "no_xformers",
        False,
        {"en": "no_xformers", "zh": "不使用xformers"},
        {
            "en": "Do without xformers, which is otherwise used wherever it is installed.",
            "zh": "禁用 xformers。不勾选时，只要已安装就会使用。",
        },
        group="advanced",
    ),
    Option(
        "no_sdpa",
        "no_sdpa",
        False,
        {"en": "no_sdpa", "zh": "不使用sdpa"},
        {
            "en": "Do without PyTorch's own fused attention (SDPA).",
            "zh": "禁用 PyTorch 自带的融合注意力（SDPA）。",
        },
        group="advanced",
    ),
)

_GPTQ_AND_AWQ = (
    Option(
        "wbits",
        "wbits",
        0,
        {"en": "wbits", "zh": "权重位数"},
        {
            "en": "Bits per weight, for old models that do not say. 0 = as the model says.",
            "zh": "每个权重的位数，用于缺少此信息的旧模型。0 表示以模型为准。",
        },
        choices=(0, 1, 2, 3, 4, 8),
    ),
    Option(
        "groupsize",
        "groupsize",
        -1,
        {"en": "groupsize", "zh": "组大小"},
        {
            "en": "Group size, for old models that do not say. -1 = as the model says, else no groups.",
            "zh": "组大小，用于缺少此信息的旧模型。-1 表示以模型为准，否则不分组。",
        },
        choices=(-1, 32, 64, 128, 1024),
    ),
    Option(
        "desc_act",
        "desc_act",
        False,
        {"en": "desc_act", "zh": "按递减激活顺序量化"},
        {
            "en": "The model was quantized in act-order. For old models that do not say.",
            "zh": "模型以 act-order 方式量化，用于缺少此信息的旧模型。",
        },
    ),
    Option(
        "triton",
        "triton",
        False,
        {"en": "triton", "zh": "Triton"},
        {
            "en": "Triton kernels: for act-order with groups, or where auto-gptq's own do not fit PyTorch.",
            "zh": "Triton 内核：用于 act-order 加组大小的模型，或自带内核与 PyTorch 不匹配时。",
        },
        group="advanced",
    ),
    Option(
        "no_inject_fused_attention",
        "no_inject_fused_attention",
        False,
        {"en": "no_inject_fused_attention", "zh": "不注入融合注意力"},
        {
            "en": "Do without fused attention: less VRAM, but slower.",
            "zh": "不使用融合注意力：节省显存，但速度变慢。",
        },
        group="advanced",
    ),
    Option(
        "no_inject_fused_mlp",
        "no_inject_fused_mlp",
        False,
        {"en": "no_inject_fused_mlp", "zh": "不注入融合MLP"},
        {
            "en": "With Triton: do without the fused MLP. Less VRAM, but slower.",
            "zh": "配合 Triton：不使用融合 MLP。节省显存，但速度变慢。",
        },
        group="advanced",
    ),
    Option(
        "no_use_cuda_fp16",
        "no_use_cuda_fp16",
        False,
        {"en": "no_use_cuda_fp16", "zh": "不使用cuda_fp16"},
        {
            "en": "Do without the half-precision CUDA kernels. Try it where generation is very slow.",
            "zh": "不使用半精度 CUDA 内核。若生成速度异常缓慢，可尝试勾选。",
        },
        group="advanced",
    ),
    Option(
        "disable_exllama",
        "disable_exllama",
        False,
        {"en": "disable_exllama", "zh": "禁用ExLlama"},
        {
            "en": "GPTQ models: do without the ExLlama kernel, which cannot train LoRAs.",
            "zh": "GPTQ 模型：不使用 ExLlama 内核，训练 LoRA 时须勾选。",
        },
        group="advanced",
    ),
    Option(
        "disable_exllamav2",
        "disable_exllamav2",
        False,
        {"en": "disable_exllamav2", "zh": "禁用ExLlamav2"},
        {
            "en": "GPTQ models: do without the ExLlamaV2 kernel, which cannot train LoRAs.",
            "zh": "GPTQ 模型：不使用 ExLlamaV2 内核，训练 LoRA 时须勾选。",
        },
        group="advanced",
    ),
)

GPU_OPTIONS = (*_TRANSFORMERS, *_DEVICES, *_EXLLAMA, *_GPTQ_AND_AWQ)
