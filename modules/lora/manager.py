"""LoRAs and the model in use: from names and weights to adapters that have proven their effect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from modules.catalog.catalog import ModelRecord
from modules.core.errors import Unloaded, Unsupported, WebUIError, WorkerDied
from modules.core.lora_errors import LoraNotFound, LoraRefused
from modules.loaders.registry import LOADERS, Loader
from modules.lora.catalog import LoraRecord, Loras
from modules.lora.compatibility import check_fit
from modules.lora.gguf_conversion import converted
from modules.options.option import Option
from modules.runtime.model_manager import Applied, LoadedModel, Models

log = logging.getLogger(__name__)

AS_TRAINED = 1.0
WEIGHT = Option(
    "weight",
    "",
    AS_TRAINED,
    {"en": "Weight", "zh": "权重"},
    {"en": "How strongly the LoRA acts; 1 is as it was trained.", "zh": "LoRA 作用的强度；1 为训练时的强度。"},
    minimum=0,
    maximum=2,
    step=0.05,
)

Wanted = Mapping[str, object]
"""The weight of each LoRA, by its name, as it was typed or found on disk."""


def wanted(told: object) -> dict[str, object]:
    """What `told`, of a file of settings, means: names with weights, or names alone, which weigh 1."""
    if isinstance(told, Mapping):
        return {str(name): weight for name, weight in told.items()}
    names = told if isinstance(told, (list, tuple)) else [told] if isinstance(told, str) and told else []
    return {str(name): AS_TRAINED for name in names}


@dataclass(frozen=True)
class _Adapter:
    record: LoraRecord
    weight: float
    path: str


class LoraControl:
    """Changes the LoRAs of the model in use, one change after the other."""

    def __init__(self, loras: Loras, models: Models) -> None:
        self.list = loras
        self._models = models
        self._pool = ThreadPoolExecutor(1, "loras")
        models.adapt = self.adapt

    def applied_to(self, record: ModelRecord) -> dict[str, float] | None:
        """Return the weights of the LoRAs applied to that model, by name; None if it is not loaded, or if those that it
        should have had from the start could not be applied."""
        status = self._models.status
        if status.state != "ready" or status.name != record.name or status.lora_problem is not None:
            return None
        return {applied.name: applied.weight for applied in status.loras}

    def flagged(self, text: str) -> dict[str, object]:
        """The words of `--lora`, a line each: a name, or name:weight."""
        return dict(self._flagged(word) for word in text.splitlines())

    def _flagged(self, word: str) -> tuple[str, object]:
        try:
            return self.list.find(word).name, AS_TRAINED
        except LoraNotFound:
            name, colon, weight = word.rpartition(":")
            if not colon:
                raise
            return self.list.find(name).name, WEIGHT.parse(weight)

    def apply(self, asked: Wanted) -> tuple[Applied, ...]:
        """Have these, and no others, in force; it waits for the answers under way.

        LoraError, ModelProblem of a LoRA, OptionError for a weight, Unsupported for the loader, and what
        `Models.current` raises; then those in force before still are.
        """
        return self.begin(asked).result()

    def begin(self, asked: Wanted) -> Future[tuple[Applied, ...]]:
        """`apply`, on a thread of its own: who waits for a long answer to end keeps nobody else's."""
        return self._pool.submit(self._change, asked)

    def _change(self, asked: Wanted) -> tuple[Applied, ...]:
        model = self._models.current
        self._put(model, asked)
        self._models.tell(model)
        return model.loras

    def adapt(self, model: LoadedModel, asked: Wanted) -> None:
        """Apply those that a model is to have from the start. If they cannot be, the model goes without them."""
        try:
            self._put(model, asked)
        except (WorkerDied, Unloaded):
            raise
        except WebUIError as error:
            log.warning("%s", error)
            model.lora_problem = error

    def _put(self, model: LoadedModel, asked: Wanted) -> None:
        adapters = self._adapters(model.loader, model.record, asked)
        told = [{"name": each.record.name, "path": each.path, "weight": each.weight} for each in adapters]
        effects = model.ask("apply_loras", adapters=told) if told or model.loras else []
        pairs = zip(adapters, effects, strict=True)
        model.loras = tuple(Applied(each.record.name, each.weight, effect) for each, effect in pairs)
        model.lora_problem = None

    def _adapters(self, loader: Loader, model: ModelRecord, asked: Wanted) -> list[_Adapter]:
        """Checked against the files of the model, and in the format that its loader reads."""
        found = [(self.list.find(name), float(WEIGHT.parse(raw))) for name, raw in asked.items()]
        wanted = {lora.name: (lora, weight) for lora, weight in found}  # two names may mean the same one
        if not _takes(loader, len(wanted)):
            raise _unable(loader)
        return [self._adapter(lora, weight, model) for lora, weight in wanted.values()]

    def _adapter(self, lora: LoraRecord, weight: float, model: ModelRecord) -> _Adapter:
        try:
            check_fit(lora, model)
            path = converted(lora, model.header) if model.header and lora.kind == "peft" else lora.path
        except (OSError, KeyError, ValueError) as error:  # its files, or the model's, are being changed or taken away
            raise LoraRefused(lora.name, f"{type(error).__name__}: {error}") from error
        return _Adapter(lora, weight, str(path))


def _takes(loader: Loader, count: int) -> bool:
    return count == 0 or ("loras" if count > 1 else "lora") in loader.abilities


def _unable(loader: Loader) -> Unsupported:
    able = ", ".join(each.name for each in LOADERS.values() if _takes(each, 2))
    if _takes(loader, 1):
        return Unsupported(
            {
                "en": f"{loader.name} takes one LoRA at a time; {able} take several.",
                "zh": f"{loader.name} 一次只能使用一个 LoRA；{able} 可同时使用多个。",
            }
        )
    return Unsupported(
        {
            "en": f"{loader.name} cannot use LoRAs; {able} can.",
            "zh": f"{loader.name} 不支持 LoRA；可使用 {able}。",
        }
    )
