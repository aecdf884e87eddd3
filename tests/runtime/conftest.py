"""Fixtures for tests of the model manager."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modules.runtime.model_manager import ModelManager
from modules.runtime.resident import ResidencyLimits
from tests.support.residents import Clock, MakeOwner
from tests.support.shelf import Shelf


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_owner(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeOwner]:
    """A function that makes a manager of models for that much space, with the clock of the test."""
    monkeypatch.setattr("modules.runtime.eviction._RECHECK_SECONDS", 0.05)
    owners: list[ModelManager] = []

    def make(space: int = 1, limits: ResidencyLimits | None = None, **sizes: int) -> ModelManager:
        owners.append(ModelManager(room=Shelf(space, **sizes), limits=limits, clock=clock))
        return owners[-1]

    yield make
    for owner in owners:
        owner.close()


@pytest.fixture
def owner() -> Iterator[ModelManager]:
    owner = ModelManager()
    yield owner
    owner.close()
