"""Whether a model fits into memory with given options, and what would make it fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modules.engines.hf import memory, memory_prequantized
from modules.engines.hf.memory_prequantized import Quantised
from modules.engines.llamacpp.memory import PAD, Estimate, largest_context, placed, within
from modules.formats.gguf_header import GgufHeader
from modules.formats.model_shape import ModelShape
from modules.options.option import Value

SMALLEST = 2 * PAD
"""The context below which we do not go by ourselves: nobody can chat in less."""
MOST_GPU_LAYERS = 255
"""The largest n_gpu_layers that is a number; 256 means all."""
TIGHT = 0.9
"""The part of free memory from which on other programs will feel it. What we propose stays below."""

Facts = GgufHeader | ModelShape | Quantised
"""What is known of a model beforehand: of a GGUF file, of plain weights, of quantised ones with who loads them."""
_LIGHTER: tuple[Mapping[str, Value], ...] = (
    {"bf16": True},
    {"load_in_8bit": True},
    {"load_in_4bit": True},
    {"load_in_4bit": True, "use_double_quant": True},
)


@dataclass(frozen=True)
class Device:
    """A memory: main memory, whose name is empty, or a GPU's. `free` are bytes; 0 if that is unknown."""

    name: str
    free: int


@dataclass(frozen=True)
class Part:
    """What one device will hold of a model, in bytes."""

    device: Device
    need: Estimate

    @property
    def verdict(self) -> str:
        """ "fits", "tight", "short", or "unknown"."""
        if not self.device.free:
            return "unknown"
        if self.need.needed > self.device.free:
            return "short"
        return "tight" if self.need.total > TIGHT * self.device.free else "fits"


@dataclass(frozen=True)
class Fit:
    """What each device is to hold, main memory first; each remedy is a change of options that makes it all fit."""

    parts: tuple[Part, ...]
    remedies: tuple[Mapping[str, Value], ...] = ()

    @property
    def short(self) -> bool:
        return any(part.verdict == "short" for part in self.parts)


def fit(model: Facts, options: Mapping[str, Value], devices: Sequence[Device]) -> Fit:
    """For the options of the loader that `model` belongs to. `devices` are main memory and the GPUs it can go to."""
    gpus = [gpu.free for gpu in devices[1:]]
    needs: tuple[Estimate, ...]
    remedies: Iterator[Mapping[str, Value]]
    if isinstance(model, Quantised):
        needs, remedies = memory_prequantized.placed(model, options, gpus), _smaller_cache(model, options, devices)
    elif isinstance(model, ModelShape):
        needs, remedies = memory.placed(model, options, gpus), _lighter(model, options, devices)
    else:
        needs, remedies = placed(model, options, gpus), _remedies(model, options, devices)
    parts = tuple(Part(device, need) for device, need in zip(devices, needs, strict=True))
    found = Fit(parts)
    return Fit(parts, tuple(remedies)) if found.short else found


def memory_freed_by_unload(model: Facts, options: Mapping[str, Value], gpus: Sequence[int]) -> list[int]:
    """Bytes of main memory, then of each GPU, that are available again once `model` has been let go of. The pages of
    files that are mapped count as available anyway."""
    if isinstance(model, Quantised):
        return memory_prequantized.given_back(model, options, gpus)
    if isinstance(model, ModelShape):
        return memory.given_back(model, options, gpus)
    main, *others = placed(model, options, gpus)
    return [main.total - (0 if options["no_mmap"] else main.weights), *(each.total for each in others)]


def _lighter(
    shape: ModelShape, options: Mapping[str, Value], devices: Sequence[Device]
) -> Iterator[Mapping[str, Value]]:
    """Fewer bits for each weight."""
    for change in _LIGHTER:
        if memory.within(shape, {**options, **change}, _room(devices)):
            yield change


def _smaller_cache(
    model: Quantised, options: Mapping[str, Value], devices: Sequence[Device]
) -> Iterator[Mapping[str, Value]]:
    """All cards, fewer bits for each number, of all or of the cache, or a shorter context, where the loader has such
    options."""
    free = _room(devices)
    ticks = ("autosplit", "bf16", "cache_8bit", "cache_4bit")
    changes: list[Mapping[str, Value]] = [{key: True} for key in ticks if key in options]
    context = memory_prequantized.context_length(model, options)
    changes += [{"max_seq_len": each} for each in _halves(context) if "max_seq_len" in options]
    fitting = (change for change in changes if memory_prequantized.within(model, {**options, **change}, free))
    yield from {min(change): change for change in fitting if change.items() - options.items()}.values()


def _halves(context: int) -> Iterator[int]:
    """From the shortest worth having; the longest that fits is the last to be kept."""
    shorter = [context >> step for step in range(1, 8) if context >> step >= SMALLEST]
    yield from reversed(shorter)


def _remedies(
    header: GgufHeader, options: Mapping[str, Value], devices: Sequence[Device]
) -> Iterator[Mapping[str, Value]]:
    """A smaller context; a smaller cache, where that alone is enough; other layers on the GPU; the first two together,
    where neither is."""
    free = _room(devices)
    smaller = largest_context(header, options, free)
    if smaller >= SMALLEST:
        yield {"n_ctx": smaller}
    for key in ("cache_8bit", "cache_4bit"):
        changed = {**options, key: True}
        if not options[key] and not options["cache_4bit"] and within(header, changed, free):
            yield {key: True}
    if len(devices) > 1 and not options["cpu"]:
        yield from _layers_that_fit(header, options, free)
    both = largest_context(header, {**options, "cache_4bit": True}, free)
    if smaller < SMALLEST <= both:
        yield {"cache_4bit": True, "n_ctx": both}


def _layers_that_fit(
    header: GgufHeader, options: Mapping[str, Value], free: Sequence[int]
) -> Iterator[Mapping[str, Value]]:
    """The most layers on the GPU with which everything fits."""
    for layers in range(min(header.block_count + 1, MOST_GPU_LAYERS), -1, -1):
        if within(header, {**options, "n_gpu_layers": layers}, free):
            yield {"n_gpu_layers": layers}
            return


def _room(devices: Sequence[Device]) -> list[int]:
    """What we propose to take of each: what is free, less what other programs should not have to miss."""
    return [int(TIGHT * device.free) if device.free else sys.maxsize for device in devices]


def fitting_context(header: GgufHeader, options: Mapping[str, Value], devices: Sequence[Device]) -> int:
    """The context to take where none is asked for: the model's own or, where memory is short, what fits."""
    wish = int(options["n_ctx"]) or header.context_length
    asked = {**options, "n_ctx": wish}
    if within(header, asked, [device.free or sys.maxsize for device in devices]):
        return wish
    return min(wish, max(largest_context(header, asked, _room(devices)), SMALLEST))
