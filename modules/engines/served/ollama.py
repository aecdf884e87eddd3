"""Ollama's server: the kind "ollama", by its own API, as its imitation of OpenAI's has fewer parameters.

Written by its documentation and sources (api/types.go, server/routes.go, 2026); it was not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.core.events import Json
from modules.engines.served import parameters
from modules.engines.served.logprobs import of_chat
from modules.engines.served.openai_events import ChatReader, error_text, event_of
from modules.engines.served.prompts import without_bos
from modules.engines.served.server_kind import (
    GenerateRequest,
    Piece,
    Read,
    ServedPrompt,
    known_counts,
)
from modules.engines.served.uncounted import UncountedServer
from modules.loaders.server_samplers import SERVER_SAMPLERS

GENERATE, CHAT = "/api/generate", "/api/chat"
MOST_CANDIDATES = 20
_SENT_AS_THEY_ARE = ("top_k", "top_p", "min_p", "typical_p", "frequency_penalty", "presence_penalty")
_MESSAGE_FIELDS = ("role", "content", "tool_calls")


class Ollama(UncountedServer):
    """An Ollama server: see `ServerKind`."""

    samplers = SERVER_SAMPLERS["ollama"]
    health = "/api/version"

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        if prompt.tokens:
            raise parameters.missing("prompts of token ids", "词符编号形式的提示词")
        # A prompt that is too long is to be an error, not cut; nor may the beginning be dropped during the answer.
        body: dict[str, Json] = {"model": self.facts.model, "stream": True, "truncate": False, "shift": False}
        body["options"] = self._options(params, prompt)
        top = params["top_logprobs"]
        if top is not None:
            body |= {"logprobs": True, "top_logprobs": parameters.limited("top_logprobs", top, MOST_CANDIDATES)}
        schema = parameters.schema_of(params)
        if schema is not None:
            body["format"] = schema
        if prompt.messages:
            messages = [{key: one[key] for key in _MESSAGE_FIELDS if key in one} for one in prompt.messages]
            return GenerateRequest(CHAT, body | {"messages": messages}, reader(top), is_ndjson=True)
        text = without_bos(prompt.text, self.facts.bos)
        return GenerateRequest(GENERATE, body | {"prompt": text, "raw": True}, reader(top), is_ndjson=True)

    def _options(self, params: Mapping[str, Json], prompt: ServedPrompt) -> dict[str, Any]:
        """Return all parameters that Ollama has: for those left out it takes the model's own.

        Without `num_ctx`, a model that is loaded for the request gets the server's default context.
        """
        options: dict[str, Any] = {key: params[key] for key in _SENT_AS_THEY_ARE}
        options |= {
            "temperature": params["temperature"],
            "repeat_penalty": params["repetition_penalty"],
            "repeat_last_n": params["repetition_penalty_range"] or self.facts.context_length,
            "num_predict": parameters.most_tokens(params, prompt, self.facts) or -1,
            "stop": list(params["stop"]),
        }
        if self.facts.context_length:
            options["num_ctx"] = self.facts.context_length
        if params["seed"] >= 0:
            options["seed"] = params["seed"]
        return options


def reader(top: int | None) -> Read:
    """Return the reader of an answer; `top` is the number of candidates, None for no log-probabilities."""
    marks = ChatReader(top)

    def read(data: bytes) -> Piece:
        event = event_of(data)
        if error := error_text(event):
            return Piece(error=error)
        message = event.get("message")
        source: Mapping[str, Json] = message if isinstance(message, Mapping) else event
        text, thought = source.get("content") or source.get("response") or "", source.get("thinking") or ""
        if not isinstance(text, str) or not isinstance(thought, str):
            raise ValueError("text that is no string")
        ends = event.get("done") is True
        logprobs = of_chat(event.get("logprobs"), top) if top is not None else ()
        said = marks.marked(thought, text, ends)
        return Piece(
            said, len(logprobs) or int(bool(text or thought)), logprobs=logprobs, **(_end(event) if ends else {})
        )

    return read


def _end(event: Mapping[str, Json]) -> dict[str, Any]:
    """Return what the last line says: why the answer ended, and the counts."""
    known = known_counts(prompt_tokens=event.get("prompt_eval_count"), completion_tokens=event.get("eval_count"))
    return {"reason": "length" if event.get("done_reason") == "length" else "stop", "is_end": True} | known
