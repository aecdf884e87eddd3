"""Memory of a GGUF model under llama.cpp, by its header alone.

What is counted is the worker's peak (VmHWM) after a prompt that fills the context, less that of a worker that has only
imported the library. Saved conversations in main memory come on top. Where llama.cpp repacks the weights for the CPU
(with AMX nearly all types; Q4_0, Q4_K and others on most; not Q4_1), VmHWM also has the mapped file, which is not
counted: the system takes it back when memory is short.

Source: llama_kv_cache, llama_context::sched_reserve and ggml_graph_plan of llama.cpp as in llama-cpp-python 0.3.36, and
llama_model::load_tensors for which layers go to which GPU. How much of it is touched, and what the rest of the process
takes, was measured (benchmarks/estimate.py); nothing was measured with GPUs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from modules.engines.llamacpp.amx import uses_amx
from modules.engines.llamacpp.arguments import (
    CACHE_F16,
    CACHE_Q4_0,
    CACHE_Q8_0,
    batch_sizes,
    cache_type,
    flash_attention,
    gpu_layers,
    projector,
    slot_count,
    stream_count,
    tensor_split,
    vision_on_gpu,
)
from modules.engines.llamacpp.draft_arguments import draft_options
from modules.engines.llamacpp.embedding_arguments import logit_bytes, longest_text, step_tokens
from modules.engines.memory import CUDA_CONTEXT_BYTES, MIN_CONTEXT, Estimate, Options, fits
from modules.formats.embedding import gguf_task
from modules.formats.gguf_header import GgufHeader

PAD = 256
"""llama.cpp rounds a context up to a multiple of this."""
_MAX_GPU_LAYERS = 255
"""The largest n_gpu_layers that is a count; 256 means all."""

_ELEMENT_BYTES = {CACHE_F16: Fraction(2), CACHE_Q8_0: Fraction(34, 32), CACHE_Q4_0: Fraction(18, 32)}
_FLOAT, _HALF = 4, 2  # bytes

# Measured: least squares (of relative errors, up to 19 %) over 15 vocabularies, and the grid of benchmarks/estimate.py.
_TOKEN_BYTES, _MERGE_BYTES = 159, 150  # of the vocabulary: a token's texts and tables, the rank of a pair
_LONG_TOKEN_BYTES, _LONG_MERGE_BYTES = 7.3, 2.2  # for each byte of those that are longer than 15 bytes
_POSITION_BYTES = 600  # which sequences use a cell, and the token's number in Python and JSON
_REST_BYTES = 5_000_000  # graphs, buffers of the threads, pages of the libraries that an idle worker does not touch

# Of the vision part, which is read, not mapped. Measured: 31 to 33 kB a patch of 1,024 to 1,280 floats.
_PATCH_FLOATS = 8  # for each float of a patch, with flash attention
_LARGE_IMAGE_PATCHES = 92 * 92  # what mtmd reserves at load for models that take pictures of any size
_ANY_SIZE = ("vision.spatial_merge_size", "vision.n_wa_pattern", "vision.image_max_pixels")

_ALWAYS_IN_MAIN_MEMORY = {"token_embd", "position_embd", "token_types", "per_layer_token_embd"}
_LARGEST_VISION_NUMBER = 1 << 14
_NOT_REPACKED = {"F32", "BF16"}
_REPACKED_GROWTH = {"Q8_0": 4 / 34, "Q4_K": 4 / 144, "Q5_K": 4 / 176, "IQ4_XS": 2 / 136}
"""What AMX's form of a type adds for each byte of a block, by how names of quantizations begin."""
_MAX_LAYERS = 1024  # twice LLAMA_MAX_LAYERS; a damaged header may claim billions
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_HYBRID_LAYERS = {"falcon-h1"}  # each layer has a recurrent state and keys
_CACHING_LAYERS = {"gemma3n": 20}  # all further layers read theirs; llama.cpp knows this by name, not from the file


