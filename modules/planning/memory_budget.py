"""Measure the memory that a load may take, and reduce the context length of a plan to what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from modules.catalog.record import ModelRecord
from modules.core.errors import WebUIError
from modules.engines.memory import ContextModel
from modules.loaders.availability import llamacpp_gpus
from modules.loaders.load_settings import Setting, option_values
from modules.loaders.registry import Loader
from modules.planning.fit import Device, Fit, fit, fitting_context, memory_model
from modules.runtime.load_plan import LoadPlan
from modules.runtime.model_manager import ModelManager
from modules.system import cpu_memory, gpus
from modules.system.gpus import Gpu


class MemoryBudget:
    """Memory of this machine as a load sees it. The model in use counts as unloaded, for a load replaces it.

    `available_memory`, `gpus` (those llama.cpp can use) and `torch_gpus` are measured anew at every call; bytes.
    """

    def __init__(self, models: ModelManager) -> None:
        self._models = models
        self.available_memory: Callable[[], int] = cpu_memory.available_memory
        self.gpus: Callable[[], Sequence[Gpu]] = partial(llamacpp_gpus, gpus.GpuMonitor())
        self.torch_gpus: Callable[[], Sequence[Gpu]] = gpus.GpuMonitor(gpus.torch_gpus).current

    def fit(self, plan: LoadPlan) -> Fit | None:
        """Compare what `plan` needs with what is free; None if its memory cannot be estimated."""
        memory, model = memory_model(plan.loader), plan.record.header or plan.record.shape
        if memory is None or model is None:
            return None
        return fit(memory, model, plan.options, self.free_memory(plan.loader))

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
        fitting = shown_context or fitting_context(
            cast(ContextModel, memory), header, option_values(settings), self.free_memory(loader)
        )
        return dict(settings) if fitting >= full else {**settings, "n_ctx": Setting(fitting, "memory")}

    def free_memory(self, loader: Loader) -> tuple[Device, ...]:
        """Return main memory, then each GPU that the loader can use, with the bytes that a load may take."""
        available, cards = self.available_memory(), self._cards(loader)
        # A loader that uses any cards sees the same ones as another; the model in use may be on none.
        main, *others = (*self._freed_by_unload(), *(0 for _ in cards))
        return (
            Device("", available + main if available else 0),
            *(Device(card.name, max(card.free + freed, 1)) for card, freed in zip(cards, others, strict=False)),
        )

    def room_for_weights(self) -> int:
        """Return the bytes of all memory that weights loaded by torch can go to; 0 if unknown."""
        available = self.available_memory()
        if not available:
            return 0
        return available + sum(card.free for card in self.torch_gpus()) + sum(self._freed_by_unload())

    def _cards(self, loader: Loader) -> Sequence[Gpu]:
        return {"llama.cpp": self.gpus, "torch": self.torch_gpus}[loader.gpus]()

    def _freed_by_unload(self) -> list[int]:
        """Return bytes of main memory, then of each GPU, that unloading the model in use would free."""
        try:
            loaded = self._models.current
        except WebUIError:
            return [0]
        memory, model = memory_model(loaded.loader), loaded.record.header or loaded.record.shape
        if memory is None or model is None:
            return [0]
        return memory.freed(model, option_values(loaded.settings), [card.free for card in self._cards(loaded.loader)])
