"""How much memory a GGUF model takes once llama.cpp has loaded it with given options, told from its header alone.

What is counted is the worker's peak (VmHWM) after a prompt that fills the context, less that of a worker which has only
imported the library: what loading adds. Conversations set aside in main memory come on top. Where llama.cpp
rearranges the weights for the processor (Q4_0, Q4_K and others on most; not those of Q4_1), VmHWM has the mapped file
besides: not counted, for the system takes it back when asked to.

Source: llama_kv_cache, llama_context::sched_reserve and ggml_graph_plan of llama.cpp as in llama-cpp-python 0.3.36;
how much of it is touched, and what the rest of the process takes, was measured (benchmarks/estimate.py). Which layers
go to which GPU is told by llama_model::load_tensors; with GPUs nothing was measured.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from modules.formats.gguf_header import GgufHeader
from modules.options.option import Value

PAD = 256
"""llama.cpp rounds a context up to a multiple of this."""

_CELL_BYTES = {"f16": Fraction(2), "q8_0": Fraction(34, 32), "q4_0": Fraction(18, 32)}  # of one element
_FLOAT, _HALF = 4, 2  # bytes

# As `modules.engines.llamacpp.arguments` decides, which only the worker may import; a test holds them together.
_CPU_UBATCH, _GPU_UBATCH = 256, 512

# Measured: least squares (of relative errors, up to 19 %) over 15 vocabularies, and the grid of benchmarks/estimate.py.
_TOKEN_BYTES, _MERGE_BYTES = 159, 150  # of the vocabulary: a token's texts and tables, the rank of a pair
_POSITION_BYTES = 600  # who is in a cell, and the token's numbers in Python and JSON
_REST_BYTES = 5_000_000  # graphs, buffers of the threads, pages of the libraries that an idle worker does not touch
_TORCH_BYTES = 219_000_000  # torch and transformers, which llamacpp_HF's worker imports besides
_GPU_BYTES = 400 << 20  # a context of CUDA with its kernels: 300 to 500 MiB, as people report; not measured here

_ALL_LAYERS = 256  # of n_gpu_layers: "everything", as is any negative number
_IN_MAIN_MEMORY = {
    "token_embd",
    "position_embd",
    "token_types",
    "per_layer_token_embd",
}  # read by the processor, always
_MOST_LAYERS = 1024  # twice LLAMA_MAX_LAYERS; a damaged header may claim billions
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_BOTH = {"falcon-h1"}  # each layer has a state and keys
_CACHING_LAYERS = {"gemma3n": 20}  # all further layers read theirs; llama.cpp knows this by name, not from the file


@dataclass(frozen=True)
class Estimate:
    """Bytes: of the file, of what is kept of every token, of the buffers to compute in, of everything else.

    `spare` are those among them that the system takes back when asked to: pages of files that nobody needs any more.
    """

    weights: int
    cache: int
    compute: int
    other: int
    spare: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.other

    @property
    def needed(self) -> int:
        """Without which it cannot be."""
        return self.total - self.spare


@dataclass(frozen=True)
class _Context:
    """What becomes of the options: cells of a cache and how many caches, tokens in a step, answers at once, how
    elements are kept."""

    cells: int
    caches: int
    ubatch: int
    slots: int
    cell_type: str
    flash: bool
    offloaded: bool


def estimate(header: GgufHeader, options: Mapping[str, Value]) -> Estimate:
    """For the load options of llama.cpp or llamacpp_HF, in main memory; `header.size` counts all parts of the model."""
    return placed(header, options)[0]


def placed(header: GgufHeader, options: Mapping[str, Value], gpus: Sequence[int] = ()) -> tuple[Estimate, ...]:
    """What main memory will hold, then each GPU; `gpus` are their free bytes, by which llama.cpp splits the layers
    where tensor_split does not say."""
    context = _context(header, options if gpus else {**options, "cpu": True})
    homes = _homes(header, options, gpus)
    kept_in_main = bool(options["no_offload_kqv"])
    devices = range(1 + len(gpus))
    return tuple(
        Estimate(
            weights=_weights(header, homes, device),
            cache=_cache(header, context, [0 if kept_in_main else home for home in homes[:-1]], device),
            compute=_buffers(header, context, homes, device),
            other=_other(header, context) + _libraries(options) if device == 0 else _GPU_BYTES * (device in homes),
        )
        for device in devices
    )


def within(header: GgufHeader, options: Mapping[str, Value], free: Sequence[int]) -> bool:
    """Whether everything fits into `free`: bytes of main memory, then of each GPU."""
    needs = placed(header, options, free[1:])
    return all(need.total <= room for need, room in zip(needs, free, strict=True))


def largest_context(header: GgufHeader, options: Mapping[str, Value], free: Sequence[int]) -> int:
    """The largest n_ctx, in tokens, that is `within` the `free` bytes: a multiple of 256; 0 if not even 256 fits.

    At most what `options` ask for, rounded up as llama.cpp does.
    """
    fits, too_many = 0, _context(header, options).cells // PAD + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if within(header, {**options, "n_ctx": middle * PAD}, free):
            fits = middle
        else:
            too_many = middle
    return fits * PAD


def _context(header: GgufHeader, options: Mapping[str, Value]) -> _Context:
    slots = int(options.get("parallel", 1))
    wish = int(options["n_ctx"]) or header.context_length
    offloaded = int(options["n_gpu_layers"]) != 0 and not options["cpu"]
    cell_type = "q4_0" if options["cache_4bit"] else "q8_0" if options["cache_8bit"] else "f16"
    n_batch = min(max(int(options["n_batch"]), slots + 1), wish)
    return _Context(
        cells=-(-wish // PAD) * PAD,
        caches=2 if options.get("cfg_cache") else 1,
        ubatch=min(n_batch, _GPU_UBATCH if offloaded else _CPU_UBATCH),
        slots=slots,
        cell_type=cell_type,
        flash=bool(options["flash_attn"]) or cell_type != "f16",
        offloaded=offloaded,
    )


def _most(header: GgufHeader, key: str, default: int = 0) -> int:
    """The number at `key`; of one for each layer, the largest. The headers of others may say anything."""
    value = header.numbers.get(key, default)
    return max((0, *value)) if isinstance(value, tuple) else max(value, 0)


def _of(header: GgufHeader, key: str, layer: int, default: int) -> int:
    """The number at `key` that holds for `layer`, of a list or of all."""
    value = header.numbers.get(key, default)
    if isinstance(value, tuple):
        value = value[layer] if layer < len(value) else default
    return max(value, 0)


# -- which memory ---------------------------------------------------------------------------------------------------


def _homes(header: GgufHeader, options: Mapping[str, Value], gpus: Sequence[int]) -> list[int]:
    """Where each layer goes, and last the output: 0 for main memory, 1 for the first GPU. The last layers go first."""
    count = min(header.block_count, _MOST_LAYERS)
    wish = int(options["n_gpu_layers"])
    wish = count + 1 if wish < 0 or wish >= _ALL_LAYERS else min(wish, count + 1)
    if not gpus or options["cpu"]:
        wish = 0
    ends = _shares(str(options["tensor_split"]), gpus) if wish else []
    first = count + 1 - wish
    return [0] * first + [1 + min(bisect_right(ends, place / wish), len(gpus) - 1) for place in range(wish)]


def _shares(tensor_split: str, gpus: Sequence[int]) -> list[float]:
    """Where each GPU's part of the layers ends, the last at 1."""
    wished = [float(share) for share in tensor_split.split(",")] if tensor_split else list(map(float, gpus))
    shares = (wished + [0.0] * len(gpus))[: len(gpus)]
    whole = sum(shares) or 1.0
    return [sum(shares[: number + 1]) / whole for number in range(len(shares))]


