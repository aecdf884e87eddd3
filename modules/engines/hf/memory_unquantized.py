"""Memory of a checkpoint in 16 or 32 bits under Transformers, which bitsandbytes may quantize while it loads.

What is counted is the worker's peak (VmHWM) after a prompt that fills the context, less that of a worker that has
imported nothing: torch and transformers count, as `other`. The files are mapped while they are read, and stay mapped
where weights are used as they are stored: their pages count, though the system takes back those not in use (`spare`).

Source: transformers 5.23 (core_model_loading) and bitsandbytes 0.50; checked by benchmarks/estimate_hf.py. Nothing was
measured with GPUs: weights fill them in order, as accelerate does, though not by whole layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modules.engines.hf.arguments import (
    bits_on_load,
    compute_dtype,
    gpu_limits,
    is_spread,
    must_stay_in_memory,
    runs_on_cpu,
)
from modules.engines.hf.limits import PREFILL_CHUNK, PREFILL_CHUNK_8BIT
from modules.engines.hf.memory_parts import (
    DTYPE_BYTES,
    activation_bytes,
    cache_bytes,
    context_length,
    library_bytes,
)
from modules.engines.memory import UNLIMITED, Estimate, Options, distribute, fits, on_devices
from modules.formats.model_shape import ModelShape
from modules.options.option import size_in_bytes

_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BLOCK, _OUTER_BLOCK = 64, 256  # 4-bit weights that share a scale; scales that share one with double quantization

# Measured, as described above.
_BITSANDBYTES_BYTES = 45_000_000
_QUANTIZING = 14  # bytes for each element of the weight that bitsandbytes is quantizing
_EAGER_SCORES = 12  # bytes for each head's score of each token
# glibc before 2.38 cannot reuse the place of an aligned block for one of its size (sourceware bug 14581): 0 to 110 MB.
_GAPS_8BIT = 50_000_000
_INT8_STEP = 8  # further bytes for each number between layers: 32 bits as whole numbers, and again as fractions

_SMALLER: tuple[Options, ...] = (
    {"bf16": True},
    {"load_in_8bit": True},
    {"load_in_4bit": True},
    {"load_in_4bit": True, "use_double_quant": True},
)


@dataclass(frozen=True)
class _Numbers:
    """How the numbers are kept: the compute dtype, and the bits of weights that bitsandbytes quantizes (0: none)."""

    dtype: str
    bits: int
    double_quantization: bool
    eager: bool
    on_cpu: bool

    @property
    def width(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def chunk(self) -> int:
        return PREFILL_CHUNK_8BIT if self.bits == 8 else PREFILL_CHUNK


def placed(shape: ModelShape, options: Options, gpus: Sequence[int] = (), tokens: int = 0) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU, with `tokens` prefilled; 0 is a full context."""
    main, *cards = _loaded(shape, options, gpus, tokens)
    numbers = _numbers(options, gpus)
    mapped_while_loading = 0 if _stays_mapped(shape, numbers) or not numbers.on_cpu else shape.size
    loading = main.weights + main.other + _quantizing_bytes(shape, numbers)
    total, needed = max(main.total, loading + mapped_while_loading), max(main.total, loading) - main.spare
    other = main.other + total - main.total
    return Estimate(main.weights, main.cache, main.compute, other, total - needed), *cards


def freed(shape: ModelShape, options: Options, gpus: Sequence[int] = ()) -> list[int]:
    """Return the bytes of main memory, then of each GPU, that unloading makes available."""
    main, *cards = _loaded(shape, options, gpus, 0)
    mapped = _stays_mapped(shape, _numbers(options, gpus))
    return [main.total - min(shape.size, main.weights) * mapped, *(card.total for card in cards)]


def remedies(shape: ModelShape, options: Options, free: Sequence[int]) -> Iterator[Options]:
    """Yield changes to fewer bits per weight with which the model fits into `free`."""
    for change in _SMALLER:
        if fits(placed(shape, {**options, **change}, free[1:]), free):
            yield change


