"""Every load option: those of llama.cpp and those several families share here, the rest in `load_options_gpu`.

Keys, flags and ranges are the original program's, with these departures:

* `n_ctx`, `max_seq_len` and `num_experts_per_token` default to 0, "the model's own": the original's 2048 and 2 were
  wrong for most models. 0 asks for all the memory the model's full context takes, and the help says so.
* `flash_attn` is on: on a CPU nothing else gains as much. `--flash_attn=false` turns it off.
* Ranges are wider where a model's own files go beyond the original's: contexts of millions of tokens, linear scaling
  of 25, a rotary base of 11158839.92.
* Sizes of memory are texts (`10`, `9.5GiB`, `8000MiB`); a plain number counts GiB, as the flags always did.

Which loader shows which of them is said in `loaders`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.options.load_gpu import FRACTIONS, GPU_OPTIONS, LONGEST_CONTEXT
from modules.options.option import Option

_SHARED = (
    Option(
        "cpu",
        "cpu",
        False,
        {"en": "cpu", "zh": "CPU"},
        {
            "en": "Compute on the CPU only, even where there is a GPU.",
            "zh": "即使有 GPU，也只用 CPU 计算。",
        },
        group="memory",
    ),
    Option(
        "trust_remote_code",
        "trust-remote-code",
        False,
        {"en": "trust-remote-code", "zh": "信任远程代码"},
        {
            "en": "Run the Python files that lie beside the model. They may do harm: only for sources you trust.",
            "zh": "运行模型文件夹中附带的 Python 代码。代码可能有害，仅对可信来源启用。",
        },
        group="advanced",
    ),
    Option(
        "no_use_fast",
        "no_use_fast",
        False,
        {"en": "no_use_fast", "zh": "不使用快速模式"},
        {
            "en": "Use the slow tokenizer, for models whose fast one does not load.",
            "zh": "改用慢速词符化器，仅在快速版本无法加载时需要。",
        },
        group="advanced",
    ),
    Option(
        "alpha_value",
        "alpha_value",
        1.0,
        {"en": "alpha_value", "zh": "alpha值"},
        {
            "en": "Stretches the context at little loss: 1.75 for one and a half times, 2.5 for twice the length.",
            "zh": "以较小的质量损失延长上下文：1.75 约为 1.5 倍，2.5 约为 2 倍。",
        },
        minimum=1,
        maximum=8,
        step=0.05,
        group="context",
    ),
    Option(
        "rope_freq_base",
        "rope_freq_base",
        0.0,  # a float: the GGUF files of HunYuan say 11158839.92
        {"en": "rope_freq_base", "zh": "rope频率基数"},
        {
            "en": "Base of the rotary position embedding (RoPE); 0 = the model's own.",
            "zh": "旋转位置编码（RoPE）的基数；0 表示采用模型自带的值。",
        },
        minimum=0,
        group="context",
    ),
    Option(
        "compress_pos_emb",
        "compress_pos_emb",
        1.0,
        {"en": "compress_pos_emb", "zh": "压缩位置嵌入"},
        {
            "en": "Divides positions: 2 = twice the context. Only for models fine-tuned with this very factor.",
            "zh": "按倍数压缩位置：2 表示两倍上下文。只适合以相同倍数微调过的模型。",
        },
        minimum=1,
        maximum=64,
        step=0.1,
        group="context",
    ),
    Option(
        "cfg_cache",
        "cfg-cache",
        False,
        {"en": "cfg-cache", "zh": "CFG缓存"},
        {
            "en": "A second cache for the negative prompt, needed for CFG. Doubles the memory of the cache.",
            "zh": "为负面提示词另建一份缓存，使用 CFG 时需要。缓存占用会翻倍。",
        },
        group="memory",
    ),
    Option(
        "cache_8bit",
        "cache_8bit",
        False,
        {"en": "cache_8bit", "zh": "8位缓存"},
        {
            "en": "Keep the cache in 8 bits: half the memory, barely less exact. llama.cpp then uses flash_attn too.",
            "zh": "以 8 位保存缓存：占用减半，精度几乎不变。llama.cpp 会同时启用 flash_attn。",
        },
        group="memory",
    ),
    Option(
        "cache_4bit",
        "cache_4bit",
        False,
        {"en": "cache_4bit", "zh": "4位缓存"},
        {
            "en": "Keep the cache in 4 bits: about a quarter of the memory. llama.cpp then uses flash_attn too.",
            "zh": "以 4 位保存缓存：占用约为四分之一。llama.cpp 会同时启用 flash_attn。",
        },
        group="memory",
    ),
)

_LLAMACPP = (
    Option(
        "n_gpu_layers",
        "n-gpu-layers",
        0,
        {"en": "n-gpu-layers", "zh": "GPU层数"},
        {
            "en": "How many layers to put on the GPU: 0 = none, -1 = all.",
            "zh": "放到 GPU 上的层数：0 表示不使用 GPU，-1 表示全部。",
        },
        minimum=-1,
        maximum=256,
        step=1,
    ),
    Option(
        "n_ctx",
        "n_ctx",
        0,
        {"en": "n_ctx", "zh": "n_ctx"},
        {
            "en": "Context length in tokens; 0 = the model's maximum. Its memory is taken at once: lower it if short.",
            "zh": "上下文长度（词符数）；0 表示模型的上限。缓存会预先分配，内存不足时请调低。",
        },
        minimum=0,
        maximum=LONGEST_CONTEXT,
    ),
    Option(
        "threads",
        "threads",
        0,
        {"en": "threads", "zh": "线程数"},
        {
            "en": "Threads for writing the answer; 0 = automatic. Best: the number of physical cores.",
            "zh": "生成回答时使用的线程数；0 表示自动。建议设为物理核心数。",
        },
        minimum=0,
        maximum=512,  # ggml takes no more
        step=1,
    ),
    Option(
        "threads_batch",
        "threads-batch",
        0,
        {"en": "threads_batch", "zh": "批处理线程数"},
        {
            "en": "Threads for reading the prompt; 0 = automatic. Best: all cores, virtual ones included.",
            "zh": "处理提示词时使用的线程数；0 表示自动。建议设为全部核心数（含虚拟核心）。",
        },
        minimum=0,
        maximum=512,
        step=1,
        group="advanced",
    ),
    Option(
        "flash_attn",
        "flash-attn",
        True,
        {"en": "flash_attn", "zh": "使用flash_attn"},
        {
            "en": "Faster attention, on the CPU too, and less memory. On by default; untick only if it makes trouble.",
            "zh": "更快、更省内存的注意力算法，对 CPU 同样有效。默认开启，仅在出问题时关闭。",
        },
    ),
    Option(
        "n_batch",
        "n_batch",
        512,
        {"en": "n_batch", "zh": "批处理大小"},
        {
            "en": "Tokens of the prompt evaluated in one step. Larger may be faster, but takes more memory.",
            "zh": "每一步处理的提示词词符数。调高可能更快，但占用更多内存。",
        },
        minimum=1,
        maximum=2048,
        step=1,
        group="advanced",
    ),
    Option(
        "parallel",
        "parallel",
        4,
        {"en": "parallel", "zh": "并行数"},
        {
            "en": "How many answers may be written at the same time; further requests wait their turn.",
            "zh": "可同时生成的回答数，超出的请求将排队等待。",
        },
        minimum=1,
        maximum=64,
        step=1,
        group="advanced",
    ),
    Option(
        "tensor_split",
        "tensor_split",
        "",
        {"en": "tensor_split", "zh": "张量分割"},
        {
            "en": "Several GPUs: each one's share of the model, as proportions such as 30,70.",
            "zh": "多 GPU：各 GPU 分担模型的比例，例如 30,70。",
        },
        pattern=FRACTIONS,
        example="30,70",
        group="memory",
    ),
    Option(
        "row_split",
        "row_split",
        False,
        {"en": "row_split", "zh": "行分割"},
        {
            "en": "Several GPUs: split every layer by rows, instead of giving each GPU whole layers.",
            "zh": "多 GPU：按行拆分每一层，而不是让每个 GPU 分担整层。",
        },
        group="memory",
    ),
    Option(
        "no_offload_kqv",
        "no_offload_kqv",
        False,
        {"en": "no_offload_kqv", "zh": "不卸载KQV"},
        {
            "en": "Leave the attention cache in main memory. Saves VRAM, slower.",
            "zh": "将注意力缓存留在内存中。节省显存，但速度变慢。",
        },
        group="memory",
    ),
    Option(
        "no_mmap",
        "no-mmap",
        False,
        {"en": "no-mmap", "zh": "不使用内存映射"},
        {
            "en": "Read the whole model into memory at once. Slower to load, but nothing is read from disk later.",
            "zh": "一次性将整个模型读入内存。加载较慢，但之后不再读取磁盘。",
        },
        group="memory",
    ),
    Option(
        "mlock",
        "mlock",
        False,
        {"en": "mlock", "zh": "内存锁定"},
        {
            "en": "Forbid the system to swap the model out of memory.",
            "zh": "禁止系统将模型从内存换出到磁盘。",
        },
        group="memory",
    ),
    Option(
        "numa",
        "numa",
        False,
        {"en": "numa", "zh": "NUMA"},
        {
            "en": "Place threads and memory by NUMA node. May help on machines with several processors.",
            "zh": "按 NUMA 节点分配线程和内存。在多处理器机器上可能更快。",
        },
        group="memory",
    ),
    Option(
        "streaming_llm",
        "streaming-llm",
        False,
        {"en": "streaming_llm", "zh": "streaming_llm"},
        {
            "en": "Experimental: when old messages drop out of a full context, the rest is not evaluated again.",
            "zh": "实验性：上下文已满、旧消息被移除时，不必重新处理其余内容。",
        },
        group="context",
    ),
    Option(
        "attention_sink_size",
        "attention-sink-size",
        5,
        {"en": "attention_sink_size", "zh": "attention_sink_size"},
        {
            "en": "With streaming_llm: how many tokens at the very beginning are always kept.",
            "zh": "配合 streaming_llm：开头始终保留的词符数。",
        },
        minimum=0,
        group="context",
    ),
    Option(
        "logits_all",
        "logits_all",
        False,
        {"en": "logits_all", "zh": "全部应用Logit"},
        {
            "en": "Needed to measure perplexity. Leave it off otherwise: it slows prompts down.",
            "zh": "评估困惑度时需要。其他情况请勿勾选，否则提示词处理会变慢。",
        },
        group="advanced",
    ),
    Option(
        "tensorcores",
        "tensorcores",
        False,
        {"en": "tensorcores", "zh": "tensorcores"},
        {
            "en": "Without effect today: a CUDA build of llama.cpp uses tensor cores anyway. Kept for old settings.",
            "zh": "如今已无作用：llama.cpp 的 CUDA 版本会自动使用 Tensor Core。仅为兼容旧设置而保留。",
        },
        group="advanced",
    ),
    Option(
        "no_mul_mat_q",
        "no_mul_mat_q",
        False,
        {"en": "no_mul_mat_q", "zh": "禁用mul_mat_q"},
        {
            "en": "Without effect in today's llama.cpp, which picks its kernels itself. Kept for old settings.",
            "zh": "如今的 llama.cpp 自行选择内核，此选项已无作用，仅为兼容旧设置而保留。",
        },
        group="advanced",
    ),
)

OPTIONS: Mapping[str, Option] = {option.key: option for option in (*_SHARED, *_LLAMACPP, *GPU_OPTIONS)}
"""Every load option by its key."""
