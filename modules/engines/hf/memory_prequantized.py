"""How much memory a folder takes whose weights are quantised already (GPTQ, AWQ, EXL2), loaded by each of its loaders.

What is counted is what `estimate_hf` counts. Packed weights stay as they are stored; what is not packed, such as the
embeddings, is kept in the type that is computed in; a layer is unpacked whenever it is used.

Source: auto_gptq 0.7.1, awq 0.2.9, gptqmodel 7.7.0 and exllamav2 0.3.2; what libraries take was measured on Linux, on a
CPU (tests/engines/hf/test_memory_prequantized.py). What GPUs hold follows the sources alone, for there was none:
ExLlamaV2, which needs one, was not measured at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modules.engines.hf import memory
from modules.engines.hf.memory import DEFAULT_CONTEXT, GPU_BYTES, PIECE
from modules.engines.llamacpp.memory import Estimate
from modules.formats.model_shape import ModelShape
from modules.options.option import Value, size_in_bytes

_WIDTH = 2
"""Bytes of a number that is computed with, but see _Way."""
_EXLLAMA = ("ExLlamav2", "ExLlamav2_HF")
_CACHE_BITS = {"cache_4bit": 4.5, "cache_8bit": 8.5}
"""Of each number kept in ExLlamaV2's caches, scales included."""
_EXLLAMA_PIECE = 2048
"""Tokens that ExLlamaV2 reads at once, at most."""
_UNPACKED_AT_ONCE = 512 << 20
"""Weights of a layer, at most, that ExLlamaV2 unpacks into the room it keeps for that."""


@dataclass(frozen=True)
class Quantised:
    """A folder of quantised weights, and the name of the loader that is to load it."""

    shape: ModelShape
    loader: str


@dataclass(frozen=True)
class _Way:
    """Of a loader on the CPU: bytes of its libraries, more than those of Transformers; for each weight of the layer
    that is being unpacked; and of the output, more than as it is stored. One that `repacks` layers of 4 or 8 bits as
    it loads, with so many bytes for each weight of a layer, unpacks none later; until all are, the files stay mapped.
    One that is `wide` unpacks all but 4 bits, and computes in 32; in 16 if bf16 is asked for, and with what is stored
    so as it lies in the files, which stay mapped for that."""

    libraries: int
    unpacking: int = 0
    output: int = 0
    repacks: int = 0
    wide: bool = False


_WAYS = {
    "Transformers": _Way(libraries=120_000_000, unpacking=14, wide=True),
    "AutoGPTQ": _Way(libraries=20_000_000, unpacking=14, output=2, repacks=12),
    "AutoAWQ": _Way(libraries=0, output=2),
}


def placed(
    model: Quantised, options: Mapping[str, Value], gpus: Sequence[int] = (), tokens: int = 0
) -> tuple[Estimate, ...]:
    """What main memory will hold at most, then each GPU (`gpus` are their free bytes), with so many `tokens` read; 0 is
    a full context."""
    if model.loader in _EXLLAMA:
        return _exllama(model, options, gpus)
    shape, way = model.shape, _WAYS[model.loader]
    on_cpu = bool(options.get("cpu")) or not gpus
    limits = [] if on_cpu else memory.limits_of(options, gpus, spreads=False)
    width = 4 if on_cpu and way.wide and (options["cpu"] or not options["bf16"]) else _WIDTH
    weights = _weights(shape, width) + (_output(shape, way) if on_cpu else 0)
    main, *cards = memory.poured(weights, limits, len(gpus))
    if options["cpu_memory"] and options.get("disk"):  # what exceeds it is on disk
        main = min(main, size_in_bytes(str(options["cpu_memory"])))
    tokens = tokens or context_length(model, options)
    cache = memory.cache_of(shape, width, PIECE, tokens)
    unpacked = way.unpacking * shape.sizes.largest_packed if _unpacks(shape, way, on_cpu) else 0
    compute = memory.step_of(shape, width, min(tokens, PIECE), tokens) + unpacked
    other = memory.libraries(shape) + way.libraries
    first, *rest = _shared(main, cards, cache, compute, other)
    return _with_files(first, shape, way, width) if on_cpu else first, *rest


def _output(shape: ModelShape, way: _Way) -> int:
    return way.output * shape.vocab_size * shape.hidden_size


def _bits(shape: ModelShape) -> int:
    """4, 8, or 0 for any other: with scales and zero points 4 bits are 4.2 to 5.3, and 8 are 8.3 to 9.5."""
    bits = 8 * shape.sizes.packed_bytes / max(shape.sizes.packed_weights, 1)
    return 4 if 4 <= bits < 6 else 8 if bits >= 8 else 0


def _unpacks(shape: ModelShape, way: _Way, on_cpu: bool) -> bool:
    """Whether a layer is unpacked whenever it is used, for want of a kernel."""
    if way.wide:
        return on_cpu and _bits(shape) != 4
    return not (way.repacks and on_cpu and _bits(shape))


def _with_files(kept: Estimate, shape: ModelShape, way: _Way, width: int) -> Estimate:
    """`kept`, and the files' pages: all of them while loading lasts, afterwards those of what was copied if anything is
    used as it is stored."""
    stays, copied = _mapped(shape, way, width)
    if stays:
        return replace(kept, other=kept.other + copied, spare=copied)
    if not copied:
        return kept
    loading = kept.weights - _output(shape, way) + kept.other + way.repacks * shape.sizes.largest_packed
    total, needed = max(kept.total, loading + copied), max(kept.total, loading)
    return replace(kept, other=kept.other + total - kept.total, spare=total - needed)


