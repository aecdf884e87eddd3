"""Endpoints under /v1/internal: load, unload and query the model, in the original web UI's format."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from modules.api.auth import require_owner
from modules.api.errors import json_response, language_of
from modules.api.internal_schemas import ModelLoadRequest, TextRequest, TokensRequest
from modules.api.model_use import await_model
from modules.api.state import ApiState
from modules.app import App
from modules.core.errors import ModelLoading, NoModelLoaded, OptionError
from modules.core.events import Json, Note
from modules.core.worker_errors import WorkerDied
from modules.loaders.generation_settings import PARAMETERS
from modules.loaders.load_settings import option_values
from modules.options.option import parse_all
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel

_NO_MODEL = "None"  # the original's word for no loaded model


def routes(state: ApiState) -> APIRouter:
    """Return the router. Its handlers may block: without `async`, they run in threads."""
    app = state.app
    router, owner = APIRouter(prefix="/internal"), [owners_only(app)]

    @router.get("/model/info")
    def model_info() -> Response:
        return json_response(_info(app))

    @router.get("/health")
    def health() -> Response:
        return json_response({"status": "ok"})

    @router.get("/model/list")
    def list_names() -> Response:
        return json_response({"model_names": [record.name for record in app.selectable_models()]})

    @router.post("/model/load", dependencies=owner)
    def load(body: ModelLoadRequest, request: Request) -> Response:
        plan, settings = _plan(app, body), parse_all(PARAMETERS, body.settings)
        model = app.loading.load(plan)
        state.defaults[model] = settings
        return json_response(_load_result(model, app.loading.notes(model), language_of(request.headers)))

    @router.post("/model/unload", dependencies=owner)
    def unload() -> Response:
        return json_response({"model_name": _NO_MODEL, "freed": app.models.unload()})

    @router.post("/encode")
    async def encode(body: TextRequest, request: Request) -> Response:
        tokens = await _ask(state, request, "encode", text=body.text)
        return json_response({"tokens": tokens, "length": len(tokens)})

    @router.post("/decode")
    async def decode(body: TokensRequest, request: Request) -> Response:
        return json_response({"text": await _ask(state, request, "decode", tokens=body.tokens)})

    @router.post("/token-count")
    async def token_count(body: TextRequest, request: Request) -> Response:
        return json_response({"length": await _ask(state, request, "count", text=body.text)})

    return router


async def _ask(state: ApiState, request: Request, operation: str, **args: Json) -> Json:
    with await await_model(state.app, request) as model:
        return await model.ask_async(operation, **args)  # threads are few, and a long text takes the model seconds


def owners_only(app: App) -> Any:
    """Return a dependency of routes that are the owner's alone: see `require_owner`."""

    def check(request: Request) -> None:
        require_owner(app, request.scope)

    return Depends(check)


def _info(app: App) -> Json:
    try:
        model = app.models.current
    except ModelLoading as error:
        return {"model_name": _NO_MODEL, "lora_names": [], "loader": None, "loading": error.model}
    except (NoModelLoaded, WorkerDied):
        return {"model_name": _NO_MODEL, "lora_names": [], "loader": None}
    names = [lora.name for lora in model.loras]
    return {"model_name": model.record.name, "lora_names": names, "loader": model.loader.name}


def _plan(app: App, body: ModelLoadRequest) -> LoadPlan:
    args = dict(body.args)
    loader = args.pop("loader", None) or ""
    if not isinstance(loader, str):
        raise OptionError("loader", str(loader), {"en": "the name of a loader", "zh": "加载器名称"})
    return app.planner.plan(LoadRequest(app.record(body.model_name), loader, form=args))


def _load_result(model: LoadedModel, notes: Iterable[Note], language: str) -> Json:
    """Return every option at its effective value, and notes on options that could not take effect."""
    return {
        "model_name": model.record.name,
        "loader": model.loader.name,
        "context_length": model.info.context_length,
        "options": option_values(model.settings),
        "loras": [dataclasses.asdict(lora) for lora in model.loras],
        "lora_problem": model.lora_problem.say(language) if model.lora_problem else None,
        "notes": [{"option": note.option, "text": note.text[language]} for note in notes],
    }
