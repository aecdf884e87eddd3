"""The status of the page's model, as the UI and the API show it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modules.core.errors import WebUIError
from modules.runtime.loaded_model import AppliedLora
from modules.runtime.resident import Entry


@dataclass(frozen=True)
class Status:
    """A snapshot of the page's model. `version` grows with each change, also of other models.

    `model_version` and `loras_version` are the versions in which this model, or its state, and its LoRAs last changed.
    `stage` and `progress` are those of `Progress`, while loading. `memory` and `freed` are bytes, `seconds` is how long
    the load took. `server` is the kind of server that generates, if one does, and `address` where it is; `is_reachable`
    is false while it does not answer; `server_loras` are those that it offers. `samplers` and `abilities` are those of
    the model, while it is ready.
    """

    state: Literal["empty", "loading", "ready", "asleep", "failed"] = "empty"
    version: int = 0
    name: str = ""
    loader: str = ""
    stage: str = ""
    progress: float = 0.0
    context_length: int = 0
    memory: int = 0
    freed: int = 0
    seconds: float = 0.0
    error: WebUIError | None = None
    loras: tuple[AppliedLora, ...] = ()
    lora_problem: WebUIError | None = None
    server: str = ""
    samplers: frozenset[str] = frozenset()
    abilities: frozenset[str] = frozenset()
    address: str = ""
    is_reachable: bool = True
    server_loras: tuple[str, ...] = ()
    model_version: int = 0
    loras_version: int = 0

    def after(self, before: Status) -> Status:
        """Return this status with the versions of its parts, where `before` is the status that it replaces."""
        has_same_loras = (self.loras, self.lora_problem) == (before.loras, before.lora_problem)
        return replace(
            self,
            model_version=before.model_version if self._model() == before._model() else self.version,
            loras_version=before.loras_version if has_same_loras else self.version,
        )

    def _model(self) -> Status:
        """Return the status without its versions, its LoRAs and the memory: the page shows that of the load."""
        return replace(self, version=0, model_version=0, loras_version=0, loras=(), lora_problem=None, memory=0)


def status_of(entry: Entry | None, version: int, freed: int) -> Status:
    """Return the status of a model; None if the page has none."""
    if entry is None:
        return Status(version=version, freed=freed)
    name, loader, model = entry.name, entry.plan.loader.name, entry.model
    if entry.state == "loading":
        return Status("loading", version, name, loader, entry.stage, entry.progress)
    if entry.state != "ready" or model is None:
        return Status(entry.state, version, name, loader, error=entry.error)
    return Status(
        "ready",
        version,
        name,
        loader,
        context_length=model.info.context_length,
        memory=model.memory if model.loras else model.info.memory,
        seconds=entry.seconds,
        loras=model.loras,
        lora_problem=model.lora_problem,
        server=model.info.server,
        samplers=model.samplers,
        abilities=model.abilities,
        address=model.record.server.url if model.record.server else "",
        is_reachable=model.is_reachable,
        server_loras=model.info.loras,
    )
