"""Another program of this kind: the kind "text-studio".

It answers questions as a llama-server does, and generates by OpenAI's API with our own generation parameters, as far as
the loader of its model has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.core.events import Json
from modules.engines.engine_protocol import Operations
from modules.engines.served import parameters
from modules.engines.served.llama_server import LlamaServer
from modules.engines.served.openai_events import (
    CHAT,
    COMPLETIONS,
    ChatReader,
    completion_reader,
    messages_of,
    stream_fields,
)
from modules.engines.served.prompts import without_bos
from modules.engines.served.server_kind import Ask, GenerateRequest, ServedPrompt, ServerFacts
from modules.loaders.server_samplers import SCHEMA, SERVER_SAMPLERS

MOST_CANDIDATES = 20
_UNLIMITED = -1
_SENT_OTHERWISE = frozenset({SCHEMA, "logit_bias", "grammar_string"})


class TextStudio(LlamaServer):
    """Another of these programs: see `ServerKind`."""

    samplers = SERVER_SAMPLERS["text-studio"]
    gives_ids = False

    def __init__(self, ask: Ask, facts: ServerFacts) -> None:
        super().__init__(ask, facts)
        self.samplers = facts.samplers if facts.samplers is not None else SERVER_SAMPLERS["text-studio"]
        self.abilities = frozenset({"parallel"})
        self.operations: Operations = {}

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        body = stream_fields(self.facts.model) | self._own_parameters(params)
        body["max_tokens"] = parameters.most_tokens(params, prompt, self.facts) or _UNLIMITED
        top = params["top_logprobs"]
        if top is not None:
            parameters.limited("top_logprobs", top, MOST_CANDIDATES)
        if prompt.messages:
            listed = {} if top is None else {"logprobs": True, "top_logprobs": top}
            goes_on = {"continue_final_message": True, "add_generation_prompt": False} if prompt.continues else {}
            return GenerateRequest(
                CHAT, {**body, "messages": messages_of(prompt), **goes_on, **listed}, ChatReader(top)
            )
        text = list(prompt.tokens) or without_bos(prompt.text, self.facts.bos)
        listed = {} if top is None else {"logprobs": top}
        return GenerateRequest(COMPLETIONS, {**body, "prompt": text, **listed}, completion_reader(top))

    def _own_parameters(self, params: Mapping[str, Json]) -> dict[str, Any]:
        """Return all parameters: for those left out it takes what its owner has set."""
        body: dict[str, Any] = {key: params[key] for key in sorted(self.samplers - _SENT_OTHERWISE)}
        if params["stop"]:
            body["stop"] = list(params["stop"])
        if params["logit_bias"]:
            body["logit_bias"] = {str(token): float(bias) for token, bias in params["logit_bias"]}
        schema = parameters.schema_of(params)
        if schema is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif params["grammar_string"]:
            body["grammar_string"] = params["grammar_string"]
        return body