def _weights(header: GgufHeader, homes: Sequence[int], device: int) -> int:
    """Bytes of the tensors on `device`. Main memory has what no GPU has, and what surrounds the tensors in the file."""
    on_gpus = [_on(header, homes, each) for each in range(1, max(homes, default=0) + 1)]
    if device:
        return on_gpus[device - 1] if device <= len(on_gpus) else 0
    shared = 0 if _has_output(header) or not homes[-1] else header.sizes.get("token_embd", 0)  # in both memories
    return max(header.size - sum(on_gpus) + shared, 0)


def _on(header: GgufHeader, homes: Sequence[int], gpu: int) -> int:
    layers = sum(header.sizes.get(f"blk.{number}", 0) for number, home in enumerate(homes[:-1]) if home == gpu)
    if homes[-1] != gpu:
        return layers
    rest = sum(
        size for owner, size in header.sizes.items() if not owner.startswith("blk.") and owner not in _IN_MAIN_MEMORY
    )
    return layers + rest + (0 if _has_output(header) else header.sizes.get("token_embd", 0))


def _has_output(header: GgufHeader) -> bool:
    """Whether the output has weights of its own; else it is a second copy of the input's."""
    return "output" in header.sizes


def _cache(header: GgufHeader, context: _Context, homes: Sequence[int], device: int) -> int:
    here = [layer for layer, home in enumerate(homes) if home == device]
    return _kept(header, context, here) + _states(header, context, here)


def _buffers(header: GgufHeader, context: _Context, homes: Sequence[int], device: int) -> int:
    """Bytes to compute in: a graph for whoever has a layer, the chances where the output is."""
    tokens = _most(header, "tokenizer.ggml.tokens")
    graph = _graph(header, context) if device in homes[:-1] else 0
    return graph + (_logits(tokens, context) if homes[-1] == device else 0)


def _other(header: GgufHeader, context: _Context) -> int:
    tokens, merges = _most(header, "tokenizer.ggml.tokens"), _most(header, "tokenizer.ggml.merges")
    return _TOKEN_BYTES * tokens + _MERGE_BYTES * merges + _POSITION_BYTES * context.cells + _REST_BYTES


def _libraries(options: Mapping[str, Value]) -> int:
    """Only one of the two loaders can be asked for a second cache."""
    return _TORCH_BYTES if "cfg_cache" in options else 0


