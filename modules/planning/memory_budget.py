"""How much memory a load may take, and what of a plan has to give way to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from modules.catalog.catalog import ModelRecord
from modules.core.errors import WebUIError
from modules.engines.hf.memory_prequantized import Quantised
from modules.formats.gguf_header import GgufHeader
from modules.loaders.availability import llamacpp_gpus
from modules.loaders.load_settings import Setting, values
from modules.planning.fit import Device, Facts, Fit, fit, fitting_context, memory_freed_by_unload
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
        self.gpus: Callable[[], Sequence[Gpu]] = partial(llamacpp_gpus, gpus.Gpus())
        self.torch_gpus: Callable[[], Sequence[Gpu]] = gpus.Gpus(gpus.of_torch).now

    def fit(self, plan: LoadPlan) -> Fit | None:
        """Compare what `plan` needs with what is free; None if its memory cannot be estimated."""
        facts = _estimable(plan.record, plan.loader.name)
        return None if facts is None else fit(facts, plan.options, self.free_memory(facts))

    def shrink_context(
        self, record: ModelRecord, settings: Mapping[str, Setting], shown_context: int = 0
    ) -> dict[str, Setting]:
        """Return `settings` with a context length that fits, with the source "memory", if the user asked for none.

        `shown_context` is one that was chosen like this before; it is kept. 0 measures what is free now.
        """
        header = record.header
        if header is None or "n_ctx" not in settings or settings["n_ctx"].source not in ("default", "model"):
            return dict(settings)
        full = int(settings["n_ctx"].value) or header.context_length
        fitting = shown_context or fitting_context(header, values(settings), self.free_memory(header))
        return dict(settings) if fitting >= full else {**settings, "n_ctx": Setting(fitting, "memory")}

    def free_memory(self, facts: Facts) -> tuple[Device, ...]:
        """Return main memory, then each GPU that the loader can use, with the bytes that a load may take."""
        available, cards = self.available_memory(), self._cards(facts)
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

    def _cards(self, facts: Facts) -> Sequence[Gpu]:
        return self.gpus() if isinstance(facts, GgufHeader) else self.torch_gpus()

    def _freed_by_unload(self) -> list[int]:
        """Return bytes of main memory, then of each GPU, that unloading the model in use would free."""
        try:
            model = self._models.current
        except WebUIError:
            return [0]
        facts = _estimable(model.record, model.loader.name)
        if facts is None:
            return [0]
        return memory_freed_by_unload(facts, values(model.settings), [card.free for card in self._cards(facts)])


def _estimable(record: ModelRecord, loader: str) -> Facts | None:
    """Return what the memory estimate of that loader needs; None if the model's files do not say it."""
    if record.shape is not None and record.shape.method:
        return Quantised(record.shape, loader)
    return record.header or record.shape