def _mapped(shape: ModelShape, way: _Way, width: int) -> tuple[bool, int]:
    """Whether the files stay mapped, and bytes of what is copied out of them."""
    if way.wide:
        as_stored = width == _WIDTH and shape.sizes.dtype == "BF16"
        return (
            as_stored or shape.method == "gptq",
            shape.sizes.packed_bytes if as_stored else shape.size,
        )  # g_idx is used so
    if way.repacks and not _bits(shape):
        return True, shape.sizes.elements * _WIDTH
    return False, shape.size if way.repacks else 0


def _shared(main: int, cards: Sequence[int], cache: int, compute: int, other: int) -> tuple[Estimate, ...]:
    """The cache is where the weights of its layer are; who computes needs room for that."""
    on_cards = sum(cards)
    first = Estimate(main, 0 if on_cards else cache, 0 if on_cards else compute, other)
    return (
        first,
        *(
            Estimate(part, cache * part // on_cards, compute, GPU_BYTES) if part else Estimate(0, 0, 0, 0)
            for part in cards
        ),
    )


def _weights(shape: ModelShape, width: int = _WIDTH) -> int:
    return shape.sizes.packed_bytes + shape.sizes.elements * width


def _exllama(model: Quantised, options: Mapping[str, Value], gpus: Sequence[int]) -> tuple[Estimate, ...]:
    """The embeddings stay in main memory, and are on a card once more where they serve as the output. The cache is made
    at once for the whole context; one in fewer bits with room for a layer of it in 16, on each card."""
    shape, tokens = model.shape, context_length(model, options)
    looked_up = shape.vocab_size * shape.hidden_size * _WIDTH
    weights = max(_weights(shape) - (looked_up if shape.sizes.has_output else 0), 1)
    bits = next((bits for key, bits in _CACHE_BITS.items() if options[key]), 8 * _WIDTH)
    numbers = 2 * shape.kv_heads * shape.head_dim * tokens * (2 if options["cfg_cache"] else 1)  # of a layer's cache
    cache = int(numbers * shape.attention_layers * bits / 8)
    layer = numbers * _WIDTH if bits < 8 * _WIDTH else 0
    compute = memory.step_of(shape, _WIDTH, min(tokens, _EXLLAMA_PIECE), tokens)
    fixed = layer + compute + _unpacking(shape, True) + GPU_BYTES
    left, *cards = memory.poured(weights, _limits(options, gpus, fixed, 1 + cache / weights), len(gpus))
    if cards:  # nothing of it can stay in main memory: where the cards do not do, the last one is short
        cards[-1] += left
        left = 0
    first, *rest = _shared(looked_up + left, cards, cache, compute, memory.libraries(shape))
    last = max((place for place, part in enumerate(cards) if part), default=0)  # which has the output
    rooms = [_unpacking(shape, bool(options["autosplit"]) or place == last) for place in range(len(rest))]
    return first, *(
        replace(each, cache=each.cache + layer, compute=each.compute + room) if each.weights else each
        for each, room in zip(rest, rooms, strict=True)
    )


def _limits(options: Mapping[str, Value], gpus: Sequence[int], fixed: int, with_cache: float) -> list[int]:
    """The most that each GPU takes of the weights. autosplit fills one after the other, leaving out its `fixed` bytes,
    with layers that are `with_cache` times as large as their weights. Without it, nor a gpu_split, the first takes all.
    """
    if options["autosplit"]:
        return [max(int((free - fixed) / with_cache), 0) for free in gpus]
    split = [float(each) for each in str(options["gpu_split"]).split(",") if each.strip()]
    return [int(each * (1 << 30)) for each in split] or [1 << 62]


def _unpacking(shape: ModelShape, with_output: bool) -> int:
    """Bytes of the room that the largest layer of a card is unpacked into; the output's is kept, packed or not, and
    by autosplit on each card."""
    widest = max(shape.intermediate_size, shape.heads * shape.head_dim, shape.vocab_size if with_output else 0)
    return _WIDTH * min(shape.hidden_size * widest, _UNPACKED_AT_ONCE)


def given_back(model: Quantised, options: Mapping[str, Value], gpus: Sequence[int] = ()) -> list[int]:
    """Bytes of each memory that unloading frees."""
    return [each.total for each in placed(model, options, gpus)]


def within(model: Quantised, options: Mapping[str, Value], free: Sequence[int]) -> bool:
    """Whether everything that is needed fits into `free`: bytes of main memory, then of each GPU."""
    needs = placed(model, options, free[1:])
    return all(need.needed <= room for need, room in zip(needs, free, strict=True))


def context_length(model: Quantised, options: Mapping[str, Value]) -> int:
    """In tokens, with what the options say of it."""
    own = model.shape.context_length or DEFAULT_CONTEXT
    if asked := int(options.get("max_seq_len") or 0):
        return asked if model.loader in _EXLLAMA else min(asked, own)
    if "alpha_value" in options:
        return memory.context_length(model.shape, options)
    return own
