"""vLLM's server: the kind "vllm"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modules.core.answer_grammar import AnswerGrammar
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
from modules.engines.served.scoring import VllmScores
from modules.engines.served.server_kind import Ask, GenerateRequest, ServedPrompt, ServerFacts
from modules.engines.served.structural_tags import structural_tag
from modules.engines.served.tokens import HfTokens
from modules.loaders.server_samplers import SERVER_SAMPLERS

MOST_CANDIDATES = 20
"""vLLM's own limit of candidates, unless it was started with another --max-logprobs."""
_SENT_AS_THEY_ARE = (
    *("top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "skip_special_tokens"),
)


class Vllm:
    """A vLLM server: see `ServerKind`."""

    samplers = SERVER_SAMPLERS["vllm"]
    abilities = frozenset({"parallel", "loglikelihoods", "lora"})
    health = "/health"
    gives_ids = True

    def __init__(self, ask: Ask, facts: ServerFacts) -> None:
        self.facts, self._ask = facts, ask
        self._tokens = HfTokens(ask, facts, text_field="prompt")
        self._lora = OneLora(ask, facts, self._probe)
        self.questions: Operations = self._tokens.questions
        self.operations: Operations = {
            "apply_loras": self._lora.apply,
            "loglikelihoods": VllmScores(ask, facts, lambda: self.model).loglikelihoods,
        }

    @property
    def model(self) -> str:
        """The name that requests carry: that of the LoRA, if one is applied."""
        return self._lora.name or self.facts.model

    def tokenize(self, text: str) -> list[int]:
        return self._tokens.tokenize(text, self.facts.bos)

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        body = stream_fields(self.model) | self._sampling(params)
        limit = parameters.most_tokens(params, prompt, self.facts)
        body["max_tokens"] = limit or None
        body["min_tokens"] = parameters.least_tokens(params, limit)
        if interval > 1:  # the ids say how many tokens an event has
            body |= {"stream_interval": interval, "return_token_ids": True}
        if params.get("visible"):
            body["skip_special_tokens"] = False
        top = params["top_logprobs"]
        if top is not None:
            parameters.limited("top_logprobs", top, MOST_CANDIDATES)
        if prompt.messages:
            return GenerateRequest(CHAT, body | _chat(prompt, top), ChatReader(top))
        if ids:
            body["return_token_ids"] = True
        if top is not None:
            body |= {"logprobs": top, "return_token_ids": True}
        return GenerateRequest(COMPLETIONS, body | self._text(prompt, params), completion_reader(top))

    def _text(self, prompt: ServedPrompt, params: Mapping[str, Json]) -> dict[str, Json]:
        if prompt.tokens:
            return {"prompt": list(prompt.tokens)}
        has_bos = bool(self.facts.bos) and prompt.text.startswith(self.facts.bos)
        return {"prompt": prompt.text, "add_special_tokens": params["add_bos_token"] and not has_bos}

    def _sampling(self, params: Mapping[str, Json]) -> dict[str, Any]:
        """Return all parameters that vLLM has: for those left out it takes the model's generation_config.json."""
        body: dict[str, Any] = {key: params[key] for key in _SENT_AS_THEY_ARE}
        body |= parameters.openai_sampling(params, self.samplers)
        body["top_p"] = max(params["top_p"], parameters.LOWEST_TOP_P)
        body["ignore_eos"] = params["ban_eos_token"]
        if form := params.get("answer_grammar"):
            body["structured_outputs"] = _form(form)
        elif params["grammar_string"]:
            body["structured_outputs"] = {"grammar": params["grammar_string"]}
        return body

    def _probe(self, lora: str) -> dict[str, float]:
        """Return how likely the tokens after PROBE are, with a LoRA or without."""
        body = {"model": lora or self.facts.model, "prompt": PROBE, "max_tokens": 1, "temperature": 0, "logprobs": TOP}
        return top_logprobs(self._ask(COMPLETIONS, body).value)


def _form(form: AnswerGrammar) -> dict[str, Json]:
    if form[0] == "json":
        return {"json": parameters.without_marks(form[1])}
    return {"structural_tag": json.dumps(structural_tag(form))}


def _chat(prompt: ServedPrompt, top: int | None) -> dict[str, Json]:
    body: dict[str, Json] = {"messages": messages_of(prompt)}
    if prompt.continues:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body if top is None else body | {"logprobs": True, "top_logprobs": top}
