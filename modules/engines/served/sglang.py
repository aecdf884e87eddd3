"""SGLang's server: the kind "sglang".

Written by its sources (entrypoints/openai and the native API of 0.5); it needs a GPU, so it was not run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modules.core.events import Json
from modules.engines.engine_protocol import Operations
from modules.engines.served import parameters
from modules.engines.served.lora import PROBE, TOP, OneLora
from modules.engines.served.openai_events import (
    CHAT,
    COMPLETIONS,
    ChatReader,
    completion_reader,
    messages_of,
    stream_fields,
    top_logprobs,
)
from modules.engines.served.prompts import without_bos
from modules.engines.served.scoring import SglangScores
from modules.engines.served.server_kind import Ask, GenerateRequest, ServedPrompt, ServerFacts
from modules.engines.served.structural_tags import structural_tag
from modules.engines.served.tokens import HfTokens
from modules.loaders.server_samplers import SERVER_SAMPLERS

_SENT_AS_THEY_ARE = (*("min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "skip_special_tokens"),)


class Sglang:
    """An SGLang server: see `ServerKind`."""

    samplers = SERVER_SAMPLERS["sglang"]
    abilities = frozenset({"parallel", "loglikelihoods", "lora"})
    health = "/health"
    gives_ids = True

    def __init__(self, ask: Ask, facts: ServerFacts) -> None:
        self.facts, self._ask = facts, ask
        self._tokens = HfTokens(ask, facts, text_field="text")
        self._lora = OneLora(ask, facts, self._probe)
        self.questions: Operations = self._tokens.questions
        self.operations: Operations = {
            "apply_loras": self._lora.apply,
            "loglikelihoods": SglangScores(ask, facts, lambda: self._lora.name).loglikelihoods,
        }

    def tokenize(self, text: str) -> list[int]:
        return self._tokens.tokenize(text, self.facts.bos)

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        body = stream_fields(self.facts.model) | self._sampling(params)
        limit = parameters.most_tokens(params, prompt, self.facts)
        body["min_tokens"] = parameters.least_tokens(params, limit)
        if limit:
            body["max_tokens"] = limit
        if self._lora.name:
            body["lora_path"] = self._lora.name
        if params.get("visible"):
            body["skip_special_tokens"] = False
        top = params["top_logprobs"]
        if prompt.messages:
            return GenerateRequest(CHAT, body | _chat(prompt, top), ChatReader(top))
        if ids:
            body["return_token_ids"] = True
        if top is not None:
            body |= {"logprobs": top, "return_token_ids": True}
        # Every text gets a BOS token; the field with which vLLM leaves it out is ignored.
        text = list(prompt.tokens) or without_bos(prompt.text, self.facts.bos)
        return GenerateRequest(COMPLETIONS, {**body, "prompt": text}, completion_reader(top))

    def _sampling(self, params: Mapping[str, Json]) -> dict[str, Any]:
        """Return all parameters that SGLang has: for those left out it takes the model's generation_config.json."""
        body: dict[str, Any] = {key: params[key] for key in _SENT_AS_THEY_ARE}
        body |= parameters.openai_sampling(params, self.samplers)
        body["top_k"] = params["top_k"] or -1
        body["top_p"] = max(params["top_p"], parameters.LOWEST_TOP_P)
        body["ignore_eos"] = params["ban_eos_token"]
        form = params.get("answer_grammar")
        if form and form[0] == "json":
            body["json_schema"] = json.dumps(parameters.without_marks(form[1]))
        elif form:
            body["response_format"] = structural_tag(form)
        elif params["grammar_string"]:
            body["ebnf"] = params["grammar_string"]
        return body

    def _probe(self, lora: str) -> dict[str, float]:
        """Return how likely the tokens after PROBE are, with a LoRA or without."""
        body: dict[str, Json] = {"model": self.facts.model, "prompt": PROBE, "max_tokens": 1, "temperature": 0}
        body |= {"logprobs": TOP} | ({"lora_path": lora} if lora else {})
        return top_logprobs(self._ask(COMPLETIONS, body).value)


def _chat(prompt: ServedPrompt, top: int | None) -> dict[str, Json]:
    body: dict[str, Json] = {"messages": messages_of(prompt)}
    if prompt.continues:
        body["continue_final_message"] = True
    return body if top is None else body | {"logprobs": True, "top_logprobs": top}
