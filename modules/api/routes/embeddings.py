"""Vectors of texts in OpenAI's format, and scores of documents in Jina's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api.embeddings import EmbeddingRequest, RerankRequest, TaskRequest, embedding_body, parts, rerank_body
from modules.api.errors import json_response
from modules.api.generations import cancel_on_disconnect
from modules.api.ignored_fields import ignored_header
from modules.api.model_use import ModelUse, substituted, use_model
from modules.api.state import ApiState
from modules.app import App
from modules.core.errors import ModelNotFound, WebUIError
from modules.core.events import Json
from modules.formats.embedding import EMBED, RANK
from modules.runtime.loaded_model import LoadedModel


def routes(state: ApiState) -> APIRouter:
    """Return the endpoints below /v1."""
    router = APIRouter()

    @router.post("/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        return await _answer(state, request, body, EMBED, partial(_embed, body))

    _add_rerank(router, state)
    return router


def root_routes(state: ApiState) -> APIRouter:
    """Return the endpoint that llama-server and Jina have at the root, too."""
    router = APIRouter()
    _add_rerank(router, state)
    return router


def _add_rerank(router: APIRouter, state: ApiState) -> None:
    @router.post("/rerank")
    async def rerank(body: RerankRequest, request: Request) -> Response:
        return await _answer(state, request, body, RANK, partial(_rank, body))


async def _answer(
    state: ApiState,
    request: Request,
    body: TaskRequest,
    task: str,
    compute: Callable[[LoadedModel, list[str]], Coroutine[Any, Any, Json]],
) -> Response:
    """Answer with the model that the request names. `compute` gets it and the fields that are ignored."""
    ignored = body.ignored(state.app.flags.on("strict_api"))
    with_headers = ignored_header(ignored)
    use = await cancel_on_disconnect(request, _use_model_for(state.app, request, body, task))
    with use as model:
        model.require(task)
        answer: Json = await cancel_on_disconnect(request, compute(model, ignored))
        return await asyncio.to_thread(json_response, answer, 200, {**use.headers, **with_headers})


async def _use_model_for(app: App, request: Request, body: TaskRequest, task: str) -> ModelUse:
    """Return the model that the request names.

    Where no model has that name, that is a resident one of this task rather than the current one, which may chat.
    """
    unknown = bool(body.model) and not await asyncio.to_thread(_is_known, app, body.model)
    if (body.model and not unknown) or (unknown and app.flags.on("strict_model")):
        return await use_model(app, request, body.model, body.kept_seconds)
    name = await asyncio.to_thread(_resident_for, app, task)
    use = await use_model(app, request, name, body.kept_seconds)
    return ModelUse(use.model, substituted(body.model) if unknown else {}, use.release)


def _is_known(app: App, name: str) -> bool:
    try:
        app.record(name)
    except ModelNotFound:
        return app.models.is_resident(name)
    return True


def _resident_for(app: App, task: str) -> str:
    """Return the name of a model in memory, or asleep, that is of this task; "" if there is none."""
    for resident in sorted(app.models.residents(), key=lambda resident: not resident.is_chosen):
        with contextlib.suppress(WebUIError):  # deleted meanwhile
            if app.record(resident.name).task == task:
                return resident.name
    return ""


async def _embed(body: EmbeddingRequest, model: LoadedModel, ignored: list[str]) -> Json:
    vectors, tokens = list[str](), 0
    for first, inputs in parts(body.items):
        part = await model.ask_async(
            EMBED, inputs=inputs, first=first, dimensions=body.dimensions or 0, prompt=body.prompt_name
        )
        vectors += part["vectors"]
        tokens += part["tokens"]
    return await asyncio.to_thread(embedding_body, model.record.name, vectors, tokens, body.encoding_format, ignored)


async def _rank(body: RerankRequest, model: LoadedModel, ignored: list[str]) -> Json:
    scores, tokens = list[float](), 0
    for first, documents in parts(body.texts, beside=len(body.query)):
        part = await model.ask_async(RANK, query=body.query, documents=documents, first=first)
        scores += part["scores"]
        tokens += part["tokens"]
    return rerank_body(model.record.name, body, scores, tokens, ignored)
