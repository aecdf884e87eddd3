"""From load options to llama.cpp's calls: pure, so that it can be shown and tested without the library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from modules.core.events import Json, Note
from modules.options.option import Value
from modules.system import cpu_memory

# Values of llama.h's and ggml.h's enums, as of llama.cpp in llama-cpp-python 0.3.36.
LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}  # by (mmap, mlock)
SPLIT_LAYERS, SPLIT_ROWS = 1, 2
CACHE_F16, CACHE_Q4_0, CACHE_Q8_0 = 1, 2, 8
NUMA_DISTRIBUTE = 1
UBATCH = 512
CPU_UBATCH = (
    256  # read a prompt fastest of 64 to 512, and less is lost when a step is broken off (benchmarks/README.md)
)
ALL_LAYERS = 256  # the slider's end: "everything"
MAX_CPUS = 512  # the length of a thread pool's mask, GGML_MAX_N_THREADS
USUAL_SINKS = 5  # the default of attention_sink_size, of which nothing need be said


@dataclass(frozen=True)
class Build:
    """What the installed library was compiled with."""

    gpu_offload: bool
    max_devices: int
    amx: bool = False

    @property
    def repacks(self) -> bool:
        """Whether weights may be moved to the CPU's "extra" buffers.

        Not in a build with AMX: its matrix multiplication dies (SIGSEGV at `ldtilecfg`, in the first batch of several
        tokens) on virtual machines that show AMX but do not let it be used. Seen with llama-cpp-python 0.3.36;
        https://github.com/ggml-org/llama.cpp/issues/20824. The cost: Q4_0 and its like lose their faster kernels.
        """
        return not self.amx


def arguments(path: Path, options: Mapping[str, Value], build: Build) -> dict[str, Json]:
    """The calls that load `path`, in order, by the names of llama.h: exactly what is passed, less library defaults."""
    calls: dict[str, Json] = {}
    if options["numa"]:
        calls["llama_numa_init"] = {"numa": NUMA_DISTRIBUTE}
    calls["llama_model_load_from_file"] = {"path_model": str(path), **_model(options)}
    if not build.repacks:
        calls["llama_model_load_from_file"]["use_extra_bufts"] = False
    calls["llama_init_from_model"] = _context(options, build)
    if options["streaming_llm"]:  # not when loading, but whenever old messages have been dropped
        calls["llama_memory_seq_add"] = {"attention_sink_size": int(options["attention_sink_size"])}
    return calls


def _model(options: Mapping[str, Value]) -> dict[str, Json]:
    layers = int(options["n_gpu_layers"])
    args: dict[str, Json] = {
        "n_gpu_layers": -1 if layers >= ALL_LAYERS else layers,
        "load_mode": LOAD_MODES[not options["no_mmap"], bool(options["mlock"])],
        "split_mode": SPLIT_ROWS if options["row_split"] else SPLIT_LAYERS,
    }
    if options["tensor_split"]:
        args["tensor_split"] = [float(share) for share in str(options["tensor_split"]).split(",")]
    if options["cpu"]:
        args |= {"n_gpu_layers": 0, "devices": []}
    return args


def _context(options: Mapping[str, Value], build: Build) -> dict[str, Json]:
    slots = int(options.get("parallel", 1))
    n_batch = max(int(options["n_batch"]), slots + 1)  # a step has a token of each answer, and something of a prompt
    on_gpu = build.gpu_offload and not options["cpu"] and int(options["n_gpu_layers"]) != 0
    args: dict[str, Json] = {
        "n_ctx": int(options["n_ctx"]),
        "n_batch": n_batch,
        "n_ubatch": min(n_batch, UBATCH if on_gpu else CPU_UBATCH),
        "n_seq_max": slots,
        "kv_unified": True,
        "n_threads": int(options["threads"]) or cpu_memory.physical_cores(),
        "n_threads_batch": int(options["threads_batch"]) or cpu_memory.logical_cores(),
        "flash_attn_type": int(_flash_attn(options)),
        "offload_kqv": not options["no_offload_kqv"],
        "op_offload": not options["cpu"],
        **_rope(options),
    }
    if _cache_type(options) != CACHE_F16:
        args |= {"type_k": _cache_type(options), "type_v": _cache_type(options)}
    return args


def bound_cpus(calls: Mapping[str, Json], cores: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The logical CPUs for the threads that decode and for those that read prompts, one CPU a thread.

    `cores` holds the logical CPUs of each core. Both lists are empty where binding would be of no use or do harm: if
    the threads leave a core free, the scheduler does better, and so it does if there are more threads than CPUs; under
    `numa`, ggml places the threads itself. Nor can ggml name a CPU whose number is MAX_CPUS or more.
    """
    context = calls["llama_init_from_model"]
    counts = (int(context["n_threads"]), int(context["n_threads_batch"]))
    order = [cpu for nth in zip_longest(*cores) for cpu in nth if cpu is not None]  # a second hyperthread comes last
    fits = max(order, default=0) < MAX_CPUS
    if not fits or "llama_numa_init" in calls or any(not len(cores) <= count <= len(order) for count in counts):
        return [], []
    decoding, reading = (order[:count] for count in counts)
    return decoding, reading


