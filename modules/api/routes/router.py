"""llama-server's endpoints for several models, at the root: list, load, unload, and what the models are doing."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import Response, StreamingResponse

from modules.api.errors import json_response
from modules.api.model_list import list_models, model_status
from modules.api.model_use import plan_on_demand
from modules.api.request_body import Expected, RequestBody, Text
from modules.api.responses import sse_event
from modules.api.routes.models import owners_only
from modules.api.sse import SILENCE_SECONDS
from modules.app import App
from modules.core.events import Json
from modules.runtime.errors import NotInMemory
from modules.runtime.resident import Resident
from modules.runtime.waiting import release_early

_GAP_SECONDS = 0.1
"""Least time between two events of a model: a load may report its progress far more often."""


class ModelRequest(RequestBody):
    model_config = ConfigDict(extra="ignore")

    model: Annotated[Text, Expected("the name of a model", "模型名称")]


def routes(app: App) -> APIRouter:
    """Return the router. Handlers that may block are not `async`: they run in threads."""
    router, owner = APIRouter(), [owners_only(app)]

    @router.get("/models")
    def list_all() -> Response:
        return json_response({"object": "list", "data": list_models(app)})

    @router.post("/models/load", dependencies=owner)
    def load(body: ModelRequest) -> Response:
        """Begin a load. It is done when the list of models says so; until then, requests for the model wait."""
        name = app.record(body.model).name
        release_early(app.models.request(name, partial(plan_on_demand, app, name), math.inf))
        return json_response({"success": True})

    @router.post("/models/unload", dependencies=owner)
    def unload(body: ModelRequest) -> Response:
        names = {resident.name for resident in app.models.residents()}
        name = body.model if body.model in names else app.record(body.model).name
        if name not in names:
            raise NotInMemory(name)
        app.models.unload(name)
        return json_response({"success": True})

    @router.get("/models/sse")
    async def follow(request: Request) -> Response:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_changes(app), headers=headers, media_type="text/event-stream")

    return router


def _state(resident: Resident) -> Json:
    progress = {"progress": {"stage": "model", "value": resident.progress}} if resident.state == "loading" else {}
    return {"status": model_status(resident)["value"], **progress}


async def _changes(app: App) -> AsyncIterator[bytes]:
    """Yield an event for the state of each model that is not unloaded, then one for each change."""
    shown: dict[str, Json] = {}
    kind, has_changed, loop = "model_status", asyncio.Event(), asyncio.get_running_loop()

    def note() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has just been closed
            loop.call_soon_threadsafe(has_changed.set)

    with app.models.changes.watched_by(note):
        while True:
            has_changed.clear()
            states = {resident.name: _state(resident) for resident in app.models.residents()}
            gone = {name: {"status": "unloaded"} for name in shown if name not in states}
            for name, state in {**states, **gone}.items():
                if shown.get(name) != state:
                    yield sse_event({"model": name, "event": kind, "data": state})
            shown, kind = states, "status_change"
            await asyncio.sleep(_GAP_SECONDS)
            try:
                await asyncio.wait_for(has_changed.wait(), SILENCE_SECONDS)
            except asyncio.TimeoutError:
                yield b":\n\n"
