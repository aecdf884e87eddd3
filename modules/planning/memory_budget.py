"""Measure the memory that a load may take, and reduce the context length of a plan to what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from modules.catalog.record import ModelRecord
from modules.engines.memory import ContextModel
from modules.loaders.load_settings import Setting, option_values
from modules.loaders.registry import Loader
from modules.options.load_llamacpp import AUTO, OFF, ON, USUAL_PARALLEL
from modules.planning.fit import Device, Fit, fit, fitting_context
from modules.runtime.load_plan import LoadPlan
from modules.runtime.memory_room import MemoryRoom, memory_model

STREAM_SHARE = 0.25
"""Most of the memory left beside a model that a KV cache for each request may take without being asked for."""


class MemoryBudget(MemoryRoom):
    """Memory of this machine as a load sees it. Models that it may unload count as unloaded."""

    def fit(self, plan: LoadPlan) -> Fit | None:
        """Compare what `plan` needs with what is free; None if its memory cannot be estimated."""
        memory, model = memory_model(plan.loader), plan.record.header or plan.record.shape
        if memory is None or model is None:
            return None
        return fit(memory, model, plan.options, self.free_memory(plan.loader, plan.record.name, plan.nodes))

    def shrink_context(
        self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting], shown_context: int = 0
    ) -> dict[str, Setting]:
        """Return `settings` with a context length that fits, with the source "memory", if the user asked for none.

        `shown_context` is one that was chosen like this before; it is kept. 0 measures what is free now.
        """
        header, memory = record.header, memory_model(loader)
        if header is None or memory is None or "n_ctx" not in settings:
            return dict(settings)
        if settings["n_ctx"].source not in ("default", "model"):
            return dict(settings)
        full = int(settings["n_ctx"].value) or header.context_length
        nodes = LoadPlan(record, loader, settings).nodes
        fitting = shown_context or fitting_context(
            cast(ContextModel, memory), header, option_values(settings), self.free_memory(loader, record.name, nodes)
        )
        return dict(settings) if fitting >= full else {**settings, "n_ctx": Setting(fitting, "memory")}

    def choose_streams(
        self, record: ModelRecord, loader: Loader, settings: Mapping[str, Setting]
    ) -> dict[str, Setting]:
        """Return `settings` with a decision for a `kv_unified` of "auto", with the source "automatic".

        Every request gets a KV cache of its own, which is faster with many at once, only if the user wants more of them
        than usual, so that nobody who chats alone pays for it, and if what is added to a shared cache takes at most
        STREAM_SHARE of the memory that would be left on each device.
        """
        header, memory, parallel = record.header, memory_model(loader), settings.get("parallel")
        is_auto = "kv_unified" in settings and settings["kv_unified"].value == AUTO
        if not is_auto or header is None or record.task or memory is None or parallel is None:
            return dict(settings)
        if int(parallel.value) <= USUAL_PARALLEL:
            return dict(settings)
        separate = {**settings, "kv_unified": Setting(OFF, "automatic")}
        devices = self.free_memory(loader, record.name, LoadPlan(record, loader, settings).nodes)
        sizes = [device.free for device in devices[1:]]
        needs = (memory.placed(header, option_values(choice), sizes) for choice in (settings, separate))
        plenty = all(
            device.free and more.total - one.total <= STREAM_SHARE * max(device.free - one.total, 0)
            for one, more, device in zip(*needs, devices, strict=True)
            if more.total > one.total
        )
        return separate if plenty else {**settings, "kv_unified": Setting(ON, "automatic")}

    def free_memory(self, loader: Loader, name: str = "", nodes: Sequence[str] = ()) -> tuple[Device, ...]:
        """Return main memory, then each device of the RPC `nodes` and each GPU that `loader` can use.

        The bytes are those that a load of `name` may take. A model of that name would be replaced, even if it is
        pinned.
        """
        kept = [holding.plan for holding in self.holdings if holding.stays and holding.name != name]
        evicted = [holding.plan for holding in self.holdings if holding.plan not in kept]
        cards = zip(self.cards(loader), self.free_on_cards(loader, evicted), strict=True)
        return (
            Device("", self.free_main(kept, evicted) or 0),
            *(Device(remote.name, remote.free) for remote in self.remote_devices(nodes)),
            *(Device(card.name, free) for card, free in cards),
        )

    def room_for_weights(self) -> int:
        """Return the bytes of all memory that weights loaded by torch can go to; 0 if unknown."""
        available = self.available_memory()
        if not available:
            return 0
        freed = (sum(self.freed(holding.plan)) for holding in self.holdings if not holding.stays)
        return available + sum(card.free for card in self.torch_gpus()) + sum(freed)
