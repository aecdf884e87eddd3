"""Fixtures for tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.download_jobs import FILES, Program
from tests.support.downloading import REPO, download_threads, until
from tests.support.hub_server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(REPO, FILES)
        yield server


@pytest.fixture
def program(hub: HubServer, tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path, [hub.url])
    yield program
    for manager in program.running:
        manager.close()
    until(lambda: download_threads() == [], 1)
