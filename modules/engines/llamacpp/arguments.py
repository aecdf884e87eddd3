"""Translate load options into llama.cpp's calls, without importing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from modules.core.events import Json
from modules.core.paths import ROOT
from modules.engines.llamacpp.draft_arguments import draft_calls
from modules.options.load_llamacpp import OFF, rpc_nodes
from modules.options.option import Value
from modules.system import cpu_memory, thread_count

# Values of llama.h's and ggml.h's enums, as of llama.cpp in llama-cpp-python 0.3.36.
LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}  # by (mmap, mlock)
SPLIT_LAYERS, SPLIT_ROWS = 1, 2
CACHE_F16, CACHE_Q4_0, CACHE_Q8_0 = 1, 2, 8
NUMA_DISTRIBUTE = 1
GPU_UBATCH = 512
CPU_UBATCH = 256
"""The fastest prefill of 64 to 512, and an interrupted step loses less (benchmarks/README.md)."""
ALL_LAYERS = 256
"""The end of the slider of n_gpu_layers, which stands for all layers, as any negative number does."""
MAX_CPUS = 512
"""The length of a thread pool's CPU mask, GGML_MAX_N_THREADS."""
DEFAULT_SINK_SIZE = 5
OVERLAY = ROOT / "overlays" / "llamacpp"
RPC_LIBRARY = ROOT / "overlays" / "rpc" / "libggml-rpc.so"
"""The RPC backend, which is compiled into an overlay of its own and loaded into any build of llama.cpp."""
ADD_NODES = "ggml_backend_rpc_add_server"
DRAFT = "draft"
"""The name under which the calls have those of the draft model."""
NO_PROJECTOR = "none"
"""The value of `mmproj` that leaves out a vision part which is beside the model."""

Options = Mapping[str, Value]


@dataclass(frozen=True)
class Build:
    """Describe what the installed library can do on this machine."""

    gpu_offload: bool
    max_devices: int
    repacks: bool = True
    """Whether weights may be repacked into the CPU's "extra" buffers. Without them, many types lose faster kernels."""


def arguments(path: Path, options: Options, build: Build) -> dict[str, Json]:
    """Return the calls that load `path`, in order, by their names in llama.h, with what differs from the defaults."""
    calls: dict[str, Json] = {}
    if options["numa"]:
        calls["llama_numa_init"] = {"numa": NUMA_DISTRIBUTE}
    if names := nodes(options):
        calls["ggml_backend_load"] = {"path": str(RPC_LIBRARY)}
        calls[ADD_NODES] = {"endpoint": list(names)}
    calls["llama_model_load_from_file"] = {"path_model": str(path), **_model(options)}
    if not build.repacks:
        calls["llama_model_load_from_file"]["use_extra_bufts"] = False
    calls["llama_init_from_model"] = _context(options, build)
    if name := projector(options):
        gpu = build.gpu_offload and vision_on_gpu(options)
        threads = calls["llama_init_from_model"]["n_threads_batch"]
        calls["mtmd_init_from_file"] = {"mmproj_fname": name, "use_gpu": gpu, "n_threads": threads}
    if options["streaming_llm"]:  # not while loading, but whenever old messages have been dropped
        calls["llama_memory_seq_add"] = {"attention_sink_size": int(options["attention_sink_size"])}
    if draft := draft_calls(path, options, calls):
        calls[DRAFT] = draft
    return calls


def _model(options: Options) -> dict[str, Json]:
    args: dict[str, Json] = {
        "n_gpu_layers": gpu_layers(options),
        "load_mode": LOAD_MODES[not options["no_mmap"], bool(options["mlock"])],
        "split_mode": SPLIT_ROWS if options["row_split"] and not nodes(options) else SPLIT_LAYERS,
    }
    if shares := tensor_split(options):
        args["tensor_split"] = shares
    if options["cpu"]:
        args["devices"] = []
    return args


def _context(options: Options, build: Build) -> dict[str, Json]:
    n_batch, n_ubatch = batch_sizes(options, offloads(options, build))
    args: dict[str, Json] = {
        "n_ctx": int(options["n_ctx"]) * stream_count(options),
        "n_batch": n_batch,
        "n_ubatch": n_ubatch,
        "n_seq_max": slot_count(options),
        "kv_unified": stream_count(options) == 1,
        "n_threads": int(options["threads"]) or thread_count.default_threads(),
        "n_threads_batch": int(options["threads_batch"]) or cpu_memory.logical_cores(),
        "flash_attn_type": int(flash_attention(options)),
        "offload_kqv": not options["no_offload_kqv"],
        "op_offload": not options["cpu"],
        **_rope(options),
    }
    if cache_type(options) != CACHE_F16:
        args |= {"type_k": cache_type(options), "type_v": cache_type(options)}
    return args


# -- what the options mean: the memory estimate reads these, too -------------------------------------------------------


