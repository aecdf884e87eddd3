"""How much memory a GGUF model takes once llama.cpp has loaded it with given options, told from its header alone.

What is counted is the worker's peak (VmHWM) after a prompt that fills the context, less that of a worker which has only
imported the library: what loading adds. Conversations set aside in main memory come on top. With layers on a GPU it is
the sum over main and video memory. Where llama.cpp rearranges the weights for the processor (Q4_0, Q4_K and others on
most; not those of Q4_1), VmHWM has the mapped file besides: not counted, for the system takes it back when asked to.

Source: llama_kv_cache, llama_context::sched_reserve and ggml_graph_plan of llama.cpp as in llama-cpp-python 0.3.36;
how much of it is touched, and what the rest of the process takes, was measured (benchmarks/estimate.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from modules.gguf import GgufHeader
from modules.options import Value

PAD = 256
"""llama.cpp rounds a context up to a multiple of this."""

_CELL_BYTES = {"f16": Fraction(2), "q8_0": Fraction(34, 32), "q4_0": Fraction(18, 32)}  # of one element
_FLOAT, _HALF = 4, 2  # bytes

# As `modules.engines.llamacpp_arguments` decides, which only the worker may import; a test holds them together.
_CPU_UBATCH, _GPU_UBATCH = 256, 512

# Measured: least squares (of relative errors, up to 19 %) over 15 vocabularies, and the grid of benchmarks/estimate.py.
_TOKEN_BYTES, _MERGE_BYTES = 159, 150  # of the vocabulary: a token's texts and tables, the rank of a pair
_POSITION_BYTES = 600  # who is in a cell, and the token's numbers in Python and JSON
_REST_BYTES = 5_000_000  # graphs, buffers of the threads, pages of the libraries that an idle worker does not touch

_MOST_LAYERS = 1024  # twice LLAMA_MAX_LAYERS; a damaged header may claim billions
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_BOTH = {"falcon-h1"}  # each layer has a state and keys
_CACHING_LAYERS = {"gemma3n": 20}  # all further layers read theirs; llama.cpp knows this by name, not from the file


@dataclass(frozen=True)
class Estimate:
    """Bytes: of the file, of what is kept of every token, of the buffers to compute in, of everything else."""

    weights: int
    cache: int
    compute: int
    other: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute + self.other


@dataclass(frozen=True)
class _Context:
    """What becomes of the options: cells of the cache, tokens in a step, answers at once, how elements are kept."""

    cells: int
    ubatch: int
    slots: int
    cell_type: str
    flash: bool
    offloaded: bool


def estimate(header: GgufHeader, options: Mapping[str, Value]) -> Estimate:
    """For the load options of llama.cpp; `header.size` counts all parts of the model."""
    context = _context(header, options)
    tokens, merges = _most(header, "tokenizer.ggml.tokens"), _most(header, "tokenizer.ggml.merges")
    vocabulary = _TOKEN_BYTES * tokens + _MERGE_BYTES * merges
    return Estimate(
        weights=header.size,
        cache=_kept(header, context) + _states(header, context),
        compute=_graph(header, context) + _logits(tokens, context),
        other=vocabulary + _POSITION_BYTES * context.cells + _REST_BYTES,
    )


def largest_context(header: GgufHeader, options: Mapping[str, Value], free_bytes: int) -> int:
    """The largest n_ctx, in tokens, whose estimate fits into `free_bytes`: a multiple of 256; 0 if not even 256 fits.

    At most what `options` ask for, rounded up as llama.cpp does.
    """
    fits, too_many = 0, _context(header, options).cells // PAD + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if estimate(header, {**options, "n_ctx": middle * PAD}).total <= free_bytes:
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


# -- the cache ------------------------------------------------------------------------------------------------------


def _kept(header: GgufHeader, context: _Context) -> int:
    """Bytes of the keys and values. Sliding windows save nothing: llama.h's `swa_full` is on and we leave it so."""
    widths = [(_width(header, layer, "key"), _width(header, layer, "value")) for layer in _attending(header)]
    if not context.flash:  # values are then kept transposed, all layers' in the widest's room
        widest = max((value for _, value in widths), default=0)
        widths = [(key, widest) for key, _ in widths]
    return int(context.cells * sum(key + value for key, value in widths) * _CELL_BYTES[context.cell_type])


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


def _states(header: GgufHeader, context: _Context) -> int:
    """Bytes of the states that recurrent layers keep of each answer, whatever its length."""
    count = sum(_recurs(header, layer) for layer in range(_layers(header)))
    return _FLOAT * _state(header) * count * context.slots


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
