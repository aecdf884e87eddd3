"""A load in which every decision has been made: what the planner answers with and the model manager carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.catalog.catalog import ModelRecord
from modules.loaders.registry import Loader, Setting


@dataclass(frozen=True)
class LoadPlan:
    """The model, its loader, every option of that loader with value and source, and the weights of LoRAs by name."""

    record: ModelRecord
    loader: Loader
    settings: Mapping[str, Setting]
    loras: Mapping[str, object] = field(default_factory=dict)

    @property
    def runs_remote_code(self) -> bool:
        """Whether Python files that come with the model would run."""
        setting = self.settings.get("trust_remote_code")
        return setting is not None and bool(setting.value)