def _numbers(options: Options, gpus: Sequence[int]) -> _Numbers:
    on_cpu = runs_on_cpu(options, gpus)
    return _Numbers(
        dtype=compute_dtype(options, "", on_cpu),
        bits=bits_on_load(options, ""),
        double_quantization=bool(options["use_double_quant"]),
        eager=bool(options["use_eager_attention"]),
        on_cpu=on_cpu,
    )


def _loaded(shape: ModelShape, options: Options, gpus: Sequence[int], tokens: int) -> tuple[Estimate, ...]:
    """Estimate what each device holds once the model is loaded and `tokens` have been prefilled."""
    numbers = _numbers(options, gpus)
    tokens = tokens or context_length(shape, options)
    weights = _weight_bytes(shape, numbers)
    main, *cards = _shares(weights, options, numbers, gpus)
    stays_mapped = _stays_mapped(shape, numbers) and main == weights
    unused = shape.size - _stored_bytes_in_use(shape, numbers) if stays_mapped else 0
    return on_devices(
        [main + unused, *cards],
        cache=cache_bytes(shape, numbers.width, numbers.chunk, tokens),
        compute=_compute_bytes(shape, numbers, tokens),
        other=_other_bytes(shape, numbers),
        spare=unused,
    )


def _shares(weights: int, options: Options, numbers: _Numbers, gpus: Sequence[int]) -> list[int]:
    """Return the bytes of weights in main memory, then on each GPU. What exceeds cpu_memory is on disk."""
    limits = [] if numbers.on_cpu else weight_limits(options, "", gpus)
    left, *cards = distribute(weights, limits, len(gpus))
    if options["cpu_memory"] and not must_stay_in_memory(options, "", numbers.on_cpu):
        left = min(left, size_in_bytes(str(options["cpu_memory"])))
    return [left, *cards]


def weight_limits(options: Options, method: str, gpus: Sequence[int]) -> list[int]:
    """Return the bytes of weights that each GPU takes at most, for a model that does not run on the CPU."""
    return gpu_limits(options, gpus) if is_spread(options, method, on_cpu=False) else [UNLIMITED]


# -- weights -----------------------------------------------------------------------------------------------------------


def _weight_bytes(shape: ModelShape, numbers: _Numbers) -> int:
    linear = shape.sizes.linear_elements if numbers.bits else 0
    scale_bytes = 1 + 4 / _OUTER_BLOCK if numbers.double_quantization else 4
    scales = linear / _BLOCK * scale_bytes if numbers.bits == 4 else 0
    return int(linear * numbers.bits / 8 + scales) + (shape.sizes.elements - linear) * numbers.width


def _stays_mapped(shape: ModelShape, numbers: _Numbers) -> bool:
    """Whether some weights are used as they are stored, which keeps all pages of the files."""
    return numbers.on_cpu and _STORED.get(shape.sizes.dtype) == numbers.dtype


def _stored_bytes_in_use(shape: ModelShape, numbers: _Numbers) -> int:
    linear = shape.sizes.linear_elements if numbers.bits else 0
    return (shape.sizes.elements - linear) * numbers.width


def _quantizing_bytes(shape: ModelShape, numbers: _Numbers) -> int:
    return _QUANTIZING * shape.sizes.largest_linear if numbers.bits else 0


# -- libraries and buffers ---------------------------------------------------------------------------------------------


def _other_bytes(shape: ModelShape, numbers: _Numbers) -> int:
    bitsandbytes = _BITSANDBYTES_BYTES if numbers.bits else 0
    gaps = _GAPS_8BIT if numbers.bits == 8 and numbers.on_cpu else 0
    return library_bytes(shape) + bitsandbytes + gaps


def _compute_bytes(shape: ModelShape, numbers: _Numbers, tokens: int) -> int:
    chunk = min(tokens, numbers.chunk)
    integers = chunk * 3 * shape.intermediate_size * _INT8_STEP if numbers.bits == 8 else 0
    scores = chunk * tokens * shape.heads * _EAGER_SCORES if numbers.eager else 0
    unpacked_layer = shape.sizes.largest_linear * numbers.width if numbers.bits == 4 else 0
    return activation_bytes(shape, numbers.width, chunk, tokens) + integers + scores + unpacked_layer
