"""OpenAI's Responses. Nothing is stored: each request brings its whole conversation."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modules.api.answering import answer
from modules.api.answers import Answers
from modules.api.chat_calls import begin_chat, prepare_chat
from modules.api.errors import json_response
from modules.api.generation_route import generation_route
from modules.api.ignored_fields import ignored_header
from modules.api.model_use import await_model
from modules.api.openai_responses.builder import ResponsesBuilder
from modules.api.openai_responses.conversion import convert
from modules.api.openai_responses.schemas import ResponsesRequest, TokenCountRequest
from modules.api.sse import OPENAI, StreamStyle
from modules.api.state import ApiState
from modules.core.errors import WebUIError
from modules.runtime.loaded_model import GENERATE


def routes(state: ApiState) -> list[Route]:
    async def create_response(body: ResponsesRequest, request: Request) -> ASGIApp:
        conversion = convert(body)
        builder = ResponsesBuilder(body, conversion)

        async def begin() -> Answers:
            try:
                return await begin_chat(state, request, conversion.chat, builder.begin)
            except WebUIError as error:
                raise conversion.respelled(error) from None

        return await answer(request, body.stream, begin, StreamStyle(OPENAI.silence, builder.sse_error))

    async def count_tokens(body: TokenCountRequest, request: Request) -> Response:
        conversion = convert(body)
        use = await await_model(state.app, request, body.model, task=GENERATE)
        with use as model:
            try:
                call = await prepare_chat(state, model, conversion.chat)
            except WebUIError as error:
                raise conversion.respelled(error) from None
            count = await call.count_tokens()
        ignored = [*map(conversion.path, call.ignored), *conversion.ignored]
        headers = {**use.headers, **ignored_header(ignored)}
        return json_response({"object": "response.input_tokens", "input_tokens": count}, headers=headers)

    return [
        generation_route("/responses", ResponsesRequest, create_response),
        generation_route("/responses/input_tokens", TokenCountRequest, count_tokens),
    ]
