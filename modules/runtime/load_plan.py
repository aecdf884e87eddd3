"""A load in which every decision has been made: the planner returns it, the model manager carries it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.errors import WebUIError
from modules.engines.llamacpp import arguments as llamacpp
from modules.loaders.load_settings import Setting, option_values
from modules.loaders.registry import Loader
from modules.options.option import Value


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA in the format that the loader reads, checked against the model. `weight` 1 is as it was trained.

    One without a `path` is the model's server's.
    """

    name: str
    path: Path | None
    weight: float


@dataclass(frozen=True)
class LoadPlan:
    """The model, its loader, every option of that loader with value and source, and the weights of LoRAs by name.

    Before a load `LoraManager.resolve` turns `loras` into `adapters`. `lora_problem` is why that failed: the model is
    then loaded without any.
    """

    record: ModelRecord
    loader: Loader
    settings: Mapping[str, Setting]
    loras: Mapping[str, object] = field(default_factory=dict)
    adapters: tuple[LoraAdapter, ...] = ()
    lora_problem: WebUIError | None = None

    @property
    def options(self) -> dict[str, Value]:
        """The values of all options, as an engine takes them."""
        return option_values(self.settings)

    @property
    def runs_remote_code(self) -> bool:
        """Whether Python files that come with the model would run."""
        setting = self.settings.get("trust_remote_code")
        return setting is not None and bool(setting.value)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The other machines that compute layers of the model, as host:port."""
        return llamacpp.nodes(self.options) if "rpc" in self.settings else ()

    def with_adapters(self, adapters: tuple[LoraAdapter, ...], problem: WebUIError | None = None) -> LoadPlan:
        return dataclasses.replace(self, adapters=adapters, lora_problem=problem)

    def loads_the_same(self, other: LoadPlan) -> bool:
        """Whether both lead to the same model in the same state, wherever the values of their options come from."""
        return (self.record, self.loader, self.options, self.adapters) == (
            other.record,
            other.loader,
            other.options,
            other.adapters,
        )
