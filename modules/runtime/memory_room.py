"""Measure memory, and tell whether a model fits into it beside the models that are loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import cast

from modules.engines.memory import NOTHING, UNLIMITED, Estimate, MemoryModel
from modules.loaders.availability import llamacpp_gpus
from modules.loaders.registry import Loader
from modules.runtime.load_plan import LoadPlan
from modules.runtime.node_memory import NodeMemory
from modules.system import cpu_memory, gpus
from modules.system.gpus import Gpu

RESERVE = 0.1
"""Share of the estimate that must be free beyond it, if a model is loaded beside others."""


@dataclass(frozen=True)
class Holding:
    """A model in memory, by its plan. One that stays is pinned: no load may unload it."""

    plan: LoadPlan
    stays: bool = False

    @property
    def name(self) -> str:
        return self.plan.record.name


class MemoryRoom:
    """Memory of this machine. `holdings` are the models in it, as their owner keeps them up to date.

    `available_memory`, `gpus` (those llama.cpp can use) and `torch_gpus` are measured anew at every call; bytes.
    `node_memory` knows that of other machines; `loading_nodes` are those to which a model is being sent.
    """

    def __init__(self) -> None:
        self.holdings: tuple[Holding, ...] = ()
        self.loading_nodes: frozenset[str] = frozenset()
        self.available_memory: Callable[[], int] = cpu_memory.available_memory
        self.gpus: Callable[[], Sequence[Gpu]] = partial(llamacpp_gpus, gpus.GpuMonitor())
        self.node_memory = NodeMemory()
        self.torch_gpus: Callable[[], Sequence[Gpu]] = gpus.GpuMonitor(gpus.torch_gpus).current

    def fits(self, plan: LoadPlan, kept: Sequence[LoadPlan], evicted: Sequence[LoadPlan] = ()) -> bool:
        """Whether a model fits beside those `kept`, with a reserve, once those `evicted` are unloaded.

        A model whose memory cannot be estimated fits only alone. An RPC node serves one model.
        """
        if any(set(plan.nodes) & set(other.nodes) for other in kept):
            return False
        needs = self._needs(plan)
        if needs is None or any(self._needs(other) is None for other in kept):
            return not kept
        free = [main if (main := self.free_main(kept, evicted)) is not None else 0]
        free += [device.free or UNLIMITED for device in self.remote_devices(plan.nodes)]
        free += self.free_on_cards(plan.loader, evicted)
        if not free[0]:  # unknown
            return not kept
        share = 1 + RESERVE if kept else 1
        return all(need.needed * share <= room for need, room in zip(needs, free, strict=False))

    def needed(self, plan: LoadPlan) -> int:
        """Return the bytes that a model needs on all devices; 0 if that cannot be estimated."""
        return sum(need.needed for need in self._needs(plan) or ())

    def free_main(self, kept: Sequence[LoadPlan], evicted: Sequence[LoadPlan]) -> int | None:
        """Return the bytes of main memory that a load may take; None if they are unknown.

        Files that the models `kept` have mapped count as available to the system, but not here.
        """
        available = self.available_memory()
        if not available:
            return None
        freed = sum(self.freed(plan)[0] for plan in evicted)
        return max(available + freed - sum(self._mapped(plan) for plan in kept), 1)

    def free_on_cards(self, loader: Loader, evicted: Sequence[LoadPlan]) -> list[int]:
        """Return the bytes of each GPU that a load may take."""
        # A loader that uses any cards sees the same ones as another; a model may be on none.
        columns = zip_longest(*(self.freed(plan)[1:] for plan in evicted), fillvalue=0)
        freed = zip_longest(self.cards(loader), map(sum, columns), fillvalue=0)
        return [max(card.free + more, 1) for card, more in freed if isinstance(card, Gpu)]

    def cards(self, loader: Loader) -> Sequence[Gpu]:
        return {"llama.cpp": self.gpus, "torch": self.torch_gpus}[loader.gpus]()

    def remote_devices(self, nodes: Sequence[str]) -> list[Gpu]:
        """Return the devices of RPC nodes. Of those that models of this program use, the memory is from before."""
        if not nodes:
            return []
        in_use = {node for holding in self.holdings for node in holding.plan.nodes} | self.loading_nodes
        return self.node_memory.devices(nodes, in_use)

    def _devices(self, plan: LoadPlan) -> list[int]:
        """Return the free bytes of the devices that a model can use beside main memory, those of nodes first."""
        return known_sizes([*self.remote_devices(plan.nodes), *self.cards(plan.loader)])

    def freed(self, plan: LoadPlan) -> list[int]:
        """Return bytes of main memory, then of each GPU here, that unloading a model would free; [0] if unknown."""
        memory, model = memory_model(plan.loader), plan.record.header or plan.record.shape
        if memory is None or model is None:
            return [0]
        devices = self._devices(plan)
        main, *others = memory.freed(model, plan.options, devices)
        return [main, *others[len(devices) - len(self.cards(plan.loader)) :]]

    def _mapped(self, plan: LoadPlan) -> int:
        """Return the bytes that a loaded model uses, although the system counts them as available."""
        needs = self._needs(plan)
        return max(needs[0].needed - self.freed(plan)[0], 0) if needs else 0

    def _needs(self, plan: LoadPlan) -> tuple[Estimate, ...] | None:
        if plan.loader.elsewhere:
            return (NOTHING,)
        memory, model = memory_model(plan.loader), plan.record.header or plan.record.shape
        if memory is None or model is None:
            return None
        return memory.placed(model, plan.options, self._devices(plan))


def known_sizes(devices: Sequence[Gpu]) -> list[int]:
    """Return the free bytes of devices. One of which they are unknown counts as large as the largest other one."""
    largest = max((device.free for device in devices), default=0) or 1
    return [device.free or largest for device in devices]


def memory_model(loader: Loader) -> MemoryModel | None:
    """Return the memory module that the loader's row names; None if it names none."""
    return cast(MemoryModel, importlib.import_module(loader.memory)) if loader.memory else None
