"""How much memory a checkpoint takes once Transformers has loaded it with given options, told from its files alone.

What is counted is the worker's peak (VmHWM) after a prompt that fills the context, less that of a worker which has
imported nothing: torch and transformers are counted, under `other`. The files are mapped while they are read, and stay
so where weights are used as they are stored: their pages count, though the system takes back those not in use
(`spare`).

Source: transformers 5.23 (core_model_loading), bitsandbytes 0.50 and our `hf_cache`; what libraries take was measured
on Linux (benchmarks/estimate_hf.py). With GPUs nothing was measured: there, weights fill the cards in order, as
accelerate does, though not by whole layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.engines.llamacpp.memory import Estimate
from modules.formats.model_shape import ModelShape
from modules.options.option import Value, size_in_bytes

# As `modules.engines.hf.arguments`, `hf_cache` and `hf_engine` decide, which only the worker may import; tests hold
# them together.
DEFAULT_CONTEXT, PIECE, PIECE_OF_8_BITS, ROOM = 2048, 512, 256, 256
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BLOCK, _OUTER_BLOCK = 64, 256  # weights of 4 bits that share a scale; scales that share one
_GPU_SHARE = 0.9

# Measured, as is told above.
_LIBRARIES = 328_000_000  # torch, transformers and what a tokenizer imports, more than a worker without them
_BITSANDBYTES = 45_000_000
_TOKEN_BYTES = 960  # of the vocabulary
_REST_BYTES = 22_000_000  # threads, pages of the libraries that are touched only in use
GPU_BYTES = 400 << 20  # a context of CUDA with its kernels; not measured here
_QUANTISING = 14  # bytes for each element of the weight that bitsandbytes is working on
_EAGER_STEP = 12  # bytes for each head's score of each token
# glibc before 2.38 cannot put an aligned block in the place of one of its size (sourceware's bug 14581): 0 to 110 MB.
_GAPS_OF_8_BITS = 50_000_000
_INT8_STEP = 8  # more bytes for each number between layers: 32 bits as whole numbers, and once more as fractions


@dataclass(frozen=True)
class _Plan:
    """What becomes of the options: the type of all that is not quantised, bits of what is (16: nothing is)."""

    dtype: str
    bits: int
    double: bool
    eager: bool
    on_cpu: bool

    @property
    def width(self) -> int:
        return _BYTES[self.dtype]

    @property
    def piece(self) -> int:
        """Tokens of a prompt that are read at once."""
        return PIECE_OF_8_BITS if self.bits == 8 else PIECE


def estimate(shape: ModelShape, options: Mapping[str, Value], tokens: int = 0) -> Estimate:
    """For the load options of Transformers, all in main memory, with so many `tokens` read; 0 is a full context."""
    return placed(shape, options, tokens=tokens)[0]


def placed(
    shape: ModelShape, options: Mapping[str, Value], gpus: Sequence[int] = (), tokens: int = 0
) -> tuple[Estimate, ...]:
    """What main memory will hold at most, then each GPU; `gpus` are their free bytes."""
    main, *cards = _kept(shape, options, gpus, tokens)
    plan = _plan(options, gpus)
    files = 0 if _stays_mapped(shape, plan) or not plan.on_cpu else shape.size  # mapped for as long as loading lasts
    loading = main.weights + main.other + _work(shape, plan)
    total, needed = max(main.total, loading + files), max(main.total, loading) - main.spare
    other = main.other + total - main.total
    return Estimate(main.weights, main.cache, main.compute, other, total - needed), *cards


def given_back(shape: ModelShape, options: Mapping[str, Value], gpus: Sequence[int] = ()) -> list[int]:
    """Bytes of each memory that unloading frees; not the files' own pages, which count as available anyway."""
    main, *others = _kept(shape, options, gpus, 0)
    mapped = _stays_mapped(shape, _plan(options, gpus))
    return [main.total - min(shape.size, main.weights) * mapped, *(each.total for each in others)]


