"""Load options of the loaders that run llama.cpp."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address

from modules.core.errors import Words
from modules.options import load_shared as shared
from modules.options.load_shared import FRACTIONS
from modules.options.option import Option

MAX_NODES = 16
"""RPC nodes of a model: llama.cpp supports no more devices."""
AUTO, ON, OFF = "auto", "on", "off"
USUAL_PARALLEL = 4
_NODE = r"[A-Za-z0-9._-]{1,253}:[0-9]{1,5}"  # \d would take digits of other scripts, over which llama.cpp aborts


def rpc_nodes(text: str) -> tuple[str, ...]:
    """Return the nodes in a value of the option `rpc`, each as host:port."""
    return tuple(node.strip() for node in text.split(",") if node.strip())


def _excess_nodes(text: str) -> Words | None:
    nodes = rpc_nodes(text)
    if len(nodes) > MAX_NODES:
        return {"en": f"at most {MAX_NODES} nodes", "zh": f"最多 {MAX_NODES} 个节点"}
    if len(set(nodes)) < len(nodes):
        return {"en": "no node twice", "zh": "互不重复的节点"}
    return next(filter(None, map(excess_address, nodes)), None)


def excess_address(address: str) -> Words | None:
    """Return what is expected instead of an address, host:port, with impossible numbers; None if they are possible."""
    host, _, port = address.rpartition(":")
    if not 0 < int(port) < 1 << 16:
        return {"en": "a port from 1 to 65535", "zh": " 1 到 65535 之间的端口"}
    if host.replace(".", "").isdigit():
        try:
            IPv4Address(host)
        except AddressValueError:
            return {"en": "an IPv4 address or a host name", "zh": " IPv4 地址或主机名"}
    return None


def _outside_models(name: str) -> Words | None:
    if name and {"", ".", ".."} & set(name.split("/")):
        return {"en": "a name within the models folder", "zh": "模型文件夹中的名称"}
    return None


_LIBRARY = (
    Option(
        "n_gpu_layers",
        "n-gpu-layers",
        0,
        {"en": "GPU layers", "zh": "GPU 层数"},
        {
            "en": "Number of layers to offload to the GPU: 0 = none, -1 = all.",
            "zh": "放到 GPU 上的层数：0 表示不使用 GPU，-1 表示全部。",
        },
        minimum=-1,
        maximum=256,
        step=1,
    ),
    shared.N_CTX,
    Option(
        "threads",
        "threads",
        0,
        {"en": "Threads", "zh": "线程数"},
        {
            "en": "CPU threads for decoding; 0 = automatic: the first load measures which number is fastest here.",
            "zh": "生成回复时使用的线程数；0 表示自动，由首次加载时在本机实测决定。",
        },
        minimum=0,
        maximum=512,  # GGML_MAX_N_THREADS
        step=1,
    ),
    Option(
        "flash_attn",
        "flash-attn",
        True,
        {"en": "Flash attention", "zh": "使用 Flash Attention"},
        {
            "en": "Flash attention: faster, even on the CPU, and less memory. Turn off only if it causes problems.",
            "zh": "更快、更省内存的注意力算法，对 CPU 同样有效。默认开启，仅在出问题时关闭。",
        },
    ),
    shared.CPU,
    Option(
        "tensor_split",
        "tensor_split",
        "",
        {"en": "Tensor split", "zh": "张量分割"},
        {
            "en": "Multiple GPUs: share of the model on each GPU, as proportions such as 30,70.",
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
        {"en": "Row split", "zh": "行分割"},
        {
            "en": "Multiple GPUs: split every layer by rows instead of giving each GPU whole layers.",
            "zh": "多 GPU：按行拆分每一层，而不是让每个 GPU 分担整层。",
        },
        group="memory",
    ),
    Option(
        "rpc",
        "rpc",
        "",
        {"en": "Other machines (RPC)", "zh": "远程节点（RPC）"},
        {
            "en": "RPC nodes that take GPU layers, as host:port. No encryption, no password: for trusted networks.",
            "zh": "分担 GPU 层的 RPC 节点，格式为 主机:端口，用逗号分隔。没有加密和验证，仅限可信网络。",
        },
        pattern=rf"{_NODE}( *, *{_NODE})*",
        example="192.168.1.20:50052, 192.168.1.21:50052",
        excess=_excess_nodes,
        group="memory",
        set_by="owner",
    ),
    Option(
        "no_offload_kqv",
        "no_offload_kqv",
        False,
        {"en": "Keep the KV cache in RAM", "zh": "不卸载 KV 缓存"},
        {
            "en": "Keep the KV cache in RAM. Saves VRAM but is slower.",
            "zh": "将 KV 缓存留在内存中。节省显存，但速度变慢。",
        },
        group="memory",
    ),
    shared.CACHE_8BIT,
    shared.CACHE_4BIT,
    Option(
        "no_mmap",
        "no-mmap",
        False,
        {"en": "No memory mapping", "zh": "不使用内存映射"},
        {
            "en": "Read the whole model into RAM instead of mapping it. Slower to load, no disk reads afterwards.",
            "zh": "一次性将整个模型读入内存。加载较慢，但之后不再读取磁盘。",
        },
        group="memory",
    ),
    Option(
        "mlock",
        "mlock",
        False,
        {"en": "Lock in RAM", "zh": "内存锁定"},
        {
            "en": "Lock the model in RAM so that it is never swapped out.",
            "zh": "将模型锁定在内存中，禁止系统将其换出到磁盘。",
        },
        group="memory",
    ),
    Option(
        "numa",
        "numa",
        False,
        {"en": "NUMA", "zh": "NUMA"},
        {
            "en": "Distribute threads and memory over the NUMA nodes. May be faster on multi-socket machines.",
            "zh": "按 NUMA 节点分配线程和内存。在多处理器机器上可能更快。",
        },
        group="memory",
    ),
    shared.ALPHA_VALUE,
    shared.ROPE_FREQ_BASE,
    shared.COMPRESS_POS_EMB,
    Option(
        "streaming_llm",
        "streaming-llm",
        False,
        {"en": "StreamingLLM", "zh": "StreamingLLM"},
        {
            "en": "Experimental: do not reprocess the prompt when old messages are removed from a full context.",
            "zh": "实验性：上下文已满、旧消息被移除时，不必重新处理其余内容。",
        },
        group="context",
    ),
    Option(
        "attention_sink_size",
        "attention-sink-size",
        5,
        {"en": "Attention sink size", "zh": "注意力池大小"},
        {
            "en": "With StreamingLLM: number of tokens at the start that are always kept.",
            "zh": "配合 StreamingLLM：开头始终保留的词符数。",
        },
        minimum=0,
        group="context",
    ),
    Option(
        "threads_batch",
        "threads-batch",
        0,
        {"en": "Batch threads", "zh": "批处理线程数"},
        {
            "en": "CPU threads for prompt processing; 0 = automatic. Recommended: all logical cores.",
            "zh": "处理提示词时使用的线程数；0 表示自动。建议设为全部核心数（含虚拟核心）。",
        },
        minimum=0,
        maximum=512,
        step=1,
        group="advanced",
    ),
    Option(
        "n_batch",
        "n_batch",
        512,
        {"en": "Batch size", "zh": "批处理大小"},
        {
            "en": "Prompt tokens processed per step. Larger may be faster but takes more memory.",
            "zh": "每一步处理的提示词词符数。调高可能更快，但占用更多内存。",
        },
        minimum=1,
        maximum=2048,
        step=1,
        group="advanced",
    ),
)

_IGNORED = (
    Option(
        "tensorcores",
        "tensorcores",
        False,
        {"en": "Tensor cores", "zh": "Tensor Core"},
        {
            "en": "No effect: CUDA builds of llama.cpp always use tensor cores. Kept for old settings files.",
            "zh": "已无作用：llama.cpp 的 CUDA 版本会自动使用 Tensor Core。仅为兼容旧设置而保留。",
        },
        group="obsolete",
    ),
    Option(
        "no_mul_mat_q",
        "no_mul_mat_q",
        False,
        {"en": "No mul_mat_q", "zh": "禁用 mul_mat_q"},
        {
            "en": "No effect: llama.cpp chooses its kernels itself. Kept for old settings files.",
            "zh": "已无作用：llama.cpp 会自行选择内核。仅为兼容旧设置而保留。",
        },
        group="obsolete",
    ),
)

LLAMACPP = (
    *_LIBRARY,
    Option(
        "mmproj",
        "mmproj",
        "",
        {"en": "Vision part (mmproj)", "zh": "视觉部分（mmproj）"},
        {
            "en": "File with which the model reads images, in its folder. Found automatically; none = text only.",
            "zh": "模型识别图片所需的文件，须与模型放在同一文件夹，通常会自动找到。填 none 则只用文字。",
        },
        pattern=r"none|[^/\\]+\.gguf",
        example="mmproj-model-f16.gguf",
        group="advanced",
    ),
    Option(
        "model_draft",
        "model-draft",
        "",
        {"en": "Draft model", "zh": "草稿模型"},
        {
            "en": "A small GGUF model with the same vocabulary, in the models folder. Used only where it is faster.",
            "zh": "模型文件夹中词表相同的小型 GGUF 模型。由它先预测、大模型检验，仅在更快时采用。",
        },
        pattern=r"[^/\\]+(/[^/\\]+)*\.gguf",
        example="Qwen2.5-0.5B-Instruct-Q8_0.gguf",
        excess=_outside_models,
        group="advanced",
    ),
    Option(
        "draft_max",
        "draft-max",
        4,
        {"en": "Draft tokens", "zh": "草稿词符数"},
        {
            "en": "Maximum number of tokens drafted at once.",
            "zh": "草稿模型每次最多预测的词符数。",
        },
        minimum=1,
        maximum=16,
        step=1,
        group="advanced",
    ),
    Option(
        "gpu_layers_draft",
        "gpu-layers-draft",
        256,
        {"en": "GPU layers of the draft model", "zh": "草稿模型的 GPU 层数"},
        {
            "en": "Number of the draft model's layers to offload to the GPU: 0 = none, 256 = all.",
            "zh": "草稿模型放到 GPU 上的层数：0 表示不使用 GPU，256 表示全部。",
        },
        minimum=-1,
        maximum=256,
        step=1,
        group="advanced",
    ),
    Option(
        "ctx_size_draft",
        "ctx-size-draft",
        0,
        {"en": "Context of the draft model", "zh": "草稿模型的上下文长度"},
        {
            "en": "The draft model's context length in tokens; longer conversations get no drafts. 0 = the model's.",
            "zh": "草稿模型的上下文长度（词符数），更长的对话不使用草稿。0 表示与大模型相同。",
        },
        minimum=0,
        maximum=1 << 20,
        group="advanced",
    ),
    Option(
        "parallel",
        "parallel",
        USUAL_PARALLEL,
        {"en": "Parallel requests", "zh": "并行请求数"},
        {
            "en": "Number of requests decoded at the same time; further requests are queued.",
            "zh": "可同时生成的回复数，超出的请求将排队等待。",
        },
        minimum=1,
        maximum=64,
        step=1,
        group="advanced",
    ),
    Option(
        "kv_unified",
        "kv-unified",
        AUTO,
        {"en": "Shared KV cache", "zh": "共用 KV 缓存"},
        {
            "en": "off = a KV cache for each request: faster with many, more memory. "
            "auto = off for more than 4 if memory allows.",
            "zh": "off：每个请求各有一份缓存，多人时更快、更占内存。auto：并行数大于 4 且内存充裕时为 off。",
        },
        choices=(AUTO, ON, OFF),
        group="advanced",
    ),
    *_IGNORED,
)

LLAMACPP_HF = (
    *_LIBRARY,
    shared.CFG_CACHE,
    Option(
        "logits_all",
        "logits_all",
        False,
        {"en": "Logits of all tokens", "zh": "计算所有词符的 logits"},
        {
            "en": "Not needed: perplexity is evaluated without it. Kept for settings of text-generation-webui.",
            "zh": "无需勾选：评估困惑度不再依赖此项。为兼容 text-generation-webui 的设置而保留。",
        },
        group="advanced",
    ),
    *_IGNORED,
    *shared.TOKENIZER,
)
