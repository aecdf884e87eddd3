"""A load, as it is asked for and carried out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from modules.core.errors import NoModelLoaded
from modules.loaders.availability import unavailable
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_load import ModelLoad
from modules.runtime.resident import Entry


@dataclass(eq=False)
class LoadTask:
    """A load by hand or for a request, or an unload, which has neither plan nor name.

    `number` grows in the order of the loads and unloads by hand. `outcome` serves everyone who asked for the same load.
    The plan of a load for a request is made by `make_plan` when its turn comes, and unless `needs_waiter` is off, it is
    given up if no request waits for it by then. `previous` was the page's model, `was_asleep` is about the one to load.
    """

    number: int = 0
    name: str = ""
    plan: LoadPlan | None = None
    make_plan: Callable[[], LoadPlan] | None = None
    by_hand: bool = True
    needs_waiter: bool = True
    outcome: Future[LoadedModel] = field(default_factory=Future)
    load: ModelLoad | None = None
    is_cancelled: bool = False
    previous: str = ""
    was_asleep: bool = False

    def joins(self, other: LoadTask) -> bool:
        """Whether `other` is the load that this one asks for, and still under way."""
        if self.plan is None or other.plan is None or other.outcome.done() or other.is_cancelled:
            return False
        return self.plan.loads_the_same(other.plan)

    def planned(self) -> LoadPlan:
        """Return the plan. Raises what making it raises, LoaderUnavailable, and the problem of the model."""
        if self.plan is None:
            if self.make_plan is None:
                raise NoModelLoaded()
            self.plan = self.make_plan()
        plan = self.plan
        if reason := unavailable(plan.loader, plan.record.format, plan.options) or plan.record.problem:
            raise reason
        return plan


def load_for_request(name: str, entry: Entry | None, make_plan: Callable[[], LoadPlan] | None) -> LoadTask | None:
    """Return the load of a model that is waited for: as it was before it fell asleep, else as the request says.

    None if the request may load none.
    """
    if entry is not None and (entry.state == "asleep" or make_plan is None):
        return LoadTask(name=name, plan=entry.plan, by_hand=False)
    return LoadTask(name=name, make_plan=make_plan, by_hand=False) if make_plan is not None else None