def _rope(options: Mapping[str, Value]) -> dict[str, float]:
    """alpha_value stretches the frequency base, the model's own or the one given, as NTK-aware scaling does."""
    args = {}
    base, alpha = float(options["rope_freq_base"]), float(options["alpha_value"])
    if alpha > 1:
        base = (base or 10000.0) * alpha ** (64 / 63)
    if base:
        args["rope_freq_base"] = base
    if float(options["compress_pos_emb"]) > 1:
        args["rope_freq_scale"] = 1 / float(options["compress_pos_emb"])
    return args


def _cache_type(options: Mapping[str, Value]) -> int:
    if options["cache_4bit"]:
        return CACHE_Q4_0
    return CACHE_Q8_0 if options["cache_8bit"] else CACHE_F16


def _flash_attn(options: Mapping[str, Value]) -> bool:
    return bool(options["flash_attn"]) or _cache_type(options) != CACHE_F16


CANNOT_SHIFT = Note(
    "streaming_llm",
    {
        "en": "No effect: what this model has evaluated cannot be moved to other positions.",
        "zh": "无效：此模型已处理的内容无法移动到其他位置。",
    },
)
"""To be said of a model that turns out to be so."""


def notes(options: Mapping[str, Value], build: Build) -> Iterator[Note]:
    """What is said of each option that does not do here what its name promises."""
    if _flash_attn(options) and not options["flash_attn"]:
        yield Note(
            "flash_attn",
            {
                "en": "Turned on: llama.cpp keeps a quantised cache only with flash attention.",
                "zh": "已自动开启：llama.cpp 只有在启用 flash attention 时才支持量化缓存。",
            },
        )
    if options["cache_4bit"] and options["cache_8bit"]:
        yield Note(
            "cache_8bit", {"en": "Not used: the 4-bit cache takes precedence.", "zh": "未使用：以 4 位缓存为准。"}
        )
    yield from _gone(options)
    yield from _alone(options)
    if not build.gpu_offload:
        yield from _without_gpu(options)
    yield from _split(options, build)


def _gone(options: Mapping[str, Value]) -> Iterator[Note]:
    if options["no_mul_mat_q"]:
        yield Note(
            "no_mul_mat_q",
            {
                "en": "No effect: llama.cpp has removed this switch and chooses its kernels itself.",
                "zh": "无效：llama.cpp 已移除此开关，由其自行选择内核。",
            },
        )
    if options["tensorcores"]:
        yield Note(
            "tensorcores",
            {
                "en": "No effect: llama.cpp has no separate tensor-core build any more; a CUDA build uses them.",
                "zh": "无效：已不再有单独的 tensor cores 版本；CUDA 版本会自动使用。",
            },
        )


def _alone(options: Mapping[str, Value]) -> Iterator[Note]:
    if int(options["attention_sink_size"]) != USUAL_SINKS and not options["streaming_llm"]:
        yield Note(
            "attention_sink_size",
            {
                "en": "No effect: it belongs to streaming_llm, which is off.",
                "zh": "无效：它属于 streaming_llm，而该选项未启用。",
            },
        )


def _without_gpu(options: Mapping[str, Value]) -> Iterator[Note]:
    text = {
        "en": "No effect: the installed llama-cpp-python was built without GPU support.",
        "zh": "无效：所安装的 llama-cpp-python 编译时未启用 GPU 支持。",
    }
    wanted = ("n_gpu_layers", "tensor_split", "row_split", "no_offload_kqv")
    for key in wanted:
        if options[key]:
            yield Note(key, text)


def _split(options: Mapping[str, Value], build: Build) -> Iterator[Note]:
    count = len(str(options["tensor_split"]).split(","))
    if options["tensor_split"] and build.gpu_offload and count > build.max_devices:
        yield Note(
            "tensor_split",
            {
                "en": f"Only the first {build.max_devices} shares are used: the library knows no more devices.",
                "zh": f"仅使用前 {build.max_devices} 项：该库最多支持这么多设备。",
            },
        )
