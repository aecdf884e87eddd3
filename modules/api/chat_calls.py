"""Turn a chat completion into what the model gets, for all endpoints that chat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request

from modules.api import parameters
from modules.api.answers import AnswerFormat, Answers, begin
from modules.api.auth import KEY
from modules.api.generations import GenerationCall
from modules.api.model_use import use_model
from modules.api.prompts import after_thought, chat_prompt
from modules.api.schemas import ChatRequest
from modules.api.state import ApiState
from modules.chat.prompt import ChatPrompt
from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.pieces import ReplyParser
from modules.runtime.loaded_model import LoadedModel


@dataclass(frozen=True)
class ChatCall:
    """A chat completion as its model gets it. `ignored` are the fields of the request that it does without."""

    model: LoadedModel
    prompt: ChatPrompt
    params: Mapping[str, Json]
    ignored: tuple[str, ...] = ()

    def parsers(self, count: int) -> list[ReplyParser]:
        """Return a parser for each of `count` answers."""
        return [self.prompt.parser() for _ in range(count)]


async def prepare_chat(state: ApiState, model: LoadedModel, body: ChatRequest) -> ChatCall:
    """Return what `model` gets of a request. Raises what `parameters.resolve` and `prompts.chat_prompt` raise."""
    templates, strict = state.app.templates, state.app.flags.on("strict_api")
    if body.functions:
        raise Unsupported({"en": "tools is not supported.", "zh": "不支持 tools。"})
    params, ignored = parameters.resolve(body, model, state.defaults_of(model), strict)
    prompt = await asyncio.to_thread(chat_prompt, templates, model, body, params)
    if answer := params.get("answer_grammar"):
        params["answer_grammar"] = await asyncio.to_thread(after_thought, templates, prompt, answer)
    return ChatCall(model, prompt, params, tuple(ignored))


async def begin_chat(
    state: ApiState, request: Request, body: ChatRequest, builder: Callable[[ChatCall], AnswerFormat]
) -> Answers:
    """Start the `n` answers of a chat completion, written by the builder that `builder` returns.

    Raises what `use_model` and `prepare_chat` raise, and the refusal of the model.
    """
    use = await use_model(state.app, request, body.model)
    with use.released_on_error():
        call = await prepare_chat(state, use.model, body)
        calls = [GenerationCall(call.prompt.prompt, parameters.seeded(call.params, index)) for index in range(body.n)]
        return await begin(use, calls, builder(call), request.scope.get(KEY), state.running)
