"""Endpoints that show the prompt of a chat and the next token, and stop answers, in the original web UI's format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated
from weakref import WeakSet

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from modules.api import parameters
from modules.api.auth import KEY
from modules.api.errors import json_response
from modules.api.generations import Generations
from modules.api.prompts import chat_prompt
from modules.api.request_body import Expected, Flag, Text
from modules.api.routes.models import Defaults
from modules.api.schemas import ChatRequest, GenerationRequest
from modules.app import App
from modules.chat.prompt import text_prompt
from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.options.option import Value
from modules.runtime.loaded_model import LoadedModel

MAX_CANDIDATES = 200

Running = WeakSet[Generations]
"""The generations of this API that have not ended."""


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


def routes(app: App, defaults: Defaults, running: Running) -> APIRouter:
    """Return the router. Its handlers may block: without `async`, they run in threads."""
    router = APIRouter(prefix="/internal")

    def resolve(body: GenerationRequest, model: LoadedModel) -> Mapping[str, Json]:
        saved: Mapping[str, Value] = {**app.settings.current.generation, **defaults.get(model, {})}
        return parameters.resolve(body, model, saved, strict=app.flags.on("strict_api"))[0]

    @router.post("/chat-prompt")
    def show_prompt(body: ChatRequest) -> Response:
        model = app.models.current
        return json_response({"prompt": chat_prompt(app.templates, model, body, resolve(body, model)).prompt.text})

    @router.post("/logits")
    def next_tokens(body: LogitsRequest) -> Response:
        model = app.models.current
        if "next" not in model.loader.abilities:
            raise Unsupported(
                {
                    "en": f"The loader {model.loader.name} cannot list candidates for the next token.",
                    "zh": f"加载器 {model.loader.name} 无法列出下一个词符的候选。",
                }
            )
        params = resolve(body, model)
        prompt = text_prompt(body.prompt, params).to_json()
        found = model.ask("next", prompt=prompt, params=params, top=body.top_logits)
        if body.use_samplers:
            chances = {text: chance for _, text, chance in reversed(found["sampled"])}
        else:
            chances = {text: math.exp(logprob) for _, text, logprob in reversed(found["plain"])}
        return json_response({"logits": dict(reversed(chances.items()))})

    @router.post("/stop-generation")
    async def stop(request: Request) -> Response:
        """Stop the answers of this key or login, or all of the API's if there are neither."""
        key = request.scope.get(KEY)
        for generations in list(running):
            if generations.owner == key:
                generations.end()
        return json_response("OK")

    return router
