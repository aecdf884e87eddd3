"""What the UI and the API show of the model in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modules.core.errors import WebUIError
from modules.runtime.loaded_model import AppliedLora


@dataclass(frozen=True)
class Status:
    """A snapshot of the model in use. `version` grows with each change.

    `stage` and `progress` are those of `Progress`, while loading. `memory` and `freed` are bytes, `seconds` is how long
    the load took.
    """

    state: Literal["empty", "loading", "ready", "failed"] = "empty"
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