# -- the cache ------------------------------------------------------------------------------------------------------


def _kept(header: GgufHeader, context: _Context, layers: Collection[int]) -> int:
    """Bytes of the keys and values of `layers`. Sliding windows save nothing: llama.h's `swa_full` is on and we leave
    it so."""
    keys = {layer: _width(header, layer, "key") for layer in _attending(header)}
    values = {layer: _width(header, layer, "value") for layer in keys}
    if not context.flash:  # values are then kept transposed, all layers' in the widest's room
        values = dict.fromkeys(values, max(values.values(), default=0))
    width = sum(keys[layer] + values[layer] for layer in layers if layer in keys)
    return int(context.caches * context.cells * width * _CELL_BYTES[context.cell_type])


def _attending(header: GgufHeader) -> Iterator[int]:
    """The layers that have keys and values of their own: not those that read an earlier layer's or have but a state."""
    count = _layers(header) - _most(header, "attention.shared_kv_layers")
    for layer in range(min(count, _CACHING_LAYERS.get(header.architecture, count))):
        if header.architecture in _BOTH or not _recurs(header, layer):
            yield layer


def _layers(header: GgufHeader) -> int:
    """Without those that only guess tokens ahead, which nobody asks for."""
    return min(header.block_count, _MOST_LAYERS) - _most(header, "nextn_predict_layers")


def _recurs(header: GgufHeader, layer: int) -> bool:
    """Whether `layer` keeps a state of fixed size, as all do in recurrent models and most in hybrid ones."""
    if header.architecture in _RECURRENT | _BOTH:
        return True
    if "attention.recurrent_layers" in header.numbers:
        return bool(_of(header, "attention.recurrent_layers", layer, 0))
    if interval := _most(header, "full_attention_interval"):
        return (layer + 1) % interval != 0
    return _state(header) > 0 and not _of(header, "attention.head_count_kv", layer, header.head_count)


def _width(header: GgufHeader, layer: int, which: str) -> int:
    """Elements of the "key" or the "value" of one token in one layer. With latent attention there are but keys."""
    if which == "value" and _most(header, "attention.key_length_mla"):
        return 0
    length = _head(header, which)
    if _of(header, "attention.sliding_window_pattern", layer, 0):
        length = _most(header, f"attention.{which}_length_swa", length)
    return length * _of(header, "attention.head_count_kv", layer, header.head_count)


def _head(header: GgufHeader, which: str = "key") -> int:
    """Elements of the "key" or the "value" of one head."""
    return _most(header, f"attention.{which}_length", header.embedding_length // max(header.head_count, 1))


def _states(header: GgufHeader, context: _Context, layers: Collection[int]) -> int:
    """Bytes of the states that recurrent ones of `layers` keep of each answer, whatever its length."""
    count = sum(_recurs(header, layer) for layer in layers if layer < _layers(header))
    return _FLOAT * _state(header) * count * max(context.slots, context.caches)


def _state(header: GgufHeader) -> int:
    """Elements of one layer's state: of Mamba and its like, of RWKV, of LFM2."""
    convolution, inner = max(_most(header, "ssm.conv_kernel") - 1, 0), _most(header, "ssm.inner_size")
    groups, size = 2 * _most(header, "ssm.group_count"), _most(header, "ssm.state_size")
    wkv, short = _most(header, "wkv.head_size"), max(_most(header, "shortconv.l_cache") - 1, 0)
    shifts = 2 if wkv else 0
    return convolution * (inner + groups * size) + size * inner + header.embedding_length * (wkv + shifts + short)


# -- the buffers ----------------------------------------------------------------------------------------------------


def _graph(header: GgufHeader, context: _Context) -> int:
    """Bytes of the intermediate results of one step: the attention's or, if it is wider, the feed-forward network's."""
    heads, masks = header.head_count, 2 if _most(header, "attention.sliding_window") else 1
    embedding, queries = header.embedding_length, heads * _head(header)
    attention = 3 * embedding + 2 * queries + 2 * (header.head_count_kv or heads) * _head(header)
    network = 4 * embedding + 3 * _network(header)
    if context.flash:
        token = _HALF * masks * context.cells + _FLOAT * max(attention, network)
    else:  # the scores of all heads, and beside the graph once more in 16 bits, to be multiplied with the values
        scores = heads * context.cells
        token = _FLOAT * (masks * context.cells + max(attention + scores, network)) + _HALF * scores
    return context.ubatch * token


def _network(header: GgufHeader) -> int:
    """The width of the feed-forward network; of experts, of all that a token goes to."""
    dense = _most(header, "feed_forward_length")
    expert = _most(header, "expert_feed_forward_length") or dense
    return max(dense, _most(header, "expert_used_count") * expert)


def _logits(tokens: int, context: _Context) -> int:
    """Bytes of the chances of all `tokens`. Room for a whole step's is reserved, which costs main memory nothing."""
    return _FLOAT * tokens * (context.slots + context.ubatch * context.offloaded)
