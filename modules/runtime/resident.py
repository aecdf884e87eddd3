"""The models that are loaded, being loaded or asleep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from modules.catalog.record import ModelRecord
from modules.core.errors import WebUIError
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel

State = Literal["loading", "ready", "asleep", "failed"]


@dataclass(frozen=True)
class Resident:
    """A snapshot of a model: one that is loaded, being loaded or asleep, or has failed.

    Of one that is asleep the process is gone, its settings are kept. `memory` are bytes of main memory. `generations`
    counts those under way. `on_demand` models were loaded by a request. `is_chosen` is the model of the page.
    `sleeps_in` are seconds until it goes to sleep unless it is used; None if it does not. `progress` is that of its
    load, from 0 to 1. `context_length` and `images` are as in `Info`, of a model that is loaded.
    `is_reachable` is false while the server on which it runs does not answer.
    """

    name: str
    loader: str
    state: State
    record: ModelRecord
    memory: int = 0
    generations: int = 0
    pinned: bool = False
    on_demand: bool = False
    is_chosen: bool = False
    sleeps_in: float | None = None
    progress: float = 0.0
    error: WebUIError | None = None
    context_length: int = 0
    images: bool = False
    is_reachable: bool = True


@dataclass(frozen=True)
class ResidencyLimits:
    """How many models are in memory at once, and how long, in seconds; None for no limit.

    `idle_seconds` are for all models, those `on_demand_seconds` only for models loaded by a request. A failed load is
    not repeated for `failure_seconds`. A request waits for `wait_seconds`, and at most `queue` requests wait.
    """

    models: int = 3
    idle_seconds: float | None = None
    on_demand_seconds: float | None = 3600.0
    wait_seconds: float = 300.0
    queue: int = 512
    failure_seconds: float = 30.0


@dataclass(eq=False)
class Entry:
    """What the model manager knows of one model, guarded by its lock.

    A model that is being loaded again is still in `model` until it makes room. `keep_alive` is what a request has asked
    for, in seconds: instead of the limits; infinity for ever.
    """

    plan: LoadPlan
    state: State = "loading"
    model: LoadedModel | None = None
    is_pinned: bool = False
    on_demand: bool = False
    keep_alive: float | None = None
    idle_since: float = 0.0
    order: int = 0
    seconds: float = 0.0
    stage: str = ""
    progress: float = 0.0
    error: WebUIError | None = field(default=None)

    @property
    def name(self) -> str:
        return self.plan.record.name

    @property
    def task(self) -> str:
        """Its task, as in `ModelRecord.task`; for a model on a server, the one that the server names."""
        return self.model.info.task if self.model is not None else self.plan.record.task

    @property
    def is_ready(self) -> bool:
        return self.state == "ready" and self.model is not None

    def sleep(self) -> None:
        """Keep what is needed to load the model again as it is."""
        if self.model is not None:
            self.plan = self.model.plan
        self.state, self.model, self.error, self.keep_alive = "asleep", None, None, None

    def fail(self, error: WebUIError) -> None:
        self.state, self.model, self.error = "failed", None, error

    def sleeps_at(self, limits: ResidencyLimits) -> float | None:
        """Return the time at which an idle model goes to sleep; None if it stays."""
        if self.is_pinned or not self.is_ready:
            return None
        seconds = self.keep_alive
        if seconds is None:
            seconds = limits.idle_seconds
        if seconds is None and self.on_demand:
            seconds = limits.on_demand_seconds
        return None if seconds is None or seconds == math.inf else self.idle_since + seconds

    def view(self, is_chosen: bool, limits: ResidencyLimits, now: float) -> Resident:
        model = self.model if self.state == "ready" else None
        sleeps_at = None if model is None or model.is_busy else self.sleeps_at(limits)
        return Resident(
            name=self.name,
            loader=self.plan.loader.name,
            state=self.state,
            record=self.plan.record,
            memory=model.memory if model is not None else 0,
            generations=model.generations if model is not None else 0,
            pinned=self.is_pinned,
            on_demand=self.on_demand,
            is_chosen=is_chosen,
            sleeps_in=None if sleeps_at is None else max(sleeps_at - now, 0.0),
            progress=self.progress if self.state == "loading" else 0.0,
            error=self.error,
            context_length=model.info.context_length if model is not None else 0,
            images=model.info.images if model is not None else False,
            is_reachable=model.is_reachable if model is not None else True,
        )
