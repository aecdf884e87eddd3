"""Load options of vLLM. Keys and flags are those of `vllm serve`, where it has the option."""

from __future__ import annotations

from modules.options import load_shared as shared
from modules.options.option import Option

AUTO = "auto"
MAX_PARALLEL = 1024
"""Largest number of GPUs, stages, replicas or machines that the form accepts."""

QUANTIZATIONS = (
    *("awq", "awq_marlin", "gptq", "gptq_marlin", "bitsandbytes", "fp8", "compressed-tensors", "modelopt"),
    *("moe_wna16", "mxfp4", "quark", "torchao"),
)
"""Methods of `--quantization` in vLLM 0.32. It finds those of stored weights by itself."""

_HOST = r"[A-Za-z0-9\[:][A-Za-z0-9._:\[\]-]{0,254}"
"""A name or an address; it cannot be mistaken for a flag."""

VLLM = (
    Option(
        "max_model_len",
        "max-model-len",
        0,
        {"en": "Context length", "zh": "上下文长度"},
        {
            "en": "Longest prompt with its answer, in tokens; 0 = the model's maximum.",
            "zh": "提示词与回复合计的上限（词符数）；0 表示模型的上限。",
        },
        minimum=0,
        maximum=shared.LONGEST_CONTEXT,
        least=shared.SHORTEST_CONTEXT,
    ),
    Option(
        "tensor_parallel_size",
        "tensor-parallel-size",
        1,
        {"en": "GPUs for each layer", "zh": "张量并行"},
        {
            "en": "Number of GPUs that share every layer. It must divide the number of attention heads.",
            "zh": "将每一层分配到多少个 GPU 上；须能整除注意力头数。",
        },
        minimum=1,
        maximum=MAX_PARALLEL,
    ),
    Option(
        "gpu_memory_utilization",
        "gpu-memory-utilization",
        0.92,
        {"en": "Share of VRAM", "zh": "显存比例"},
        {
            "en": "Share of each GPU that vLLM fills with weights and cache. Lower it if other programs use the GPU.",
            "zh": "vLLM 在每个 GPU 上用于权重和缓存的显存比例。其他程序也在使用 GPU 时请调低。",
        },
        minimum=0.05,
        maximum=1,
        step=0.01,
    ),
    Option(
        "kv_cache_gib",
        "kv-cache-gib",
        0.0,
        {"en": "KV cache (GiB)", "zh": "缓存（GiB）"},
        {
            "en": "Size of the KV cache; 0 = what the share of VRAM leaves on a GPU, 4 GiB on a CPU.",
            "zh": "KV 缓存的大小；0 表示 GPU 上用足显存比例，CPU 上为 4 GiB。",
        },
        minimum=0,
        maximum=4096,
    ),
    Option(
        "kv_cache_dtype",
        "kv-cache-dtype",
        AUTO,
        {"en": "Cache type", "zh": "缓存类型"},
        {
            "en": "Type of the numbers in the KV cache; fp8 halves its size. auto = as the model computes.",
            "zh": "KV 缓存的数据类型；fp8 占用减半。auto 表示与模型的计算类型相同。",
        },
        choices=(AUTO, "fp8", "fp8_e4m3", "fp8_e5m2"),
        group="memory",
    ),
    Option(
        "quantization",
        "quantization",
        AUTO,
        {"en": "Quantization", "zh": "量化方式"},
        {
            "en": "auto = as the files say. fp8 and bitsandbytes quantize full-precision weights while loading.",
            "zh": "auto 表示按模型文件识别；fp8 和 bitsandbytes 可在加载时量化全精度权重。",
        },
        choices=(AUTO, *QUANTIZATIONS),
        group="memory",
    ),
    Option(
        "max_num_seqs",
        "max-num-seqs",
        0,
        {"en": "Answers at once", "zh": "同时生成上限"},
        {
            "en": "Maximum number of answers at the same time; others wait. 0 = vLLM's own choice.",
            "zh": "同时生成的回复数上限，超出的排队等待；0 表示由 vLLM 决定。",
        },
        minimum=0,
        maximum=65536,
        group="memory",
    ),
    Option(
        "enforce_eager",
        "enforce-eager",
        False,
        {"en": "Eager mode", "zh": "不编译计算图"},
        {
            "en": "Do not compile the model or capture CUDA graphs: starts sooner, answers slower.",
            "zh": "不编译模型，也不捕获 CUDA 图：启动更快，生成较慢。",
        },
        group="memory",
    ),
    Option(
        "pipeline_parallel_size",
        "pipeline-parallel-size",
        1,
        {"en": "Pipeline stages", "zh": "流水线并行"},
        {
            "en": "Number of groups of layers, each with its own GPUs. Suits slow links between machines.",
            "zh": "将模型按层分成几段，各用各的 GPU。适合机器之间连接较慢的情况。",
        },
        minimum=1,
        maximum=MAX_PARALLEL,
        group="advanced",
    ),
    Option(
        "data_parallel_size",
        "data-parallel-size",
        1,
        {"en": "Replicas", "zh": "副本数"},
        {
            "en": "Number of copies of the whole model, each with its own GPUs, that share the requests.",
            "zh": "整个模型的副本数，每个副本使用各自的 GPU，共同分担请求。",
        },
        minimum=1,
        maximum=MAX_PARALLEL,
        group="advanced",
    ),
    Option(
        "distributed_executor_backend",
        "distributed-executor-backend",
        AUTO,
        {"en": "Distributed execution", "zh": "分布式方式"},
        {
            "en": "mp starts the processes itself, one command on each machine; ray uses a running Ray cluster.",
            "zh": "mp 由各台机器各执行一条命令启动；ray 使用已运行的 Ray 集群。",
        },
        choices=(AUTO, "mp", "ray"),
        group="advanced",
    ),
    Option(
        "nnodes",
        "nnodes",
        1,
        {"en": "Machines", "zh": "节点数"},
        {
            "en": "Machines that compute this model together. The line for the others is shown once it loads.",
            "zh": "共同计算此模型的机器数。加载时会显示其他机器要执行的命令。",
        },
        minimum=1,
        maximum=MAX_PARALLEL,
        group="advanced",
        set_by="owner",
    ),
    Option(
        "node_rank",
        "node-rank",
        0,
        {"en": "This machine's number", "zh": "本机序号"},
        {
            "en": "0 is the machine with this page; the others count from 1 and only compute.",
            "zh": "0 为提供此页面的机器；其余机器从 1 编号，只参与计算。",
        },
        minimum=0,
        maximum=MAX_PARALLEL - 1,
        group="advanced",
        set_by="owner",
    ),
    Option(
        "master_addr",
        "master-addr",
        "",
        {"en": "First machine's address", "zh": "主节点地址"},
        {
            "en": "Address of machine 0, in a trusted network: the machines use neither login nor encryption.",
            "zh": "0 号机器的地址，须在可信网络内：机器之间的通信没有登录和加密。",
        },
        pattern=_HOST,
        example="192.168.1.10",
        group="advanced",
        set_by="owner",
    ),
    Option(
        "master_port",
        "master-port",
        29501,
        {"en": "First machine's port", "zh": "主节点端口"},
        {
            "en": "Port of machine 0 by which the machines find each other; vLLM opens further ones.",
            "zh": "各机器互相连接时使用的 0 号机器端口；vLLM 还会打开其他端口。",
        },
        minimum=1,
        maximum=65535,
        group="advanced",
        set_by="owner",
    ),
    Option(
        "enable_lora",
        "enable-lora",
        False,
        {"en": "LoRAs", "zh": "启用 LoRA"},
        {
            "en": "Reserve memory for LoRAs, so that one can be applied while the model is loaded.",
            "zh": "为 LoRA 预留显存，模型加载后即可应用 LoRA。",
        },
        group="advanced",
    ),
    Option(
        "max_loras",
        "max-loras",
        1,
        {"en": "LoRAs in a batch", "zh": "每批 LoRA 数"},
        {
            "en": "Number of different LoRAs in one step. Each takes memory.",
            "zh": "同一步计算中可使用的不同 LoRA 的数量，每个都占用显存。",
        },
        minimum=1,
        maximum=64,
        group="advanced",
    ),
    Option(
        "max_lora_rank",
        "max-lora-rank",
        16,
        {"en": "Largest LoRA rank", "zh": "LoRA 最大秩"},
        {
            "en": "LoRAs of a higher rank are refused; a higher limit takes more memory.",
            "zh": "秩更高的 LoRA 会被拒绝；上限越高，占用的显存越多。",
        },
        choices=(8, 16, 32, 64, 128, 256, 320, 512),
        group="advanced",
    ),
    shared.TRUST_REMOTE_CODE,
    Option(
        "vllm_program",
        "vllm-program",
        "",
        {"en": "vLLM's program", "zh": "vLLM 程序"},
        {
            "en": "Path of an installed vllm command, such as one in a virtual environment.",
            "zh": "已安装的 vllm 命令的路径，例如某个虚拟环境中的。",
        },
        group="advanced",
        set_by="files",
    ),
    Option(
        "engine_args",
        "engine-args",
        "",
        {"en": "Further flags", "zh": "其他参数"},
        {
            "en": "Further flags of vllm serve, in quotes as in a shell.",
            "zh": "vllm serve 的其他参数，按命令行的写法加引号。",
        },
        group="advanced",
        set_by="files",
    ),
)
