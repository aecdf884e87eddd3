"""Vectors of texts in OpenAI's format, and scores of documents in Jina's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api.embeddings import EmbeddingRequest, RerankRequest, TaskRequest, embedding_body, parts, rerank_body
from modules.api.errors import json_response
from modules.api.ignored_fields import ignored_header
from modules.api.model_use import await_model
from modules.api.state import ApiState
from modules.api.while_connected import WhileConnected
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
    """Answer with the model that the request names, else with one of the `task`, as in `ModelRecord.task`.

    `compute` gets it and the fields that are ignored.
    """
    ignored = body.ignored(state.app.flags.on("strict_api"))
    with_headers = ignored_header(ignored)
    use = await await_model(state.app, request, body.model, body.kept_seconds, task)
    with use as model:
        model.require(task)
        async with WhileConnected(request.receive):
            answer = await compute(model, ignored)
        return await asyncio.to_thread(json_response, answer, 200, {**use.headers, **with_headers})


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
