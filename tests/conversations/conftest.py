"""Fixtures for tests of conversations."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.conversations.store import ConversationStore


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "logs" if request.param == "disk" else None)