def within(shape: ModelShape, options: Mapping[str, Value], free: Sequence[int]) -> bool:
    """Whether everything that is needed fits into `free`: bytes of main memory, then of each GPU."""
    needs = placed(shape, options, free[1:])
    return all(need.needed <= room for need, room in zip(needs, free, strict=True))


def context_length(shape: ModelShape, options: Mapping[str, Value]) -> int:
    """In tokens, with what the options add to it."""
    own = shape.context_length or DEFAULT_CONTEXT
    if not shape.rope_scale:
        return own
    longer = 1 + (float(options["alpha_value"]) - 1) * 2 / 3
    return int(own * longer * max(float(options["compress_pos_emb"]) / shape.rope_scale, 1))


def _plan(options: Mapping[str, Value], gpus: Sequence[int]) -> _Plan:
    bits = 4 if options["load_in_4bit"] else 8 if options["load_in_8bit"] else 16
    on_cpu = bool(options["cpu"]) or not gpus
    if options["cpu"]:
        dtype = "float32"
    elif on_cpu:
        dtype = "bfloat16" if options["bf16"] or bits < 16 else "float32"
    else:
        dtype = "bfloat16" if options["bf16"] and bits == 16 else "float16"
    return _Plan(dtype, bits, bool(options["use_double_quant"]), bool(options["use_eager_attention"]), on_cpu)


# -- which memory ------------------------------------------------------------------------------------------------------