def gpu_layers(options: Options) -> int:
    """Return how many layers go to GPUs, counting the output as one; -1 for all."""
    if options["cpu"]:
        return 0
    layers = int(options["n_gpu_layers"])
    return -1 if layers < 0 or layers >= ALL_LAYERS else layers


def nodes(options: Options) -> tuple[str, ...]:
    """Return the RPC nodes that get layers, as host:port. Their devices stand before the GPUs of this machine."""
    return rpc_nodes(str(options.get("rpc", ""))) if gpu_layers(options) else ()


def offloads(options: Options, build: Build) -> bool:
    """Whether layers go to GPUs or to other machines."""
    return bool(nodes(options)) or (build.gpu_offload and gpu_layers(options) != 0)


def vision_on_gpu(options: Options) -> bool:
    """Whether the vision part goes to a GPU, if there is one. It would go to the first node, where there are any."""
    return gpu_layers(options) != 0 and not nodes(options)


def tensor_split(options: Options) -> list[float]:
    """Return each device's share of the layers, in any unit; if empty, llama.cpp goes by their free memory."""
    return [float(share) for share in str(options["tensor_split"]).split(",")] if options["tensor_split"] else []


def projector(options: Options) -> str:
    """Return the name of the file with the vision part, which is beside the model; "" for none."""
    name = str(options.get("mmproj", ""))
    return "" if name.lower() == NO_PROJECTOR else name


def slot_count(options: Options) -> int:
    return int(options.get("parallel", 1))


def stream_count(options: Options) -> int:
    """Return how many KV caches of n_ctx tokens there are: one that all requests share, or one for each request.

    "auto" stands for one; before a load, the planner replaces it where memory is plentiful.
    """
    return slot_count(options) if options.get("kv_unified") == OFF else 1


def batch_sizes(options: Options, on_gpu: bool) -> tuple[int, int]:
    """Return n_batch and n_ubatch: the tokens of a step, and those that llama.cpp computes at once.

    Some models look at a picture in all directions, so it must be computed at once, as far as n_batch allows.
    """
    n_batch = max(int(options["n_batch"]), slot_count(options) + 1)  # a token of each request, and one of a prompt
    return n_batch, n_batch if projector(options) else min(n_batch, GPU_UBATCH if on_gpu else CPU_UBATCH)


def cache_type(options: Options) -> int:
    if options["cache_4bit"]:
        return CACHE_Q4_0
    return CACHE_Q8_0 if options["cache_8bit"] else CACHE_F16


def flash_attention(options: Options) -> bool:
    """Whether flash attention is on, without which llama.cpp has no quantized KV cache."""
    return bool(options["flash_attn"]) or cache_type(options) != CACHE_F16


# -- threads and positions ---------------------------------------------------------------------------------------------


def thread_counts(calls: Mapping[str, Json], cores: Sequence[Sequence[int]], workers: int = 1) -> tuple[int, int]:
    """Return the numbers of threads that decode and that prefill: those of `calls`.

    Where several `workers` share the cores of the machine, `cores` are the part of this one. It then has its part of
    these numbers, at most one thread that decodes for each core, and one that prefills for each logical CPU.
    """
    context = calls["llama_init_from_model"]
    decoding, prefilling = (-(-int(context[name]) // workers) for name in ("n_threads", "n_threads_batch"))
    if workers == 1:
        return decoding, prefilling
    return min(decoding, len(cores)), min(prefilling, sum(len(core) or 1 for core in cores))


def bound_cpus(
    calls: Mapping[str, Json], cores: Sequence[Sequence[int]], counts: tuple[int, int], least: int = MAX_CPUS
) -> tuple[list[int], list[int]]:
    """Return the logical CPUs of the threads that decode and of those that prefill, one CPU per thread.

    `cores` holds the logical CPUs of each core, `counts` are the numbers of threads. Both lists are empty where binding
    would not help: the scheduler does better if the threads leave one of the first `least` cores free, or if there are
    more threads than CPUs; under `numa`, ggml binds the threads itself. Nor can ggml's mask name a CPU whose number is
    MAX_CPUS or more.
    """
    order = [cpu for nth_cpus in zip_longest(*cores) for cpu in nth_cpus if cpu is not None]  # second hyperthreads last
    fits = max(order, default=0) < MAX_CPUS
    least = min(least, len(cores))
    if not fits or "llama_numa_init" in calls or any(not least <= count <= len(order) for count in counts):
        return [], []
    decoding, prefilling = (order[:count] for count in counts)
    return decoding, prefilling


def _rope(options: Options) -> dict[str, float]:
    """Return the RoPE arguments. alpha_value raises the frequency base as NTK-aware scaling does for heads of 128."""
    args = {}
    base, alpha = float(options["rope_freq_base"]), float(options["alpha_value"])
    if alpha > 1:
        base = (base or 10000.0) * alpha ** (64 / 63)
    if base:
        args["rope_freq_base"] = base
    if float(options["compress_pos_emb"]) > 1:
        args["rope_freq_scale"] = 1 / float(options["compress_pos_emb"])
    return args
