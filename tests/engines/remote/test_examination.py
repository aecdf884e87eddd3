"""What is asked of a server before a model is made of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modules.core.events import Json
from modules.core.server_errors import ServerNotUnderstood
from modules.engines.remote import examination
from modules.engines.remote.examination import examine
from tests.support.fake_server import FakeServer, Reply


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def list_models(server: FakeServer, *entries: dict[str, Json]) -> None:
    server.add("/v1/models", Reply(json={"data": [{"owned_by": "llamacpp", **entry} for entry in entries]}))


def test_of_a_server_with_many_models_one_that_is_loaded_is_asked_about(server: FakeServer) -> None:
    unloaded, loaded = {"id": "a", "status": {"value": "unloaded"}}, {"id": "b", "status": {"value": "loaded"}}
    list_models(server, unloaded, loaded)
    examined = examine(server.url, "")
    assert (examined.models, examined.facts.model) == (("a", "b"), "b")
    assert not any("model=a" in request.path for request in server.requests), "it would load that model"
    list_models(server, unloaded)
    assert examine(server.url, "").facts.model == "a"


def test_the_main_process_reads_no_long_answers(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "LONGEST_ANSWER", 1000)
    list_models(server, {"id": "a", "meta": "x" * 1000})
    with pytest.raises(ServerNotUnderstood, match="too long"):
        examine(server.url, "")
