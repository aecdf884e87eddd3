"""Memory estimates: what a model takes on each device, before it is loaded.

Every row of the loader registry names a module with the functions of `MemoryModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modules.options.option import Value

Options = Mapping[str, Value]

MIN_CONTEXT = 512
"""Minimum context length chosen or proposed automatically."""
UNLIMITED = 1 << 62
CUDA_CONTEXT_BYTES = 400 << 20
"""A CUDA context with its kernels: 300 to 500 MiB, as people report; not measured by us."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device: weights, KV cache, compute buffers, and everything else.

    `spare` counts those among them that the system takes back when memory is short: pages of files no longer needed.
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
        """Return the bytes without which the model cannot run."""
        return self.total - self.spare

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.weights + other.weights,
            self.cache + other.cache,
            self.compute + other.compute,
            self.other + other.other,
            self.spare + other.spare,
        )


NOTHING = Estimate(0, 0, 0, 0)


class MemoryModel(Protocol):
    """The memory module of a loader. `model` is what the model's files say: a GgufHeader or a ModelShape.

    `gpus` are the free bytes of each GPU, `free` those of main memory and then of each GPU.
    """

    def placed(self, model: Any, options: Options, gpus: Sequence[int] = ()) -> tuple[Estimate, ...]:
        """Estimate what main memory will hold at most, then each GPU."""

    def freed(self, model: Any, options: Options, gpus: Sequence[int] = ()) -> list[int]:
        """Return the bytes of main memory, then of each GPU, that unloading makes available.

        Pages of mapped files are left out: they count as available while the model is loaded, too.
        """

    def remedies(self, model: Any, options: Options, free: Sequence[int]) -> Iterator[Options]:
        """Yield changes of options with which the model fits into `free`."""


class ContextModel(MemoryModel, Protocol):
    """The memory module of a loader whose context length is chosen by what fits."""

    def largest_context(self, model: Any, options: Options, free: Sequence[int]) -> int:
        """Return the longest context, in tokens, that fits into `free`; 0 if none does."""


def fits(needs: Sequence[Estimate], free: Sequence[int]) -> bool:
    """Whether each device has room for what is needed there; `free` are bytes in the same order."""
    return all(need.needed <= room for need, room in zip(needs, free, strict=True))


def distribute(weights: int, limits: Sequence[int], gpu_count: int) -> list[int]:
    """Fill GPUs in order, each up to its limit, and return the bytes left in main memory, then those of each GPU.

    A GPU without a limit in `limits` takes nothing.
    """
    left, taken = weights, []
    for gpu in range(gpu_count):
        part = min(left, limits[gpu] if gpu < len(limits) else 0)
        taken.append(part)
        left -= part
    return [left, *taken]


def on_devices(shares: Sequence[int], cache: int, compute: int, other: int, spare: int = 0) -> tuple[Estimate, ...]:
    """Combine the `shares` of the weights (main memory, then each GPU) with the rest.

    The KV cache lies beside the weights of its layers; every device that computes needs the compute buffers.
    """
    main, *cards = shares
    on_cards = sum(cards)
    return (
        Estimate(main, 0 if on_cards else cache, 0 if on_cards else compute, other, spare),
        *(Estimate(part, cache * part // on_cards, compute, CUDA_CONTEXT_BYTES) if part else NOTHING for part in cards),
    )


def last_fitting(changes: Iterable[Options], options: Options, fitting: Callable[[Options], bool]) -> Iterator[Options]:
    """Yield, for each option, the last of the one-option `changes` that is a change and is `fitting`."""
    kept = {
        min(change): change for change in changes if change.items() - options.items() and fitting({**options, **change})
    }
    yield from kept.values()


def shorter_contexts(context: int) -> Iterator[int]:
    """Yield halves, quarters and so on of `context`, the shortest worth having first."""
    shorter = [context >> step for step in range(1, 8) if context >> step >= MIN_CONTEXT]
    yield from reversed(shorter)
