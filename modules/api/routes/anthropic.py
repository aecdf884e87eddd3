"""Anthropic's endpoints: messages, and the number of their tokens."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modules.api import parameters
from modules.api.answering import answer
from modules.api.answers import Answers, begin
from modules.api.anthropic.conversion import Conversion, convert
from modules.api.anthropic.message_format import ANTHROPIC, MessageFormat
from modules.api.anthropic.schemas import CountTokensRequest, MessagesRequest
from modules.api.auth import KEY
from modules.api.chat_calls import prepare_chat
from modules.api.errors import json_response
from modules.api.generation_route import generation_route
from modules.api.generations import GenerationCall
from modules.api.ignored_fields import ignored_header
from modules.api.model_use import await_model, use_model
from modules.api.state import ApiState
from modules.runtime.loaded_model import GENERATE


def routes(state: ApiState) -> list[Route]:
    async def create(body: MessagesRequest, request: Request) -> ASGIApp:
        return await answer(request, body.stream, lambda: _begin(state, request, body), ANTHROPIC)

    async def count_tokens(body: CountTokensRequest, request: Request) -> Response:
        converted = _converted(state, body)
        use = await await_model(state.app, request, body.model, converted.chat.kept_seconds, GENERATE)
        with use as model:
            with converted.origins.respelling():
                call = await prepare_chat(state, model, converted.chat)
            count = await call.count_tokens()
        headers = {**use.headers, **ignored_header(converted.report(call.ignored))}
        return json_response({"input_tokens": count}, headers=headers)

    return [
        generation_route("/messages", MessagesRequest, create),
        generation_route("/messages/count_tokens", CountTokensRequest, count_tokens),
    ]


def _converted(state: ApiState, body: CountTokensRequest) -> Conversion:
    """Return the chat completion of a request. Raises what `convert` and, with `--strict-api`, `refuse_foreign` do."""
    converted = convert(body)
    if state.app.flags.on("strict_api"):
        converted.refuse_foreign()
    return converted


async def _begin(state: ApiState, request: Request, body: MessagesRequest) -> Answers:
    converted = _converted(state, body)
    use = await use_model(state.app, request, body.model, converted.chat.kept_seconds, GENERATE)
    with use.released_on_error():
        with converted.origins.respelling():
            call = await prepare_chat(state, use.model, converted.chat)
        builder = MessageFormat(
            use.model.record.name,
            call.parsers(1)[0],
            body.stop_sequences,
            converted.report(call.ignored),
            await call.count_tokens() if body.stream else 0,
            hides_thought=body.thinking is not None and body.thinking.display == "omitted",
        )
        calls = [GenerationCall(call.prompt.prompt, parameters.seeded(call.params, 0))]
        return await begin(use, calls, builder, request.scope.get(KEY), state.running)