@dataclass(frozen=True)
class _Context:
    """Hold what the options mean: the cells of a KV cache, how many caches there are, tokens per step, requests."""

    cells: int
    caches: int
    ubatch: int
    slots: int
    cache_type: int
    flash: bool
    offloaded: bool


def estimate(header: GgufHeader, options: Options) -> Estimate:
    """Estimate main memory without GPUs; `header.size` counts all parts of the model."""
    return placed(header, options)[0]


def placed(header: GgufHeader, options: Options, gpus: Sequence[int] = ()) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold, then each GPU.

    `gpus` are their free bytes, by which llama.cpp splits the layers unless tensor_split is set. A draft model counts.
    """
    draft = header.drafts.get(str(options.get("model_draft", "")))
    if draft is not None:
        n_ctx = (int(options["n_ctx"]) or header.context_length) * stream_count(options)
        alone = placed(header, {**options, "model_draft": ""}, gpus)
        beside = placed(draft, draft_options(options, n_ctx), gpus)
        return tuple(one + other for one, other in zip(alone, beside, strict=True))
    context = _context(header, options if gpus else {**options, "cpu": True})
    devices = _layer_devices(header, options, gpus)
    logits = logit_bytes(header, options) if gguf_task(header) else 0
    vision_device = 1 if gpus and vision_on_gpu(options) else 0
    cache_devices = [0] * (len(devices) - 1) if options["no_offload_kqv"] else devices[:-1]
    return tuple(
        Estimate(
            weights=_weight_bytes(header, devices, device),
            cache=_cache_bytes(header, context, cache_devices, device),
            compute=_compute_bytes(header, context, devices, device),
            other=(CUDA_CONTEXT_BYTES * (device in devices) if device else _other_bytes(header, context) + logits)
            + (_projector_bytes(header, options) if device == vision_device else 0),
        )
        for device in range(1 + len(gpus))
    )


def freed(header: GgufHeader, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    main, *cards = placed(header, options, gpus)
    anonymous = options["no_mmap"] or _is_repacked(header)
    return [main.total - (0 if anonymous else main.weights), *(card.total for card in cards)]


def remedies(header: GgufHeader, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield changes of options with which the model fits into `free`.

    They are a shorter context; a quantized KV cache, if that alone is enough; another number of layers on GPUs; a
    shorter context with a 4-bit cache, if neither is enough.
    """
    shorter = largest_context(header, options, free)
    if shorter >= MIN_CONTEXT:
        yield {"n_ctx": shorter}
    for key in ("cache_8bit", "cache_4bit"):
        if not options[key] and not options["cache_4bit"] and _fits(header, {**options, key: True}, free):
            yield {key: True}
    if len(free) > 1 and not options["cpu"]:
        yield from _fitting_layers(header, options, free)
    with_4bit = largest_context(header, {**options, "cache_4bit": True}, free)
    if shorter < MIN_CONTEXT <= with_4bit:
        yield {"cache_4bit": True, "n_ctx": with_4bit}


def largest_context(header: GgufHeader, options: Options, free: Sequence[int]) -> int:
    """Return the largest n_ctx, in tokens, that fits into `free`: a multiple of 256; 0 if not even 256 fits.

    It is at most what `options` ask for, rounded up as llama.cpp does.
    """
    fitting, too_large = 0, _context(header, options).cells // PAD + 1
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if _fits(header, {**options, "n_ctx": middle * PAD}, free):
            fitting = middle
        else:
            too_large = middle
    return fitting * PAD


def _fits(header: GgufHeader, options: Options, free: Sequence[int]) -> bool:
    return fits(placed(header, options, free[1:]), free)


