"""Memory of a checkpoint whose stored weights are quantized (GPTQ, AWQ), under any loader on Transformers.

What is counted is what `hf.memory_unquantized` counts. Packed weights stay packed; what is not packed, such as the
embeddings, is kept in the compute dtype; a layer without a kernel is unpacked whenever it is used.

Source: auto_gptq 0.7.1, awq 0.2.9 and gptqmodel 7.7.0; what libraries take was measured on Linux, on a CPU
(tests/engines/hf/test_memory_prequantized.py). What GPUs hold follows the sources alone, for there was none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modules.engines.hf.limits import PREFILL_CHUNK
from modules.engines.hf.memory_parts import activation_bytes, cache_bytes, library_bytes
from modules.engines.memory import Estimate, distribute, on_devices
from modules.formats.model_shape import ModelShape

HALF = 2
"""Bytes of a number in 16 bits."""


@dataclass(frozen=True)
class Kernels:
    """How a loader computes with packed weights; sizes in bytes, as measured on a CPU.

    `libraries` are what its packages take beyond Transformers. `cpu_bits` are the bits for which it has a CPU kernel;
    layers of other bits are unpacked whenever they are used, which takes `unpacking` for each weight of the largest
    layer. On a GPU they are unpacked if it `unpacks_on_gpu`. Repacking takes `repacking` for each weight of a layer
    while loading (0: weights are not repacked), and keeps the files mapped until all layers are. `output` is what the
    output layer takes for each weight beyond its stored form. One that `reads_files_in_place` uses tensors as they lie
    in the mapped files where they have the right dtype.
    """

    libraries: int
    cpu_bits: tuple[int, ...] = ()
    unpacking: int = 0
    unpacks_on_gpu: bool = False
    repacking: int = 0
    output: int = 0
    reads_files_in_place: bool = False


@dataclass(frozen=True)
class Load:
    """How a model is loaded: where, in what dtype (`width` bytes), with what limits of bytes for weights.

    `gpu_limits` and `main_limit` are the most that each GPU and main memory take; the rest is on disk. `tokens` is the
    context length or the prompt.
    """

    on_cpu: bool
    gpu_count: int
    gpu_limits: Sequence[int]
    tokens: int
    width: int = HALF
    main_limit: int | None = None


def placed(shape: ModelShape, kernels: Kernels, load: Load) -> tuple[Estimate, ...]:
    """Estimate what main memory will hold at most, then each GPU."""
    weights = weight_bytes(shape, load.width) + (_output_bytes(shape, kernels) if load.on_cpu else 0)
    main, *cards = distribute(weights, [] if load.on_cpu else load.gpu_limits, load.gpu_count)
    if load.main_limit is not None:
        main = min(main, load.main_limit)
    activations = activation_bytes(shape, load.width, min(load.tokens, PREFILL_CHUNK), load.tokens)
    first, *rest = on_devices(
        [main, *cards],
        cache=cache_bytes(shape, load.width, PREFILL_CHUNK, load.tokens),
        compute=activations + _unpacking_bytes(shape, kernels, load.on_cpu),
        other=library_bytes(shape) + kernels.libraries,
    )
    return _with_mapped_files(first, shape, kernels, load.width) if load.on_cpu else first, *rest


def weight_bytes(shape: ModelShape, width: int = HALF) -> int:
    return shape.sizes.packed_bytes + shape.sizes.elements * width


def _output_bytes(shape: ModelShape, kernels: Kernels) -> int:
    return kernels.output * shape.vocab_size * shape.hidden_size


def _bits(shape: ModelShape) -> int:
    """Return 4 or 8, or 0 for any other number: with scales and zero points, 4 are 4.2 to 5.3 and 8 are 8.3 to 9.5."""
    bits = 8 * shape.sizes.packed_bytes / max(shape.sizes.packed_weights, 1)
    return 4 if 4 <= bits < 6 else 8 if bits >= 8 else 0


def _unpacking_bytes(shape: ModelShape, kernels: Kernels, on_cpu: bool) -> int:
    unpacks = _bits(shape) not in kernels.cpu_bits if on_cpu else kernels.unpacks_on_gpu
    return kernels.unpacking * shape.sizes.largest_packed if unpacks else 0


def _with_mapped_files(kept: Estimate, shape: ModelShape, kernels: Kernels, width: int) -> Estimate:
    """Add the pages of the files: all of them while loading; later those that were copied, if any are used in place."""
    stays_mapped, copied = _mapped_files(shape, kernels, width)
    if stays_mapped:
        return replace(kept, other=kept.other + copied, spare=copied)
    if not copied:
        return kept
    repacking = kernels.repacking * shape.sizes.largest_packed
    loading = kept.weights - _output_bytes(shape, kernels) + kept.other + repacking
    total, needed = max(kept.total, loading + copied), max(kept.total, loading)
    return replace(kept, other=kept.other + total - kept.total, spare=total - needed)


def _mapped_files(shape: ModelShape, kernels: Kernels, width: int) -> tuple[bool, int]:
    """Return whether the files stay mapped, and the bytes that are copied out of them."""
    if kernels.reads_files_in_place:
        as_stored = width == HALF and shape.sizes.dtype == "BF16"
        # GPTQ's g_idx is used in place whatever the dtype.
        return as_stored or shape.method == "gptq", shape.sizes.packed_bytes if as_stored else shape.size
    if not kernels.repacking:
        return False, 0
    return (False, shape.size) if _bits(shape) else (True, shape.sizes.elements * HALF)
