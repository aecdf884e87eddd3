"""The routes under /v1/internal/training: start, list, follow, stop, resume and delete training runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from modules.api.errors import json_response, language_of
from modules.api.request_body import Expected, RequestBody, Text
from modules.api.routes.models import owners_only
from modules.app import App


class TrainingRequest(RequestBody):
    """`parameters` have the keys of RUN.yaml; the run starts from the weights of the LoRA `continue_from`."""

    model_config = ConfigDict(extra="forbid")

    parameters: Annotated[
        dict[str, Any], Expected('an object such as {"lora_rank": 32}', '形如 {"lora_rank": 32} 的对象')
    ]
    continue_from: Annotated[Text, Expected("the name of a LoRA", "LoRA 名称")] = ""


class RunRequest(RequestBody):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, Expected("the name of a training run", "训练名称"), Field(min_length=1)]


def routes(app: App) -> APIRouter:
    """Return the router. Its handlers may block: without `async`, they run in threads."""
    router = APIRouter(prefix="/internal/training", dependencies=[owners_only(app)])
    runs = app.training.runs

    @router.get("")
    def list_runs(request: Request) -> Response:
        language = language_of(request.headers)
        return json_response({"runs": [view.to_json(language) for view in runs.snapshot()]})

    @router.post("")
    def start(body: TrainingRequest, request: Request) -> Response:
        return _run_response(app, app.training.start(body.parameters, body.continue_from), request)

    @router.post("/log")
    def log(body: RunRequest) -> Response:
        return json_response({"log": runs.log(body.name)})

    def run_route(action: Callable[[str], None]) -> Callable[[RunRequest, Request], Response]:
        def act(body: RunRequest, request: Request) -> Response:
            action(body.name)
            return _run_response(app, body.name, request)

        return act

    router.post("/stop")(run_route(runs.stop))
    router.post("/discard")(run_route(runs.discard))
    router.post("/resume")(run_route(runs.resume))

    @router.post("/delete")
    def delete(body: RunRequest) -> Response:
        runs.delete(body.name)
        return json_response({"name": body.name})

    return router


def _run_response(app: App, name: str, request: Request) -> Response:
    return json_response(app.training.runs.view(name).to_json(language_of(request.headers)))
