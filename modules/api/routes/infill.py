"""llama-server's endpoint at the root by which editors have a gap filled."""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from modules.api import parameters
from modules.api.answering import answer
from modules.api.answers import Answers, begin
from modules.api.auth import KEY
from modules.api.generation_route import generation_route
from modules.api.generations import GenerationCall
from modules.api.infill import InfillFormat, InfillRequest, infill_prompt
from modules.api.model_use import use_model
from modules.api.state import ApiState
from modules.runtime.loaded_model import GENERATE


def routes(state: ApiState) -> list[BaseRoute]:
    async def infill(body: InfillRequest, request: Request) -> ASGIApp:
        return await answer(request, body.stream, lambda: _begin(state, request, body))

    return [generation_route("/infill", InfillRequest, infill)]


async def _begin(state: ApiState, request: Request, body: InfillRequest) -> Answers:
    use = await use_model(state.app, request, body.model, body.kept_seconds, GENERATE)
    with use.released_on_error():
        params, ignored = parameters.resolve(
            body, use.model, state.defaults_of(use.model), state.app.flags.on("strict_api")
        )
        prompt = await state.threads.run(infill_prompt, use.model, body, params)
        builder = InfillFormat(use.model.record.name, ignored)
        call = GenerationCall(prompt, parameters.seeded(params, 0))
        return await begin(use, [call], builder, request.scope.get(KEY), state.running)
