"""Compare a model's memory with what is free, and propose options with which it fits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.engines.memory import MIN_CONTEXT, ContextModel, Estimate, MemoryModel, fits
from modules.formats.gguf_header import GgufHeader
from modules.formats.model_shape import ModelShape
from modules.options.option import Value

TIGHT = 0.9
"""Share of the free memory above which other programs may run short. Remedies stay below it."""


@dataclass(frozen=True)
class Device:
    """Main memory, whose name is empty, a GPU or an RPC node. `free` are bytes; 0 if unknown."""

    name: str
    free: int


@dataclass(frozen=True)
class Part:
    """What one device will hold of a model, in bytes."""

    device: Device
    need: Estimate

    @property
    def verdict(self) -> str:
        """Return "fits", "tight", "short", or "unknown"."""
        if not self.device.free:
            return "unknown"
        if self.need.needed > self.device.free:
            return "short"
        return "tight" if self.need.total > TIGHT * self.device.free else "fits"


@dataclass(frozen=True)
class Fit:
    """What each device will hold, main memory first. Each remedy is a change of options that makes the model fit."""

    parts: tuple[Part, ...]
    remedies: tuple[Mapping[str, Value], ...] = ()

    @property
    def short(self) -> bool:
        return any(part.verdict == "short" for part in self.parts)


def fit(
    memory: MemoryModel, model: GgufHeader | ModelShape, options: Mapping[str, Value], devices: Sequence[Device]
) -> Fit:
    """Compare what `model` needs with the free memory of `devices`: main memory, then those the loader can use."""
    largest = max((device.free for device in devices[1:]), default=0) or 1
    needs = memory.placed(model, options, [device.free or largest for device in devices[1:]])
    fitted = Fit(tuple(Part(device, need) for device, need in zip(devices, needs, strict=True)))
    return Fit(fitted.parts, tuple(memory.remedies(model, options, _spendable(devices)))) if fitted.short else fitted


def _spendable(devices: Sequence[Device]) -> list[int]:
    """Return the bytes of each device that a remedy may use: those free, less a reserve for other programs."""
    return [int(TIGHT * device.free) if device.free else sys.maxsize for device in devices]


def fitting_context(
    memory: ContextModel, header: GgufHeader, options: Mapping[str, Value], devices: Sequence[Device]
) -> int:
    """Return the context length for a load whose user chose none: the model's own or, if memory is short, what fits."""
    full = int(options["n_ctx"]) or header.context_length
    options = {**options, "n_ctx": full}
    free = [device.free or sys.maxsize for device in devices]
    if fits(memory.placed(header, options, free[1:]), free):
        return full
    return min(full, max(memory.largest_context(header, options, _spendable(devices)), MIN_CONTEXT))
