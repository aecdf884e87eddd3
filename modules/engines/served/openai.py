"""Servers that are only known to have OpenAI's API: the kind "openai". LM Studio has some parameters more."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.core.server_errors import ServerRefused
from modules.engines.served import parameters
from modules.engines.served.openai_events import (
    CHAT,
    COMPLETIONS,
    ChatReader,
    completion_reader,
    messages_of,
    stream_fields,
)
from modules.engines.served.server_kind import GenerateRequest, ServedPrompt
from modules.engines.served.uncounted import UncountedServer
from modules.loaders.server_samplers import SERVER_SAMPLERS

MOST_CANDIDATES = 20
MOST_STOPS = 4
"""OpenAI refuses more strings that end an answer. The engine finds the others itself."""
LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
"""The field of the longest answer. OpenAI's reasoning models refuse the first name, other servers ignore the second."""
_NEUTRAL = {"top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}


class OpenAi(UncountedServer):
    """A server with OpenAI's API: see `ServerKind`."""

    samplers = SERVER_SAMPLERS["openai"]
    health = "/v1/models"
    _limit = LIMIT

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        if prompt.tokens:
            raise parameters.missing("prompts of token ids", "词符编号形式的提示词")
        if prompt.continues:
            raise parameters.missing("Continue", "续写")
        body = stream_fields(self.facts.model) | self.sampling(params)
        if limit := parameters.most_tokens(params, prompt, self.facts):
            body[self._limit] = limit
        top = params["top_logprobs"]
        if top is not None:
            parameters.limited("top_logprobs", top, MOST_CANDIDATES)
        if prompt.messages:
            listed = {} if top is None else {"logprobs": True, "top_logprobs": top}
            amended = partial(self._amended, self._limit, prompt, params)
            body |= {"messages": messages_of(prompt), **listed}
            return GenerateRequest(CHAT, body, ChatReader(top), amended=amended)
        listed = {} if top is None else {"logprobs": top}
        return GenerateRequest(COMPLETIONS, {**body, "prompt": prompt.text, **listed}, completion_reader(top))

    def _amended(
        self, sent: str, prompt: ServedPrompt, params: Mapping[str, Json], error: WebUIError
    ) -> GenerateRequest | None:
        """Return the request with NEW_LIMIT if the server has asked for that; later ones then have it at once."""
        if sent == NEW_LIMIT or not isinstance(error, ServerRefused) or NEW_LIMIT not in error.words:
            return None
        self._limit = NEW_LIMIT
        return self.request(prompt, params)

    def sampling(self, params: Mapping[str, Json]) -> dict[str, Any]:
        """Return the parameters that are set: a model may refuse some of them, whatever their values are."""
        body: dict[str, Any] = {key: params[key] for key, neutral in _NEUTRAL.items() if params[key] != neutral}
        body |= parameters.openai_sampling(params, self.samplers)
        if params["stop"]:
            body["stop"] = body["stop"][:MOST_STOPS]
        schema = parameters.schema_of(params)
        if schema is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body


class LmStudio(OpenAi):
    """LM Studio, written by its documentation: further samplers, and text completions too."""

    samplers = SERVER_SAMPLERS["lm-studio"]

    def sampling(self, params: Mapping[str, Json]) -> dict[str, Any]:
        top_k = {"top_k": params["top_k"]} if params["top_k"] else {}
        return super().sampling(params) | top_k | {"repeat_penalty": params["repetition_penalty"]}
