"""Helpers for tests of several models: requests for them, and what they are doing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from modules.runtime.loaded_model import Lease
from modules.runtime.model_manager import ModelManager
from modules.runtime.resident import Resident
from tests.support.echo_plans import plan, texts

MakeOwner = Callable[..., ModelManager]


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(owner: ModelManager, name: str, keep_alive: float | None = None) -> Future[Lease]:
    return owner.request(name, lambda: plan(name), keep_alive)


def lease(owner: ModelManager, name: str) -> Lease:
    return request(owner, name).result(timeout=10)


def use(owner: ModelManager, name: str, keep_alive: float | None = None) -> str:
    with request(owner, name, keep_alive).result(timeout=10) as model:
        return texts(model, f"hello {model.record.name.split()[0]}")


def states(owner: ModelManager) -> dict[str, str]:
    return {resident.name: resident.state for resident in owner.residents()}


def resident(owner: ModelManager, name: str) -> Resident:
    return next(resident for resident in owner.residents() if resident.name == name)


def is_loading(owner: ModelManager, name: str) -> bool:
    return any(one.name == name and one.progress > 0 for one in owner.residents())
