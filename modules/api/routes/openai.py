"""OpenAI's endpoints: models, completions and chat completions."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api import parameters
from modules.api.answering import answer
from modules.api.answers import Answers, begin
from modules.api.anthropic.models import model_info, models_page
from modules.api.auth import KEY
from modules.api.chat_calls import ChatCall, begin_chat
from modules.api.chat_responses import ChatResponseBuilder
from modules.api.completion_responses import CompletionResponseBuilder
from modules.api.error_shapes import speaks_anthropic
from modules.api.errors import json_response
from modules.api.generations import GenerationCall
from modules.api.model_use import use_model
from modules.api.prompts import echoed_prompts, plain_prompts
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.api.state import ApiState
from modules.app import App
from modules.catalog.background_scan import LIST_SECONDS
from modules.catalog.record import ModelRecord
from modules.core.errors import ModelLoading, NoModelLoaded
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied
from modules.runtime.loaded_model import LoadedModel


def routes(state: ApiState) -> APIRouter:
    router = APIRouter()
    _add_model_routes(router, state.app)
    _add_generation_routes(router, state)
    return router


# -- models ----------------------------------------------------------------------------------------------------------


def _add_model_routes(router: APIRouter, app: App) -> None:
    @router.get("/models")
    def list_models(request: Request) -> Response:
        loaded = _current_model(app)
        records = app.catalog.models(LIST_SECONDS)
        if loaded is not None and loaded.record.name not in [record.name for record in records]:
            records.insert(0, loaded.record)  # loaded by its path, from outside the folder of models
        models = [_model_object(record, loaded) for record in records]
        if speaks_anthropic(request.scope):
            return json_response(models_page(models, request.query_params))
        return json_response({"object": "list", "data": models})

    @router.get("/models/{name:path}")
    def get_model(name: str, request: Request) -> Response:
        loaded = _current_model(app)
        is_loaded = loaded is not None and loaded.record.name == name
        model = _model_object(loaded.record if loaded and is_loaded else app.record(name), loaded)
        return json_response(model_info(model) if speaks_anthropic(request.scope) else model)


def _current_model(app: App) -> LoadedModel | None:
    try:
        return app.models.current
    except (ModelLoading, NoModelLoaded, WorkerDied):
        return None


def _model_object(record: ModelRecord, loaded: LoadedModel | None) -> Json:
    """Return OpenAI's object, with `loaded` added: whether this model answers. `created` is the file's time."""
    created = 0
    with contextlib.suppress(OSError):  # it may just have been deleted
        created = int(record.path.stat().st_mtime)
    is_loaded = loaded is not None and loaded.record.name == record.name
    return {"id": record.name, "object": "model", "created": created, "owned_by": "local", "loaded": is_loaded}


# -- completions -----------------------------------------------------------------------------------------------------


def _add_generation_routes(router: APIRouter, state: ApiState) -> None:
    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await answer(request, body.stream, lambda: _begin_completion(state, request, body))

    @router.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        def builder(call: ChatCall) -> ChatResponseBuilder:
            parsers = call.parsers(body.n, raw=body.reasoning_format == "none")
            name, usage_chunk = call.model.record.name, body.stream_options.include_usage
            return ChatResponseBuilder(name, usage_chunk, call.ignored, parsers)

        return await answer(request, body.stream, lambda: begin_chat(state, request, body, builder))


async def _begin_completion(state: ApiState, request: Request, body: CompletionRequest) -> Answers:
    use = await use_model(state.app, request, body.model)
    with use.released_on_error():
        model, strict = use.model, state.app.flags.on("strict_api")
        params, ignored = parameters.resolve(body, model, state.defaults_of(model), strict)
        prompts = await asyncio.to_thread(plain_prompts, model, body, params)
        echoes = await asyncio.to_thread(echoed_prompts, model, prompts) if body.echo else [""] * len(prompts)
        echoes = [echo for echo in echoes for _ in range(body.n)]
        usage_chunk = body.stream_options.include_usage
        builder = CompletionResponseBuilder(model.record.name, len(prompts), usage_chunk, echoes, ignored)
        calls = [
            GenerationCall(prompt, parameters.seeded(params, index)) for prompt in prompts for index in range(body.n)
        ]
        return await begin(use, calls, builder, request.scope.get(KEY), state.running)
