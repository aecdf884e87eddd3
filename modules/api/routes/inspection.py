"""Endpoints that show the prompt of a chat and the next token, and stop answers, in the original web UI's format."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from modules.api import parameters
from modules.api.auth import KEY
from modules.api.chat_calls import prepare_chat
from modules.api.errors import json_response
from modules.api.model_use import await_model
from modules.api.request_body import Expected, Flag, Text
from modules.api.schemas import ChatRequest, GenerationRequest
from modules.api.state import ApiState
from modules.chat.prompt import text_prompt
from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.image_marks import shown
from modules.runtime.loaded_model import GENERATE, LoadedModel

MAX_CANDIDATES = 200


class LogitsRequest(GenerationRequest):
    """As in the original web UI, with the generation parameters."""

    prompt: Annotated[Text, Expected("a text", "文本")]
    use_samplers: Flag = False
    top_logits: Annotated[
        int, Field(ge=1, le=MAX_CANDIDATES), Expected(f"1 to {MAX_CANDIDATES}", f" 1 到 {MAX_CANDIDATES}")
    ] = 50

    @property
    def candidates(self) -> None:
        return None


def routes(state: ApiState) -> APIRouter:
    router = APIRouter(prefix="/internal")

    @router.post("/chat-prompt")
    async def show_prompt(body: ChatRequest, request: Request) -> Response:
        use = await await_model(state.app, request, body.model, task=GENERATE)
        with use as model:
            call = await prepare_chat(state, model, body)
        return json_response({"prompt": shown(call.prompt.prompt.text)}, headers=use.headers)

    @router.post("/logits")
    async def next_tokens(body: LogitsRequest, request: Request) -> Response:
        use = await await_model(state.app, request, body.model, task=GENERATE)
        with use as model:
            return json_response({"logits": await _logits(state, model, body)}, headers=use.headers)

    @router.post("/stop-generation")
    async def stop(request: Request) -> Response:
        """Stop the answers of this key or login, or all of the API's if there are neither."""
        key = request.scope.get(KEY)
        for generations in list(state.running):
            if generations.owner == key:
                generations.end()
        return json_response("OK")

    return router


async def _logits(state: ApiState, model: LoadedModel, body: LogitsRequest) -> Json:
    """Return the likeliest tokens with their probabilities, in falling order."""
    if "next" not in model.abilities:
        raise Unsupported(
            {
                "en": f"The loader {model.engine_name} cannot list candidates for the next token.",
                "zh": f"加载器 {model.engine_name} 无法列出下一个词符的候选。",
            }
        )
    params, _ = parameters.resolve(body, model, state.defaults_of(model), state.app.flags.on("strict_api"))
    prompt = text_prompt(body.prompt, params).to_json()
    found = await model.ask_async("next", prompt=prompt, params=params, top=body.top_logits)
    if body.use_samplers:
        chances = {text: chance for _, text, chance in reversed(found["sampled"])}
    else:
        chances = {text: math.exp(logprob) for _, text, logprob in reversed(found["plain"])}
    return dict(reversed(chances.items()))