def _kept(shape: ModelShape, options: Mapping[str, Value], gpus: Sequence[int], tokens: int) -> tuple[Estimate, ...]:
    """What each memory holds once the model is loaded and `tokens` have been read."""
    plan = _plan(options, gpus)
    tokens = tokens or context_length(shape, options)
    made = _made(shape, plan)
    main, *cards = _shares(made, options, plan, gpus)
    on_cards = sum(cards)
    unused = shape.size - _used_as_stored(shape, plan) if _stays_mapped(shape, plan) and main == made else 0
    cache, compute = cache_of(shape, plan.width, plan.piece, tokens), _compute(shape, plan, tokens)
    return (
        Estimate(
            main + unused,
            0 if on_cards else cache,
            0 if on_cards else compute,
            _other(shape, plan),
            spare=unused,
        ),
        *(
            Estimate(part, cache * part // on_cards, compute, GPU_BYTES) if part else Estimate(0, 0, 0, 0)
            for part in cards
        ),
    )


def _shares(made: int, options: Mapping[str, Value], plan: _Plan, gpus: Sequence[int]) -> list[int]:
    """Of the bytes of the weights what stays in main memory, then what goes to each GPU, the first one first."""
    limits = [] if plan.on_cpu else limits_of(options, gpus, plan.bits < 16)
    left, *cards = poured(made, limits, len(gpus))
    if options["cpu_memory"] and not (plan.on_cpu and plan.bits < 16):  # what exceeds it is on disk
        left = min(left, size_in_bytes(str(options["cpu_memory"])))
    return [left, *cards]


def poured(made: int, limits: Sequence[int], cards: int) -> list[int]:
    """What is left of so many bytes once each of so many GPUs has taken the most that it may; then what each took."""
    left, taken = made, []
    for place in range(cards):
        part = min(left, limits[place] if place < len(limits) else 0)
        taken.append(part)
        left -= part
    return [left, *taken]


def limits_of(options: Mapping[str, Value], gpus: Sequence[int], spreads: bool) -> list[int]:
    """The most that each GPU takes of the weights; if nothing asks for more, the first takes all."""
    if options["gpu_memory"]:
        return [size_in_bytes(each) for each in re.split(r"[, ]+", str(options["gpu_memory"])) if each]
    if spreads or any(options.get(key) for key in ("auto_devices", "cpu_memory", "disk")):
        return [int(_GPU_SHARE * free) for free in gpus]
    return [1 << 62]


# -- the weights -------------------------------------------------------------------------------------------------------


def _made(shape: ModelShape, plan: _Plan) -> int:
    """Bytes of the weights as they are used."""
    linear = shape.sizes.linear_elements if plan.bits < 16 else 0
    scales = linear / _BLOCK * (1 + 4 / _OUTER_BLOCK if plan.double else 4) if plan.bits == 4 else 0
    return int(linear * plan.bits / 8 + scales) + (shape.sizes.elements - linear) * plan.width


def _stays_mapped(shape: ModelShape, plan: _Plan) -> bool:
    """Whether some weights are used as they are stored, which keeps all of the files' pages."""
    return plan.on_cpu and _STORED.get(shape.sizes.dtype) == plan.dtype


def _used_as_stored(shape: ModelShape, plan: _Plan) -> int:
    """Bytes of the files that are used as they are."""
    linear = shape.sizes.linear_elements if plan.bits < 16 else 0
    return (shape.sizes.elements - linear) * plan.width


def _work(shape: ModelShape, plan: _Plan) -> int:
    """Bytes that loading takes to compute in."""
    return _QUANTISING * shape.sizes.largest_linear if plan.bits < 16 else 0


# -- the rest ----------------------------------------------------------------------------------------------------------


def _other(shape: ModelShape, plan: _Plan) -> int:
    quantising = _BITSANDBYTES if plan.bits < 16 else 0
    gaps = _GAPS_OF_8_BITS if plan.bits == 8 and plan.on_cpu else 0
    return libraries(shape) + quantising + gaps


def libraries(shape: ModelShape) -> int:
    """Bytes of torch and transformers in use, and of the tokenizer."""
    return _LIBRARIES + _TOKEN_BYTES * shape.vocab_size + _REST_BYTES


def cache_of(shape: ModelShape, width: int, piece: int, tokens: int) -> int:
    """Bytes of the keys and values, numbers of `width` bytes, with the room to grow that comes with them, and one
    layer's copy; `piece` tokens are read at once."""
    token = 2 * shape.kv_heads * shape.head_dim * width
    moved = (
        shape.sliding_window_layers and shape.sliding_window
    )  # layers of another kind than ours keep what they hold without room
    if moved:
        windowed = min(tokens, shape.sliding_window + piece) * shape.sliding_window_layers
        return token * (windowed + tokens * (shape.attention_layers - shape.sliding_window_layers))
    return token * _cells(tokens, piece) * shape.attention_layers


def _cells(tokens: int, piece: int) -> int:
    """Tokens that there is room for in the buffers once so many have been read, a piece at a time."""
    room = 0
    for end in (*range(piece, tokens, piece), tokens):
        if end > room:
            room = end + max(ROOM, end // 4)
    return room


def _compute(shape: ModelShape, plan: _Plan, tokens: int) -> int:
    """With what the way of loading adds: whole numbers of 8 bits, a layer unpacked from 4, all heads' scores."""
    piece = min(tokens, plan.piece)
    integers = piece * 3 * shape.intermediate_size * _INT8_STEP if plan.bits == 8 else 0
    scores = piece * tokens * shape.heads * _EAGER_STEP if plan.eager else 0
    unpacked = shape.sizes.largest_linear * plan.width if plan.bits == 4 else 0
    return step_of(shape, plan.width, piece, tokens) + integers + scores + unpacked


def step_of(shape: ModelShape, width: int, piece: int, tokens: int) -> int:
    """Bytes of the intermediate results of one piece of a prompt: the network's, and the attention's with its keys
    and values repeated for all heads."""
    network = piece * (3 * shape.intermediate_size + 6 * shape.hidden_size) * width
    repeated = 2 * shape.heads * shape.head_dim * tokens * width
    return network + repeated + piece * tokens * width + 3 * 4 * shape.vocab_size
