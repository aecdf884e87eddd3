"""Write the answer to one request in the format of OpenAI's Responses, whole or as events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

from modules.api.chat_calls import ChatCall
from modules.api.errors import error_body
from modules.api.ignored_fields import ignored_header, shortened
from modules.api.openai_responses.conversion import Conversion, echoed
from modules.api.openai_responses.output_items import Event, OutputItems
from modules.api.openai_responses.schemas import ResponsesRequest
from modules.api.responses import INCOMPLETE_CHARACTER, typed_event
from modules.core.errors import WebUIError
from modules.core.events import Done, Json, Logprob, Text
from modules.core.pieces import ReplyParser


class ResponsesBuilder:
    """Writes one response. `begin` says which model answers; an error may come before that."""

    def __init__(self, body: ResponsesRequest, conversion: Conversion) -> None:
        self.headers: Mapping[str, str] = {}
        self._conversion = conversion
        self._output = OutputItems(conversion.tools)
        self._parser: ReplyParser | None = None
        self._ignored: list[str] = []
        self._reasoning_tokens = 0
        self._sequence = 0
        self._response: dict[str, Json] = {
            "id": f"resp_{secrets.token_hex(24)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": body.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **echoed(body),
        }

    def begin(self, call: ChatCall) -> ResponsesBuilder:
        """Return this builder for the answer of a call."""
        (self._parser,) = call.parsers(1, raw=self._conversion.chat.reasoning_format == "none")
        self._ignored = [*map(self._conversion.path, call.ignored), *self._conversion.ignored]
        self.headers = ignored_header(self._ignored)
        parameters = {name: call.params[name] for name in ("temperature", "top_p")}
        self._response |= {"model": call.model.record.name, **parameters}
        return self

    # -- whole -----------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        for piece in answers[0]:
            self._add(piece)
        self._end(ends[0])
        return self._response

    # -- events ----------------------------------------------------------------------------------------------------

    def sse_opening(self, number: int) -> bytes:
        return self._lifecycle("created") + self._lifecycle("in_progress")

    def sse_text(self, number: int, piece: Text) -> bytes:
        return self._events(self._add(piece))

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        events = self._events(self._end(end))
        return events + self._lifecycle(self._response["status"])

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        return b""

    def sse_error(self, error: WebUIError, language: str) -> bytes:
        """Return the events that end a stream with an error, which may not have begun yet."""
        opening = b"" if self._sequence else self._lifecycle("created")
        facts = error_body(error, language)["error"]
        reported = self._events([{"type": "error", **{name: facts[name] for name in ("code", "message", "param")}}])
        failure = {"code": _response_code(error, facts["code"]), "message": facts["message"]}
        self._response |= {"status": "failed", "error": failure, "output": self._output.items}
        return opening + reported + self._lifecycle("failed")

    def _lifecycle(self, what: str) -> bytes:
        return self._events([{"type": f"response.{what}", "response": self._response}])

    def _events(self, events: Sequence[Event]) -> bytes:
        return b"".join(self._encoded(event) for event in events)

    def _encoded(self, event: Event) -> bytes:
        body = {**event, "sequence_number": self._sequence}
        self._sequence += 1
        return typed_event(body)

    # -- both ------------------------------------------------------------------------------------------------------

    def _add(self, piece: Text) -> list[Event]:
        assert self._parser is not None, "an answer follows `begin`"
        was_inside, pieces = self._parser.inside, self._parser.feed(piece.text)
        if was_inside or self._parser.inside:
            self._reasoning_tokens += piece.tokens
        logprobs = [
            {**_logprob(token.chosen), "top_logprobs": [_logprob(top) for top in token.top]} for token in piece.logprobs
        ]
        return self._output.add(pieces, logprobs)

    def _end(self, end: Done) -> list[Event]:
        """Return the events of the last items, and complete the response."""
        assert self._parser is not None, "an answer follows `begin`"
        status = "incomplete" if end.reason == "length" else "completed"
        events = [*self._output.add(self._parser.end()), *self._output.end(status)]
        ignored = [*self._ignored, *self._parser.faults]
        self._response |= {
            "status": status,
            "output": self._output.finished,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": {
                "input_tokens": end.prompt_tokens,
                "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": end.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
                "total_tokens": end.prompt_tokens + end.completion_tokens,
            },
            **({"ignored": shortened(ignored)} if ignored else {}),
        }
        return events


def _response_code(error: WebUIError, code: str) -> str:
    """Return one of OpenAI's codes for a failed response, as clients decide by it whether to try again."""
    if code == "context_length_exceeded":
        return code
    return "invalid_prompt" if error.status == 400 else "server_error"


def _logprob(candidate: Logprob) -> dict[str, Json]:
    """Return one token; `bytes` is empty if it ends within a character: its text does not tell its bytes."""
    raw = [] if INCOMPLETE_CHARACTER in candidate.text else list(candidate.text.encode())
    return {"token": candidate.text, "logprob": candidate.logprob, "bytes": raw, "id": candidate.id}
