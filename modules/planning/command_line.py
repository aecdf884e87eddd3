"""What the command line says about loading models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.catalog.record import ModelRecord
from modules.config.flags import Flags
from modules.options.option import Value


@dataclass(frozen=True)
class CommandLine:
    """Loader, options and LoRAs of the command line. They apply to `model`, or to every model if it names none."""

    flags: Flags
    model: ModelRecord | None = None
    loras: Mapping[str, object] = field(default_factory=dict)

    def applies_to(self, record: ModelRecord) -> bool:
        # By name: a file that was replaced since is another record.
        return self.model is None or self.model.name == record.name

    def loader_for(self, record: ModelRecord) -> str:
        """Return the name of the loader to use for `record`; empty if none is prescribed."""
        return self.flags.text("loader") if self.applies_to(record) else ""

    def options_for(self, record: ModelRecord) -> Mapping[str, Value]:
        return self.flags.load if self.applies_to(record) else {}

    def loras_for(self, record: ModelRecord) -> Mapping[str, object]:
        return self.loras if self.applies_to(record) else {}
