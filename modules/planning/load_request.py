"""What a face asks for when it wants a model loaded, explained or its settings saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.catalog.record import ModelRecord


@dataclass(frozen=True)
class LoadRequest:
    """One request for a model; `Planner.plan` turns it into a `LoadPlan`.

    `loader` is a loader's name as typed; empty lets the planner choose. `form` holds raw option values, which outrank
    every other source. `saved` replaces the settings saved for the model; None reads them, and a fault in them is then
    an error. `shown_context` is the context length that the user saw after memory had reduced it, in tokens; it is
    used as it is, for free memory has changed since. 0 if there was none.
    """

    record: ModelRecord
    loader: str = ""
    form: Mapping[str, object] = field(default_factory=dict)
    saved: Mapping[str, object] | None = None
    shown_context: int = 0