def _fitting_layers(header: GgufHeader, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield the most layers on GPUs with which everything fits."""
    for layers in range(min(header.block_count + 1, _MAX_GPU_LAYERS), -1, -1):
        if _fits(header, {**options, "n_gpu_layers": layers}, free):
            yield {"n_gpu_layers": layers}
            return


def _context(header: GgufHeader, options: Options) -> _Context:
    length = int(options["n_ctx"]) or header.context_length
    offloaded = gpu_layers(options) != 0
    ubatch, streams = batch_sizes(options, offloaded)[1], stream_count(options)
    if gguf_task(header):
        streams = 1
        ubatch = step_tokens(header, options)
        length = max(longest_text(header, options), ubatch)
    return _Context(
        cells=-(-length // PAD) * PAD,
        caches=2 if options.get("cfg_cache") else streams,
        ubatch=min(ubatch, length),
        slots=slot_count(options),
        cache_type=cache_type(options),
        flash=flash_attention(options),
        offloaded=offloaded,
    )


def _largest(header: GgufHeader, key: str, default: int = 0) -> int:
    """Return the number at `key`, the largest if there is one per layer. A header may hold nonsense."""
    value = header.numbers.get(key, default)
    return max((0, *value)) if isinstance(value, tuple) else max(value, 0)


def _of_layer(header: GgufHeader, key: str, layer: int, default: int) -> int:
    """Return the number at `key` that applies to `layer`, from a list or for all layers."""
    value = header.numbers.get(key, default)
    if isinstance(value, tuple):
        value = value[layer] if layer < len(value) else default
    return max(value, 0)


# -- devices --------------------------------------------------------------------------------------------------------


def _layer_devices(header: GgufHeader, options: Options, gpus: Sequence[int]) -> list[int]:
    """Return the device of each layer, and last of the output: 0 is main memory, 1 the first GPU.

    The output goes to a GPU first, then the last layers.
    """
    count = min(header.block_count, _MAX_LAYERS) + 1
    wanted = gpu_layers(options) if gpus else 0
    on_gpus = count if wanted < 0 else min(wanted, count)
    ends = _share_ends(tensor_split(options), gpus) if on_gpus else []
    cards = [1 + min(bisect_right(ends, layer / on_gpus), len(gpus) - 1) for layer in range(on_gpus)]
    return [0] * (count - on_gpus) + cards


def _share_ends(split: Sequence[float], gpus: Sequence[int]) -> list[float]:
    """Return where each GPU's share of the layers ends, on a scale from 0 to 1."""
    shares = ([*(split or gpus), *[0.0] * len(gpus)])[: len(gpus)]
    whole = sum(shares) or 1.0
    return [sum(shares[: number + 1]) / whole for number in range(len(shares))]


def _weight_bytes(header: GgufHeader, devices: Sequence[int], device: int) -> int:
    """Return the bytes of the tensors on `device`. Main memory has what no GPU has, and the rest of the file."""
    on_gpus = [_gpu_weight_bytes(header, devices, gpu) for gpu in range(1, max(devices, default=0) + 1)]
    if device:
        return on_gpus[device - 1] if device <= len(on_gpus) else 0
    is_repacked = _is_repacked(header)
    has_copy = not _has_output(header) and (devices[-1] != 0 or is_repacked)  # the embeddings stay as they are
    in_main = max(header.size - sum(on_gpus) + has_copy * header.sizes.get("token_embd", 0), 0)
    return in_main + (round(in_main * _repacked_growth(header.quantization)) if is_repacked else 0)


def _is_repacked(header: GgufHeader) -> bool:
    """Whether the weights that no GPU has are copied from the file into the form that AMX needs."""
    return header.quantization not in _NOT_REPACKED and uses_amx()


def _repacked_growth(quantization: str) -> float:
    return next((growth for name, growth in _REPACKED_GROWTH.items() if quantization.startswith(name)), 0.0)


def _gpu_weight_bytes(header: GgufHeader, devices: Sequence[int], gpu: int) -> int:
    layers = sum(header.sizes.get(f"blk.{layer}", 0) for layer, device in enumerate(devices[:-1]) if device == gpu)
    if devices[-1] != gpu:
        return layers
    rest = sum(
        size
        for owner, size in header.sizes.items()
        if not owner.startswith("blk.") and owner not in _ALWAYS_IN_MAIN_MEMORY
    )
    return layers + rest + (0 if _has_output(header) else header.sizes.get("token_embd", 0))


def _has_output(header: GgufHeader) -> bool:
    """Whether the output has weights of its own; else it is a copy of the embeddings."""
    return "output" in header.sizes


def _cache_bytes(header: GgufHeader, context: _Context, devices: Sequence[int], device: int) -> int:
    layers = [layer for layer, layer_device in enumerate(devices) if layer_device == device]
    return _key_value_bytes(header, context, layers) + _state_bytes(header, context, layers)


def _compute_bytes(header: GgufHeader, context: _Context, devices: Sequence[int], device: int) -> int:
    """Return the bytes of compute buffers: a graph on each device with a layer, logits where the output is."""
    tokens = _largest(header, "tokenizer.ggml.tokens")
    graph = _graph_bytes(header, context) if device in devices[:-1] else 0
    return graph + (_logits_bytes(tokens, context) if devices[-1] == device else 0)


def _other_bytes(header: GgufHeader, context: _Context) -> int:
    tokens, merges = _largest(header, "tokenizer.ggml.tokens"), _largest(header, "tokenizer.ggml.merges")
    long_tokens = header.long_strings.get("tokenizer.ggml.tokens", 0)
    long_merges = header.long_strings.get("tokenizer.ggml.merges", 0)
    vocabulary = _TOKEN_BYTES * tokens + _MERGE_BYTES * merges
    vocabulary += round(_LONG_TOKEN_BYTES * long_tokens + _LONG_MERGE_BYTES * long_merges)
    return vocabulary + _POSITION_BYTES * context.cells * context.caches + _REST_BYTES


def _projector_bytes(header: GgufHeader, options: Options) -> int:
    """Return the bytes of the vision part and of its compute buffer; 0 without one."""
    vision = header.projectors.get(projector(options))
    if vision is None:
        return 0
    side = _vision_number(vision, "image_size") // max(_vision_number(vision, "patch_size"), 1)
    patches = _LARGE_IMAGE_PATCHES if any(key in vision.numbers for key in _ANY_SIZE) else side**2
    return vision.size + _FLOAT * _PATCH_FLOATS * _vision_number(vision, "embedding_length") * patches


def _vision_number(vision: GgufHeader, key: str) -> int:
    return min(_largest(vision, f"vision.{key}"), _LARGEST_VISION_NUMBER)


# -- KV cache -------------------------------------------------------------------------------------------------------


def _key_value_bytes(header: GgufHeader, context: _Context, layers: Collection[int]) -> int:
    """Return the bytes of the keys and values of `layers`.

    Sliding windows save nothing, as llama.h's `swa_full` is on by default.
    """
    keys = {layer: _cache_width(header, layer, "key") for layer in _attention_layers(header)}
    values = {layer: _cache_width(header, layer, "value") for layer in keys}
    if not context.flash:  # values are then kept transposed, and each layer has room for the widest
        values = dict.fromkeys(values, max(values.values(), default=0))
    width = sum(keys[layer] + values[layer] for layer in layers if layer in keys)
    return int(context.caches * context.cells * width * _ELEMENT_BYTES[context.cache_type])


def _attention_layers(header: GgufHeader) -> Iterator[int]:
    """Yield the layers with keys and values of their own, neither shared with an earlier layer nor recurrent."""
    count = _layer_count(header) - _largest(header, "attention.shared_kv_layers")
    for layer in range(min(count, _CACHING_LAYERS.get(header.architecture, count))):
        if header.architecture in _HYBRID_LAYERS or not _is_recurrent(header, layer):
            yield layer


def _layer_count(header: GgufHeader) -> int:
    """Return the number of layers, without those for predicting further tokens, which are not used."""
    return min(header.block_count, _MAX_LAYERS) - _largest(header, "nextn_predict_layers")


def _is_recurrent(header: GgufHeader, layer: int) -> bool:
    """Whether `layer` has a state of fixed size, as all do in recurrent models and most in hybrid ones."""
    if header.architecture in _RECURRENT | _HYBRID_LAYERS:
        return True
    if "attention.recurrent_layers" in header.numbers:
        return bool(_of_layer(header, "attention.recurrent_layers", layer, 0))
    if interval := _largest(header, "full_attention_interval"):
        return (layer + 1) % interval != 0
    return _state_size(header) > 0 and not _of_layer(header, "attention.head_count_kv", layer, header.head_count)


def _cache_width(header: GgufHeader, layer: int, which: str) -> int:
    """Return the elements of the "key" or "value" of one token in one layer. Latent attention has keys only."""
    if which == "value" and _largest(header, "attention.key_length_mla"):
        return 0
    length = _head_size(header, which)
    if _of_layer(header, "attention.sliding_window_pattern", layer, 0):
        length = _largest(header, f"attention.{which}_length_swa", length)
    return length * _of_layer(header, "attention.head_count_kv", layer, header.head_count)


def _head_size(header: GgufHeader, which: str = "key") -> int:
    return _largest(header, f"attention.{which}_length", header.embedding_length // max(header.head_count, 1))


def _state_bytes(header: GgufHeader, context: _Context, layers: Collection[int]) -> int:
    """Return the bytes of the states that recurrent `layers` keep for each request, whatever its length."""
    count = sum(_is_recurrent(header, layer) for layer in layers if layer < _layer_count(header))
    return _FLOAT * _state_size(header) * count * max(context.slots, context.caches)


def _state_size(header: GgufHeader) -> int:
    """Return the elements of one layer's state, in architectures like Mamba, RWKV and LFM2."""
    convolution, inner = max(_largest(header, "ssm.conv_kernel") - 1, 0), _largest(header, "ssm.inner_size")
    groups, size = 2 * _largest(header, "ssm.group_count"), _largest(header, "ssm.state_size")
    wkv, short = _largest(header, "wkv.head_size"), max(_largest(header, "shortconv.l_cache") - 1, 0)
    shifts = 2 if wkv else 0
    return convolution * (inner + groups * size) + size * inner + header.embedding_length * (wkv + shifts + short)


# -- compute buffers-------------------------------------------------------------------------------------------------


def _graph_bytes(header: GgufHeader, context: _Context) -> int:
    """Return the bytes of one step's intermediate results: attention's or, if they are larger, the network's."""
    heads, masks = header.head_count, 2 if _largest(header, "attention.sliding_window") else 1
    embedding, queries = header.embedding_length, heads * _head_size(header)
    attention = 3 * embedding + 2 * queries + 2 * (header.head_count_kv or heads) * _head_size(header)
    network = 4 * embedding + 3 * _network_width(header)
    if context.flash:
        token = _HALF * masks * context.cells + _FLOAT * max(attention, network)
    else:  # all heads' scores, and beside the graph again in 16 bits, to be multiplied by the values
        scores = heads * context.cells
        token = _FLOAT * (masks * context.cells + max(attention + scores, network)) + _HALF * scores
    return context.ubatch * token


def _network_width(header: GgufHeader) -> int:
    """Return the width of the feed-forward network; with experts, of all that a token is routed to."""
    dense = _largest(header, "feed_forward_length")
    expert = _largest(header, "expert_feed_forward_length") or dense
    return max(dense, _largest(header, "expert_used_count") * expert)


def _logits_bytes(tokens: int, context: _Context) -> int:
    """Return the bytes of the logits of a vocabulary of `tokens`.

    llama.cpp reserves them for a whole step, which takes no main memory until they are written.
    """
    return _FLOAT * tokens * (context.slots + context.ubatch * context.offloaded)
