"""Requests that wait for a model to be loaded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from modules.core.errors import WebUIError
from modules.core.worker_errors import Unloaded
from modules.runtime.errors import ModelsBusy
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import Lease, LoadedModel

MakePlan = Callable[[], LoadPlan]


@dataclass(eq=False)
class Waiter:
    """A request for the model `name`, until the time `deadline`. `make_plan` decides how the model is loaded, None if
    the request may not load one."""

    name: str
    make_plan: MakePlan | None
    keep_alive: float | None
    deadline: float
    lease: Future[Lease] = field(default_factory=Future)


class WaitingRequests:
    """All requests that wait, the first one first. Its owner's lock guards it."""

    def __init__(self) -> None:
        self._waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)

    def check_room(self, name: str, most: int) -> None:
        """Raise ModelsBusy if `most` requests wait already, so that none for the model `name` may."""
        self.forget_cancelled()
        if len(self._waiters) >= most:
            raise ModelsBusy(name)

    def forget_cancelled(self) -> None:
        """Drop the requests whose clients have left."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.lease.cancelled()]

    def names(self) -> list[str]:
        """Return the models that are waited for, that of the first request first."""
        return list(dict.fromkeys(waiter.name for waiter in self._waiters))

    def plan_for(self, name: str) -> MakePlan | None:
        """Return how to plan the load of a model, None if no request may load it."""
        return next((waiter.make_plan for waiter in self._waiters if waiter.name == name and waiter.make_plan), None)

    def grant(self, name: str, model: LoadedModel) -> float | None:
        """Give the model to all who wait for it. Return how long the last one wants it to be kept, in seconds."""
        keep_alive = None
        for waiter in self._take(name):
            if waiter.lease.set_running_or_notify_cancel():
                keep_alive = waiter.keep_alive if waiter.keep_alive is not None else keep_alive
                _give(waiter, model)
        return keep_alive

    def refuse(self, name: str, error: WebUIError) -> None:
        """Tell all who wait for a model why they do not get it."""
        for waiter in self._take(name):
            _refuse(waiter, error)

    def refuse_overdue(self, now: float, loading: str) -> None:
        """Tell those who have waited too long, except for the model that is being loaded."""
        late = [waiter for waiter in self._waiters if waiter.deadline <= now and waiter.name != loading]
        self._waiters = [waiter for waiter in self._waiters if waiter not in late]
        for waiter in late:
            _refuse(waiter, ModelsBusy(waiter.name))

    def next_deadline(self, loading: str) -> float | None:
        """Return when `refuse_overdue` is needed next."""
        return min((waiter.deadline for waiter in self._waiters if waiter.name != loading), default=None)

    def _take(self, name: str) -> list[Waiter]:
        taken = [waiter for waiter in self._waiters if waiter.name == name]
        self._waiters = [waiter for waiter in self._waiters if waiter.name != name]
        return taken


class RecentFailures:
    """Loads that have failed, which are not repeated for some seconds. Its owner's lock guards it."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._failures: dict[str, tuple[float, WebUIError]] = {}

    def remember(self, name: str, error: WebUIError) -> None:
        self._failures[name] = (self._clock() + self._seconds, error)

    def forget(self, name: str) -> None:
        self._failures.pop(name, None)

    def check(self, name: str) -> None:
        """Raise why the load of a model has just failed."""
        until, error = self._failures.get(name, (0.0, None))
        if error is not None and self._clock() < until:
            raise error


def release_when_granted(lease: Future[Lease]) -> None:
    """Give up a request, whether it still waits or has just been granted."""
    if not lease.cancel():
        lease.add_done_callback(_release)


def release_early(lease: Future[Lease]) -> None:
    """Let a model be loaded without using it."""
    lease.add_done_callback(_release)


def _release(lease: Future[Lease]) -> None:
    if not lease.cancelled() and lease.exception() is None:
        lease.result().release()


def _give(waiter: Waiter, model: LoadedModel) -> None:
    try:
        waiter.lease.set_result(model.lease())
    except Unloaded as error:
        waiter.lease.set_exception(error)


def _refuse(waiter: Waiter, error: WebUIError) -> None:
    if waiter.lease.set_running_or_notify_cancel():
        waiter.lease.set_exception(error)
