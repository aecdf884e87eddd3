"""Fixtures for tests of the model manager."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modules.runtime.model_manager import ModelManager


@pytest.fixture
def owner() -> Iterator[ModelManager]:
    owner = ModelManager()
    yield owner
    owner.close()
