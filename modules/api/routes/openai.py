"""OpenAI's endpoints: models, completions and chat completions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api import parameters
from modules.api.auth import KEY
from modules.api.errors import json_response, language_of
from modules.api.generations import GenerationCall, Generations, cancel_on_disconnect
from modules.api.prompts import chat_prompt, echoed_prompts, plain_prompts, thought_markers
from modules.api.responses import ChatResponseBuilder, CompletionResponseBuilder, ResponseBuilder
from modules.api.routes.inspection import Running
from modules.api.routes.models import Defaults
from modules.api.schemas import ChatRequest, CompletionRequest, GenerationRequest
from modules.api.sse import EventStream
from modules.app import App
from modules.catalog.background_scan import LIST_SECONDS
from modules.catalog.record import ModelRecord
from modules.core.errors import ModelLoading, NoModelLoaded
from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.core.worker_errors import WorkerDied
from modules.runtime.loaded_model import LoadedModel


def routes(app: App, defaults: Defaults, running: Running) -> APIRouter:
    """Return the router.

    `defaults` has the generation parameters that each loaded model was loaded with; `running` gets the generations.
    """
    router = APIRouter()
    _add_model_routes(router, app)
    _add_generation_routes(router, app, defaults, running)
    return router


# -- models ----------------------------------------------------------------------------------------------------------


def _add_model_routes(router: APIRouter, app: App) -> None:
    @router.get("/models")
    def list_models() -> Response:
        loaded = _current_model(app)
        records = app.catalog.models(LIST_SECONDS)
        if loaded is not None and loaded.record.name not in [record.name for record in records]:
            records.insert(0, loaded.record)  # loaded by its path, from outside the folder of models
        return json_response({"object": "list", "data": [_model_object(record, loaded) for record in records]})

    @router.get("/models/{name:path}")
    def get_model(name: str) -> Response:
        loaded = _current_model(app)
        if loaded is not None and loaded.record.name == name:
            return json_response(_model_object(loaded.record, loaded))
        return json_response(_model_object(app.record(name), loaded))


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


def _add_generation_routes(router: APIRouter, app: App, defaults: Defaults, running: Running) -> None:
    def resolve(body: GenerationRequest, model: LoadedModel) -> tuple[dict[str, Json], list[str]]:
        saved = {**app.settings.current.generation, **defaults.get(model, {})}
        return parameters.resolve(body, model, saved, strict=app.flags.on("strict_api"))

    @router.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        model = app.models.current
        params, ignored = resolve(body, model)
        prompts = await asyncio.to_thread(plain_prompts, model, body, params)
        echoes = await asyncio.to_thread(echoed_prompts, model, prompts) if body.echo else [""] * len(prompts)
        echoes = [echo for echo in echoes for _ in range(body.n)]
        include_usage = body.stream_options.include_usage
        builder = CompletionResponseBuilder(model.record.name, len(prompts), include_usage, echoes, ignored)
        return await _generate(request, body, model, params, prompts, builder, running)

    @router.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        model = app.models.current
        params, ignored = resolve(body, model)
        prompt = await asyncio.to_thread(chat_prompt, app.templates, model, body, params)
        if body.schema_text:
            params["thought"] = await asyncio.to_thread(thought_markers, app.templates, prompt)
        parsers = [prompt.parser() for _ in range(body.n)] if body.reasoning_format != "none" else []
        builder = ChatResponseBuilder(model.record.name, body.stream_options.include_usage, ignored, parsers)
        return await _generate(request, body, model, params, [prompt.prompt], builder, running)


async def _generate(
    request: Request,
    body: GenerationRequest,
    model: LoadedModel,
    params: Mapping[str, Json],
    prompts: Sequence[Prompt],
    builder: ResponseBuilder,
    running: Running,
) -> Response:
    """Answer with the loaded model, whatever model the request names.

    Many clients must name one, and know OpenAI's only. The response says which model it was.
    """
    calls = [GenerationCall(prompt, parameters.seeded(params, index)) for prompt in prompts for index in range(body.n)]
    generations = Generations(model, calls, request.scope.get(KEY))
    running.add(generations)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(generations.aclose)
        await cancel_on_disconnect(request, generations.wait_for_first_events())
        if not body.stream:
            texts = await cancel_on_disconnect(request, generations.collect())
            return json_response(builder.whole(texts, generations.finished), headers=builder.headers)
        stack.pop_all()  # from now on the stream closes them
    return EventStream(generations, builder, len(calls), language_of(request.headers))
