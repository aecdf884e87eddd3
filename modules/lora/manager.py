"""Find, check and apply LoRAs: from names and weights to adapters that a loaded model uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.errors import Unsupported, WebUIError
from modules.core.lora_errors import LoraNotFound, LoraRefused
from modules.loaders.registry import LOADERS, Loader
from modules.lora.catalog import LoraCatalog, LoraRecord
from modules.lora.compatibility import check_fit
from modules.lora.gguf_conversion import converted
from modules.lora.support import check_support
from modules.options.option import Option
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.loaded_model import AppliedLora, LoadedModel
from modules.runtime.model_manager import ModelManager

log = logging.getLogger(__name__)

ON_SERVER = "server"
"""The `kind` of a LoRA without files here."""
DEFAULT_WEIGHT = 1.0
WEIGHT = Option(
    "weight",
    "",
    DEFAULT_WEIGHT,
    {"en": "Weight", "zh": "权重"},
    {"en": "How strongly the LoRA acts; 1 is as it was trained.", "zh": "LoRA 作用的强度；1 为训练时的强度。"},
    minimum=0,
    maximum=2,
    step=0.05,
)

Weights = Mapping[str, object]
"""The weight of each LoRA by its name, as it was typed or read from a file."""


def parse_saved(value: object) -> dict[str, object]:
    """Read the LoRAs saved for a model: names with weights, or one name or several, which get the default weight."""
    if isinstance(value, Mapping):
        return {str(name): weight for name, weight in value.items()}
    names = value if isinstance(value, (list, tuple)) else [value] if isinstance(value, str) and value else []
    return {str(name): DEFAULT_WEIGHT for name in names}


class LoraManager:
    """Resolves the LoRAs of a plan, and changes those of the model in use, one change after the other."""

    def __init__(self, catalog: LoraCatalog, models: ModelManager) -> None:
        self.catalog = catalog
        self._models = models
        self._pool = ThreadPoolExecutor(1, "loras")

    def parse_flag(self, text: str, on_server: bool = False) -> dict[str, object]:
        """Read `--lora`: one LoRA a line, as name or name:weight. Raises LoraNotFound, or OptionError for a weight.

        With `on_server`, the model's server may have those that are not in the folder.
        """
        return dict(self._parse_line(line, on_server) for line in text.splitlines())

    def _parse_line(self, line: str, on_server: bool) -> tuple[str, object]:
        try:
            return self.catalog.find(line).name, DEFAULT_WEIGHT
        except LoraNotFound:
            name, colon, weight = line.rpartition(":")
            if not colon and not on_server:
                raise
            if not colon:
                return line, DEFAULT_WEIGHT
            return self._find(name, on_server).name, WEIGHT.parse(weight)

    def _find(self, name: str, on_server: bool) -> LoraRecord:
        """Return a LoRA of the folder, or one that only a server can know. Raises LoraNotFound."""
        try:
            return self.catalog.find(name)
        except LoraNotFound:
            if not on_server:
                raise
            return LoraRecord(name, Path(), ON_SERVER)

    def names(self, seconds: float | None = None) -> list[str]:
        """Return the LoRAs to choose from: those that the server of the model in use offers, then all on disk."""
        listed = [record.name for record in self.catalog.all(seconds)]
        return list(dict.fromkeys((*self._models.status.server_loras, *listed)))

    def resolve(self, plan: LoadPlan) -> LoadPlan:
        """Find, check and convert the LoRAs that a plan names. A model that cannot have them is loaded without any."""
        try:
            return plan.with_adapters(self._adapters(plan.loader, plan.record, plan.loras, plan.loader.abilities))
        except WebUIError as error:
            log.warning("%s", error)
            return plan.with_adapters((), error)

    def apply(self, weights: Weights, model: LoadedModel | None = None) -> tuple[AppliedLora, ...]:
        """Apply these LoRAs and no others to `model`, or to that in use, once its generations have ended.

        Raises LoraError, the problem of a LoRA's files, OptionError for a weight, Unsupported for the loader, Unloaded
        for a model that is closed, and what `ModelManager.current` raises; the LoRAs applied before then still are.
        """
        return self.begin(weights, model).result()

    def begin(self, weights: Weights, model: LoadedModel | None = None) -> Future[tuple[AppliedLora, ...]]:
        """Apply LoRAs in a thread of this manager's, for a long generation may have to end first."""
        return self._pool.submit(self._apply, weights, model)

    def _apply(self, weights: Weights, chosen: LoadedModel | None) -> tuple[AppliedLora, ...]:
        with (chosen or self._models.current).lease() as model:
            self._models.apply_loras(model, self._adapters(model.loader, model.record, weights, model.abilities))
            return model.loras

    def applied_to(self, record: ModelRecord) -> dict[str, float] | None:
        """Return the weights of the LoRAs applied to that model, by name.

        None if the model is not loaded, or if the LoRAs that it should have started with could not be applied.
        """
        status = self._models.status
        if status.state != "ready" or status.name != record.name or status.lora_problem is not None:
            return None
        return {applied.name: applied.weight for applied in status.loras}

    def _adapters(
        self, loader: Loader, model: ModelRecord, weights: Weights, abilities: frozenset[str]
    ) -> tuple[LoraAdapter, ...]:
        """Check LoRAs against the files of the model, and provide them in the format that its loader reads."""
        chosen = [(self._find(name, loader.elsewhere), float(WEIGHT.parse(raw))) for name, raw in weights.items()]
        by_name = {lora.name: (lora, weight) for lora, weight in chosen}  # two names may mean the same LoRA
        if not _supports(abilities, len(by_name)):
            raise _unsupported(loader.name, abilities)
        return tuple(_adapter(lora, weight, loader, model) for lora, weight in by_name.values())


def _adapter(lora: LoraRecord, weight: float, loader: Loader, model: ModelRecord) -> LoraAdapter:
    if lora.kind == ON_SERVER:
        return LoraAdapter(lora.name, None, weight)
    try:
        if not loader.elsewhere:  # a server alone can compare them
            check_fit(lora, model)
        check_support(lora, loader)
        path = converted(lora, model.header) if model.header and lora.kind == "peft" else lora.path
    except (OSError, KeyError, ValueError) as error:  # files of the LoRA or the model have just changed or vanished
        raise LoraRefused(lora.name, f"{type(error).__name__}: {error}") from error
    return LoraAdapter(lora.name, path, weight)


def _supports(abilities: frozenset[str], count: int) -> bool:
    return count == 0 or ("loras" if count > 1 else "lora") in abilities


def _unsupported(name: str, abilities: frozenset[str]) -> Unsupported:
    able = ", ".join(other.name for other in LOADERS.values() if _supports(other.abilities, 2) and not other.elsewhere)
    if _supports(abilities, 1):
        return Unsupported(
            {
                "en": f"{name} takes one LoRA at a time; {able} take several.",
                "zh": f"{name} 一次只能使用一个 LoRA；{able} 可同时使用多个。",
            }
        )
    return Unsupported(
        {
            "en": f"{name} cannot use LoRAs; {able} can.",
            "zh": f"{name} 不支持 LoRA；可使用 {able}。",
        }
    )
