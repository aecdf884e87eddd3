"""The model of a run that writes: one that is loaded, or one that is asleep and has to be woken first."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from modules.core.errors import ModelLoading
from modules.runtime.loaded_model import Lease, LoadedModel
from modules.runtime.model_manager import ModelManager
from modules.runtime.waiting import release_when_granted

ModelSource = LoadedModel | Callable[[], Future[Lease]]
"""The second asks for the model, which wakes it; a run does so when it begins."""

WAKE_SECONDS = 15.0
"""Longest wait of a request of the page's script, which gives up a little later."""
_POLL_SECONDS = 0.1


def page_model(models: ModelManager) -> ModelSource:
    """Return the page's model, or how to wake it. Raises what `ModelManager.current` raises otherwise."""
    status = models.status
    return partial(models.request, status.name) if status.state == "asleep" else models.current


def awake_model(models: ModelManager) -> LoadedModel:
    """Return the page's model; one that is asleep is woken, which may take WAKE_SECONDS.

    Raises what `ModelManager.current` raises otherwise, ModelLoading if it takes longer, or why it could not be woken.
    """
    source = page_model(models)
    if isinstance(source, LoadedModel):
        return source
    name, lease = models.status.name, source()
    try:
        with lease.result(WAKE_SECONDS) as model:
            return model
    except concurrent.futures.TimeoutError:
        release_when_granted(lease)
        raise ModelLoading(name) from None


def wait_for_lease(source: ModelSource, stopped: threading.Event, report: Callable[[], None]) -> Lease | None:
    """Return a lease of the model once it is ready; None if `stopped` was set before.

    Calls `report` if it is not ready yet. Raises Unloaded, or why the model could not be woken.
    """
    if isinstance(source, LoadedModel):
        return source.lease()
    lease = source()
    if not lease.done():
        report()
    while not stopped.is_set():
        try:
            return lease.result(_POLL_SECONDS)
        except concurrent.futures.TimeoutError:
            continue
    release_when_granted(lease)
    return None
