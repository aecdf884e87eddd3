"""What guests of --multi-user see of a model on a server: never where the server is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.core.prompt import Prompt
from modules.core.request_route import passing, program
from modules.core.server_errors import ServerError
from modules.loaders.generation_settings import resolve
from modules.planning.load_request import LoadRequest
from modules.ui import model_menu
from modules.ui.handlers import Page
from modules.ui.model import residents
from modules.ui.model.model_html import load_status, pill
from tests.support.fake_server import FakeServer, Reply
from tests.support.page_parts import model_tab

MODELS = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 1000}]}
KEY = "sk-secret"


def seen(app: App) -> str:
    """Return all that the page of this application shows of its models, as one text."""
    page, tab = Page(app, "en"), model_tab(app)
    server = FastAPI()
    model_menu.add_route(server, app)
    http = TestClient(server)
    form = {**{part: part.value for part in tab.form.components}, tab.model: "far"}
    form |= {part: value for part, value in tab.show("far").items() if part in form}
    parts: list[Any] = [
        tab.list_models(None),
        tab.show("far"),
        asyncio.run(tab.explain(form)),
        pill(page.status, page.tr),
        load_status(page.status, page.tr, "en"),
        residents.body_of(app, "en"),
        http.get("/models/list").json(),
    ]
    return "\n".join(json.dumps(part, default=str) if not isinstance(part, dict) else str(part) for part in parts)


@pytest.mark.parametrize("guests", [True, False])
def test_guests_do_not_see_where_a_server_is_and_the_owner_does(
    make_app: Callable[..., App], tmp_path: Path, guests: bool
) -> None:
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    with FakeServer() as server:
        server.add("/v1/models", Reply(json=MODELS))
        server.add("/v1/completions", Reply(400, json={"error": f"{KEY} is no key at {server.url} (127.0.0.1)"}))
        port = server.url.rpartition(":")[2]
        (folder / "far.server.yaml").write_text(f"url: {server.url}\nmodel: m\n")
        (folder / ".keys.yaml").write_text(f"{server.url}: {KEY}\n")
        app = make_app(*(["--multi-user"] if guests else []))
        model = app.loading.begin(app.planner.plan(LoadRequest(app.record("far")))).result(timeout=10)
        ready = seen(app)
        with pytest.raises(ServerError) as failure, passing(["0123456789abcdef"]):
            list(model.generate(Prompt("x"), resolve({"max_new_tokens": 2})))
        assert server.requests[-1].headers["text-studio-route"] == f"0123456789abcdef,{program()}"
        server.close()
        with pytest.raises(ServerError) as unreachable:
            app.loading.begin(app.planner.plan(LoadRequest(app.record("far")))).result(timeout=10)
        failed = seen(app)
    assert "far" in ready and "far" in failed
    errors = f"{failure.value} {unreachable.value}"
    assert KEY not in ready + failed + errors
    for text in (ready, failed, errors):
        assert (port in text) is not guests and ("127.0.0.1" in text) is not guests
    assert ("far's server" in errors) is guests
    app.models.close()
