"""OpenAI's endpoints: models, completions and chat completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

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
from modules.api.generation_route import generation_route
from modules.api.generations import GenerationCall
from modules.api.model_list import describe_model, list_models
from modules.api.model_use import use_model
from modules.api.prompts import echoed_prompts, is_text, plain_prompts
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.api.state import ApiState
from modules.app import App
from modules.runtime.loaded_model import GENERATE

# -- models ----------------------------------------------------------------------------------------------------------


def model_routes(app: App) -> APIRouter:
    router = APIRouter()

    @router.get("/models")
    def list_all(request: Request) -> Response:
        models = list_models(app)
        if speaks_anthropic(request.scope):
            return json_response(models_page(models, request.query_params))
        return json_response({"object": "list", "data": models})

    @router.get("/models/{name:path}")
    def get_model(name: str, request: Request) -> Response:
        model = describe_model(app, name)
        return json_response(model_info(model) if speaks_anthropic(request.scope) else model)

    return router


# -- completions -----------------------------------------------------------------------------------------------------


def generation_routes(state: ApiState) -> list[Route]:
    async def completions(body: CompletionRequest, request: Request) -> ASGIApp:
        return await answer(request, body.stream, lambda: _begin_completion(state, request, body))

    async def chat_completions(body: ChatRequest, request: Request) -> ASGIApp:
        def builder(call: ChatCall) -> ChatResponseBuilder:
            parsers = call.parsers(body.n, raw=body.reasoning_format == "none")
            name, usage_chunk = call.model.record.name, body.stream_options.include_usage
            return ChatResponseBuilder(name, usage_chunk, call.ignored, parsers)

        return await answer(request, body.stream, lambda: begin_chat(state, request, body, builder))

    return [
        generation_route("/chat/completions", ChatRequest, chat_completions),
        generation_route("/completions", CompletionRequest, completions),
    ]


async def _begin_completion(state: ApiState, request: Request, body: CompletionRequest) -> Answers:
    use = await use_model(state.app, request, body.model, body.kept_seconds, GENERATE)
    with use.released_on_error():
        model, strict = use.model, state.app.flags.on("strict_api")
        params, ignored = parameters.resolve(body, model, state.defaults_of(model), strict)
        if is_text(body):
            prompts = plain_prompts(model, body, params)
        else:
            prompts = await state.threads.run(plain_prompts, model, body, params)
        echoes = await state.threads.run(echoed_prompts, model, prompts) if body.echo else [""] * len(prompts)
        echoes = [echo for echo in echoes for _ in range(body.n)]
        usage_chunk = body.stream_options.include_usage
        builder = CompletionResponseBuilder(model.record.name, len(prompts), usage_chunk, echoes, ignored)
        calls = [
            GenerationCall(prompt, parameters.seeded(params, index)) for prompt in prompts for index in range(body.n)
        ]
        return await begin(use, calls, builder, request.scope.get(KEY), state.running)
