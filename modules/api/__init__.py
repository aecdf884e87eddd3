"""The API: OpenAI's routes under /v1, and the original's internal ones. `attach` adds them to the server.

They are an application of their own, mounted at /v1, so that their errors have their own edge (`refusals`) and their
access its own check (`access`), whatever else the server carries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from modules.api import errors, parameters
from modules.api.auth import Access
from modules.api.errors import json_response, language_of
from modules.api.generations import Answers, Call, unless_gone
from modules.api.prompts import chat_prompt, echoed, plain_prompts
from modules.api.responses import ChatShape, CompletionShape, Shape
from modules.api.routes import downloads, loras
from modules.api.routes import models as internal
from modules.api.schemas import ChatRequest, CompletionRequest, Generation
from modules.api.sse import EventStream
from modules.app import App
from modules.catalog.record import ModelRecord
from modules.core.errors import NoModelLoaded, WorkerDied
from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.runtime.loaded_model import LoadedModel


def attach(server: FastAPI, app: App) -> None:
    """Add everything under /v1 to `server`."""
    defaults: internal.Defaults = WeakKeyDictionary()
    api = FastAPI(openapi_url=None)
    api.include_router(_model_routes(app))
    api.include_router(_answer_routes(app, defaults))
    api.include_router(internal.routes(app, defaults))
    api.include_router(downloads.routes(app))
    api.include_router(loras.routes(app))
    errors.register(api)
    server.mount("/v1", Access(api, app.flags))


# -- models ----------------------------------------------------------------------------------------------------------


def _model_routes(app: App) -> APIRouter:
    router = APIRouter()

    @router.get("/models")
    def models() -> Response:
        loaded = _current(app)
        records = app.catalog.models()
        if loaded is not None and loaded.record.name not in [record.name for record in records]:
            records.insert(0, loaded.record)  # named by its path, it lies elsewhere
        return json_response({"object": "list", "data": [_described(record, loaded) for record in records]})

    @router.get("/models/{name:path}")
    def model(name: str) -> Response:
        loaded = _current(app)
        if loaded is not None and loaded.record.name == name:
            return json_response(_described(loaded.record, loaded))
        return json_response(_described(app.record(name), loaded))

    return router


def _current(app: App) -> LoadedModel | None:
    try:
        return app.models.current
    except (NoModelLoaded, WorkerDied):
        return None


def _described(record: ModelRecord, loaded: LoadedModel | None) -> Json:
    """OpenAI's object, and whether this is the model that answers. "created" is the file's time."""
    created = 0
    with contextlib.suppress(OSError):  # it may just have been deleted
        created = int(record.path.stat().st_mtime)
    is_loaded = loaded is not None and loaded.record.name == record.name
    return {"id": record.name, "object": "model", "created": created, "owned_by": "local", "loaded": is_loaded}


# -- answers ---------------------------------------------------------------------------------------------------------


def _answer_routes(app: App, defaults: internal.Defaults) -> APIRouter:
    router = APIRouter()

    def settled(body: Generation, model: LoadedModel) -> dict[str, Json]:
        return parameters.settle(body, model, {**app.settings.current.generation, **defaults.get(model, {})})

    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        model = app.models.current
        params = settled(body, model)
        prompts = await asyncio.to_thread(plain_prompts, model, body, params)
        echoes = await asyncio.to_thread(echoed, model, prompts) if body.echo else [""] * len(prompts)
        echoes = [echo for echo in echoes for _ in range(body.n)]
        shape = CompletionShape(model.record.name, len(prompts), body.stream_options.include_usage, echoes)
        return await _answer(request, body, model, params, prompts, shape)

    @router.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        model = app.models.current
        params = settled(body, model)
        prompt = await asyncio.to_thread(chat_prompt, model, body, params)
        shape = ChatShape(model.record.name, 1, body.stream_options.include_usage)
        return await _answer(request, body, model, params, [prompt], shape)

    return router


async def _answer(
    request: Request,
    body: Generation,
    model: LoadedModel,
    params: Mapping[str, Json],
    prompts: Sequence[Prompt],
    shape: Shape,
) -> Response:
    """The loaded model answers, whatever model the request names: many clients must name one, and know but OpenAI's.

    The answer tells which it was.
    """
    calls = [Call(prompt, parameters.seeded(params, number)) for prompt in prompts for number in range(body.n)]
    answers = Answers(model, calls)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(answers.aclose)
        await unless_gone(request, answers.begin())
        if not body.stream:
            pieces = await unless_gone(request, answers.collect())
            return json_response(shape.whole(pieces, answers.ends))
        stack.pop_all()  # from here on the stream closes them
    return EventStream(answers, shape, len(calls), language_of(request.headers))
