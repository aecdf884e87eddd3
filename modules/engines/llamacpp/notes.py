"""Notes on llama.cpp options that have no effect, or another one than their names suggest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modules.core.events import Note
from modules.engines.llamacpp.arguments import (
    DEFAULT_SINK_SIZE,
    Build,
    Options,
    flash_attention,
    nodes,
    stream_count,
    tensor_split,
)
from modules.system import thread_count

DRAFT_DEFAULTS = {"draft_max": 4, "gpu_layers_draft": 256, "ctx_size_draft": 0}
CANNOT_SHIFT_NOTE = Note(
    "streaming_llm",
    {
        "en": "No effect: this model's KV cache cannot be shifted to other positions.",
        "zh": "无效：此模型的 KV 缓存无法移动到其他位置。",
    },
)
"""The engine adds it if the loaded model turns out to need it."""
_UNUSED_AMX = Note(
    "threads_batch",
    {
        "en": "Slower than it could be: the installed llama.cpp was compiled for this processor's AMX, but fails when "
        "it is tried. Delete overlays/llamacpp and run python server.py --install llama.cpp to compile it anew.",
        "zh": "速度未达最佳：所安装的 llama.cpp 编译时启用了 AMX，但试运行失败，因此未使用。"
        "删除 overlays/llamacpp 后运行 python server.py --install llama.cpp 可重新编译。",
    },
)


def notes(path: Path, options: Options, build: Build) -> Iterator[Note]:
    if flash_attention(options) and not options["flash_attn"]:
        yield Note(
            "flash_attn",
            {
                "en": "Turned on: llama.cpp supports a quantized KV cache only with flash attention.",
                "zh": "已自动开启：llama.cpp 只有在启用 flash attention 时才支持量化缓存。",
            },
        )
    if options["cache_4bit"] and options["cache_8bit"]:
        yield Note(
            "cache_8bit", {"en": "Not used: the 4-bit cache takes precedence.", "zh": "未使用：以 4 位缓存为准。"}
        )
    yield from _removed(options)
    yield from _sinks(options)
    yield from _streams(options)
    yield from _threads(options)
    yield from _draft(options)
    yield from _rpc(options)
    if not build.repacks:
        yield _UNUSED_AMX
    if not build.gpu_offload and not nodes(options):
        yield from _without_gpu(options)
    yield from _split(options, build)


def _streams(options: Options) -> Iterator[Note]:
    if (count := stream_count(options)) > 1:
        yield Note(
            "kv_unified",
            {
                "en": f"Each of the {count} requests has a KV cache of its own: "
                f"{count} times the memory of one, and fast with many at once.",
                "zh": f"{count} 个请求各用一份 KV 缓存：内存占用为共用时的 {count} 倍，多人同时使用时更快。",
            },
        )


def _threads(options: Options) -> Iterator[Note]:
    rates = {} if options["threads"] else thread_count.remembered()
    if rates:
        listed = ", ".join(f"{count}: {rate:.1f}" for count, rate in rates.items())
        count = thread_count.fastest(rates)
        yield Note(
            "threads",
            {
                "en": f"Automatic: {count}, as measured on this machine (tokens a second by threads: {listed}).",
                "zh": f"自动：{count}，依据本机实测（线程数与每秒词符数：{listed}）。",
            },
        )


def _removed(options: Options) -> Iterator[Note]:
    if options["no_mul_mat_q"]:
        yield Note(
            "no_mul_mat_q",
            {
                "en": "No effect: llama.cpp has removed this option and chooses its kernels itself.",
                "zh": "无效：llama.cpp 已移除此开关，由其自行选择内核。",
            },
        )
    if options["tensorcores"]:
        yield Note(
            "tensorcores",
            {
                "en": "No effect: llama.cpp no longer has a separate build for tensor cores; any CUDA build uses them.",
                "zh": "无效：llama.cpp 不再提供单独的 tensor cores 版本；CUDA 版本会自动使用。",
            },
        )


def _sinks(options: Options) -> Iterator[Note]:
    if int(options["attention_sink_size"]) != DEFAULT_SINK_SIZE and not options["streaming_llm"]:
        yield Note(
            "attention_sink_size",
            {
                "en": "No effect without streaming_llm.",
                "zh": "无效：仅在“StreamingLLM”启用时生效。",
            },
        )


def _draft(options: Options) -> Iterator[Note]:
    for key in DRAFT_DEFAULTS if options.get("model_draft") == "" else ():  # llamacpp_HF has no drafts
        if options[key] != DRAFT_DEFAULTS[key]:
            yield Note(key, {"en": "No effect without model_draft.", "zh": "无效：仅在设置“草稿模型”时生效。"})


def _rpc(options: Options) -> Iterator[Note]:
    if not options["rpc"]:
        return
    if not nodes(options):
        yield Note(
            "rpc",
            {
                "en": "No effect: nothing goes to other machines while n_gpu_layers is 0 or cpu is on. -1 sends all "
                "layers.",
                "zh": "无效：“GPU 层数”为 0 或勾选“仅用 CPU”时，没有任何层交给远程节点。设为 -1 则全部交给节点。",
            },
        )
        return
    yield Note(
        "rpc",
        {
            "en": "For models that do not fit into this machine: any other one gets slower. Prompts reach the nodes "
            "unencrypted. In tensor_split, nodes come before this machine's GPUs.",
            "zh": "适用于本机装不下的模型，否则只会更慢。提示词以明文发给节点；“张量分割”中节点排在本机 GPU 之前。",
        },
    )
    if options["row_split"]:
        yield Note(
            "row_split",
            {
                "en": "Not used: RPC nodes can only take whole layers.",
                "zh": "未使用：RPC 节点只能承担整层。",
            },
        )


def _without_gpu(options: Options) -> Iterator[Note]:
    text = {
        "en": "No effect: the installed llama-cpp-python was built without GPU support.",
        "zh": "无效：所安装的 llama-cpp-python 编译时未启用 GPU 支持。",
    }
    for key in ("n_gpu_layers", "tensor_split", "row_split", "no_offload_kqv"):
        if options[key]:
            yield Note(key, text)


def _split(options: Options, build: Build) -> Iterator[Note]:
    if build.gpu_offload and len(tensor_split(options)) > build.max_devices:
        yield Note(
            "tensor_split",
            {
                "en": f"Only the first {build.max_devices} values are used: llama.cpp supports no more devices.",
                "zh": f"仅使用前 {build.max_devices} 项：llama.cpp 不支持更多设备。",
            },
        )


def unusable_projector_note(file: str, reason: str) -> Note:
    """Return the note that a vision part was not loaded."""
    return Note(
        "mmproj",
        {
            "en": f"Images are off: {file} cannot be used with this model. {reason}",
            "zh": f"不支持图片：{file} 无法用于此模型。{reason}",
        },
    )


def no_library_note() -> Note:
    """Return the note that the installed library has no mtmd."""
    return Note(
        "mmproj",
        {
            "en": "Images are off: the installed llama-cpp-python was built without mtmd. "
            "python server.py --install llama.cpp installs one that has it.",
            "zh": "不支持图片：所安装的 llama-cpp-python 编译时未包含 mtmd。"
            "运行 python server.py --install llama.cpp 可重新安装。",
        },
    )


def unusable_draft_note(model: str, draft: str, reason: str, reason_zh: str) -> Note:
    """Return the note that a draft model was not loaded."""
    return Note(
        "model_draft",
        {
            "en": f"Not used: {draft} cannot draft for {model}: {reason.rstrip('.')}.",
            "zh": f"未使用：{draft} 不能为 {model} 起草：{reason_zh.rstrip('。')}。",
        },
    )
