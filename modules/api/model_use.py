"""Choose the model that answers a request, and hold it until the answer has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from urllib.parse import quote

from starlette.requests import Request

from modules.api.auth import is_owner, require_owner
from modules.api.errors import OwnerMustLoad
from modules.api.while_connected import WhileConnected
from modules.app import App
from modules.core.errors import ModelNotFound, NoModelLoaded
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import Lease, LoadedModel
from modules.runtime.waiting import release_when_granted

SUBSTITUTED = "X-Model-Substituted"
"""Header of an answer by another model than the one that was asked for, whose name it has, percent-encoded."""
_MAX_NAME = 200


def _do_nothing() -> None:
    """Release nothing."""


@contextmanager
def undone_on_error(undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` if the block raises, or is cancelled."""
    try:
        yield
    except BaseException:
        undo()
        raise


@dataclass(frozen=True)
class ModelUse:
    """A model that stays loaded until `release`, which may be called again. `headers` are for the answer."""

    model: LoadedModel
    headers: Mapping[str, str] = field(default_factory=dict)
    release: Callable[[], None] = _do_nothing

    def __enter__(self) -> LoadedModel:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def released_on_error(self) -> AbstractContextManager[None]:
        """Release the model if the block raises; otherwise its user goes on."""
        return undone_on_error(self.release)


async def use_model(
    app: App, request: Request, name: str = "", keep_alive: float | None = None, task: str | None = None
) -> ModelUse:
    """Return the model that answers a request for `name`; without a name, the current one.

    A model that is not in memory is loaded with its saved settings if the client may load models. For a name that no
    model has, the current one answers, and a header says so; with `--strict-model`, it is refused. With `task`, as in
    `ModelRecord.task`, a resident of this task answers in its stead if it is of another. `keep_alive` is how many
    seconds the model stays in memory after its last answer. Raises ModelNotFound, OwnerOnly, OwnersKeyNeeded or
    OwnerMustLoad, what `Planner.plan` and `LoadService.prepare` raise, and what `ModelManager.request` and its future
    raise.
    """
    may_load = is_owner(app, request.scope)
    found = await find_model(app, name)
    headers = substituted(name) if name and not found else {}
    if found and not may_load and not app.models.is_resident(found):
        require_owner(app, request.scope)
    make_plan = partial(plan_on_demand, app, found) if found and may_load else None
    with advice_for_role(may_load):
        pending = app.models.request(found, make_plan, keep_alive if may_load else None, task)
        return ModelUse(*await _granted(pending, headers))


async def await_model(
    app: App, request: Request, name: str = "", keep_alive: float | None = None, task: str | None = None
) -> ModelUse:
    """Do as `use_model`, but give up when the client disconnects: waiting requests keep others out of the queue."""
    async with WhileConnected(request.receive):
        return await use_model(app, request, name, keep_alive, task)


@contextmanager
def advice_for_role(may_load: bool) -> Iterator[None]:
    """Raise OwnerMustLoad in place of NoModelLoaded, whose advice is for those who may load models."""
    try:
        yield
    except NoModelLoaded as error:
        if may_load or type(error) is not NoModelLoaded:
            raise
        raise OwnerMustLoad from error


def substituted(name: str) -> dict[str, str]:
    """Return the header of an answer by another model than `name`."""
    return {SUBSTITUTED: quote(name[:_MAX_NAME], safe="/:.,+ ")}


def plan_on_demand(app: App, name: str) -> LoadPlan:
    """Decide how a model is loaded for a request: with its saved settings."""
    return app.loading.prepare(app.planner.plan(LoadRequest(app.record(name))))


async def find_model(app: App, name: str) -> str:
    """Return the whole name of a model: of a resident, or of one on disk; "" if there is none of that name.

    With `--strict-model`, it raises ModelNotFound then, unless `name` is empty.
    """
    if not name or app.models.is_resident(name):
        return name
    try:
        if not app.catalog.was_absent(name):  # clients that know OpenAI's names send them with every request
            return (await asyncio.to_thread(app.record, name)).name
    except ModelNotFound:
        pass
    if app.flags.on("strict_model"):
        raise ModelNotFound(name)
    return ""


async def _granted(
    pending: Future[Lease], headers: Mapping[str, str]
) -> tuple[LoadedModel, Mapping[str, str], Callable[[], None]]:
    try:
        lease = pending.result() if pending.done() else await asyncio.wrap_future(pending)
    except asyncio.CancelledError:  # the client has left
        release_when_granted(pending)
        raise
    return lease.model, headers, lease.release
