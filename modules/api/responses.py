"""Build the answers of OpenAI's API, whole or as chunks of a stream: what completions and chat completions share."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from modules.api.ignored_fields import ignored_header, shortened
from modules.core import quick_json
from modules.core.events import Done, Json, Text

_PLACEHOLDER = "\0"  # of the text in a prepared chunk; a model's name cannot contain it
INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""Shown for a token that ends within a character."""


class ResponseBuilder(ABC):
    """Build the answer to one request. Methods called `sse_…` return whole events of a stream.

    `ignored` are the fields of the request that the answer does without: the body lists them, and `headers` do.
    """

    object: ClassVar[str]
    chunk_object: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, prompts: int, usage_chunk: bool = False, ignored: Sequence[str] = ()) -> None:
        self._prompts = prompts
        self._usage_chunk = usage_chunk
        self._ignored = ignored
        self.headers = ignored_header(ignored)
        self._facts = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._frames: dict[int, tuple[bytes, bytes]] = {}
        self._ends: dict[int, Done] = {}

    # -- what subclasses define --------------------------------------------------------------------------------------

    def opening(self, number: int) -> Json:
        """Return the choice of the chunk that begins answer `number`; None if it needs no such chunk."""
        return None

    @abstractmethod
    def delta(self, text: str) -> dict[str, Json]:
        """Return the part of a chunk's choice with `text`; for "" that of the last chunk."""

    @abstractmethod
    def message(self, number: int, pieces: Sequence[Text]) -> dict[str, Json]:
        """Return the part of a whole answer's choice with the text of `pieces`."""

    @abstractmethod
    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        """Return the log-probabilities of `pieces`, which follow those of earlier calls."""

    def finish_reason(self, number: int, end: Done) -> str:
        return "length" if end.reason == "length" else "stop"

    @property
    def faults(self) -> Sequence[str]:
        """Return the names of what the answers tried and failed at, which are listed as ignored."""
        return ()

    # -- whole -----------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        choices = [self._whole_choice(number, pieces, ends[number]) for number, pieces in enumerate(answers)]
        body = {**self._facts, "object": self.object, "choices": choices, "usage": self._usage(ends)}
        return {**body, **self._remarks(ends)}

    def _whole_choice(self, number: int, pieces: Sequence[Text], end: Done) -> Json:
        has_logprobs = any(piece.logprobs for piece in pieces)
        return {
            "index": number,
            **self.message(number, pieces),
            "logprobs": self.logprobs(number, pieces) if has_logprobs else None,
            "finish_reason": self.finish_reason(number, end),
        }

    def _remarks(self, ends: Mapping[int, Done]) -> dict[str, Json]:
        """Return what the body or the last chunk says beside OpenAI's fields."""
        ignored = [*self._ignored, *self.faults]
        timings = {"timings": timings_of(ends[0])} if len(ends) == 1 else {}
        return {**({"ignored": shortened(ignored)} if ignored else {}), **timings}

    def _usage(self, ends: Mapping[int, Done]) -> Json:
        """Count the tokens of all answers; a prompt with several answers counts once."""
        per_prompt = len(ends) // self._prompts
        firsts = [ends[number] for number in range(0, len(ends), per_prompt)]
        prompt = sum(end.prompt_tokens for end in firsts)
        completion = sum(end.completion_tokens for end in ends.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in firsts)},
        }

    # -- in chunks -------------------------------------------------------------------------------------------------

    def sse_opening(self, number: int) -> bytes:
        choice = self.opening(number)
        return self._chunk([choice]) if choice else b""

    def sse_text(self, number: int, piece: Text) -> bytes:
        """Return the event of one piece. This runs once per token, so that only the text is encoded if it can be."""
        if piece.logprobs:
            return self._chunk([self._choice(number, piece.text, self.logprobs(number, [piece]))])
        if not piece.text:
            return b""
        if number not in self._frames:
            before, _, after = self._chunk([self._choice(number, _PLACEHOLDER)]).partition(
                quick_json.encode(_PLACEHOLDER)
            )
            self._frames[number] = before, after
        before, after = self._frames[number]
        return before + _encoded(piece.text) + after

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        """Return the event that ends answer `number`; `last` if no other answer is still to end."""
        choice = {**self._choice(number, ""), "finish_reason": self.finish_reason(number, end)}
        self._ends[number] = end
        return self._chunk([choice], **(self._remarks(self._ends) if last and not self._usage_chunk else {}))

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        usage = self._chunk([], usage=self._usage(ends), **self._remarks(ends)) if self._usage_chunk else b""
        return usage + b"data: [DONE]\n\n"

    def _choice(self, number: int, text: str, logprobs: Json = None) -> Json:
        return {"index": number, **self.delta(text), "logprobs": logprobs, "finish_reason": None}

    def _chunk(self, choices: Json, usage: Json = None, **more: Json) -> bytes:
        body = {**self._facts, "object": self.chunk_object, "choices": choices, **more}
        return sse_event({**body, "usage": usage} if self._usage_chunk else body)


def timings_of(end: Done) -> Json:
    """Return the times of an answer in llama-server's format."""
    read = end.prompt_tokens - end.cached_tokens
    drafts = {"draft_n": end.drafted_tokens, "draft_n_accepted": end.accepted_tokens} if end.drafted_tokens else {}
    return {
        "cache_n": end.cached_tokens,
        **_speed("prompt", read, end.prompt_seconds),
        **_speed("predicted", end.completion_tokens, end.decode_seconds),
        **drafts,
    }


def _speed(stage: str, tokens: int, seconds: float) -> dict[str, Json]:
    return {
        f"{stage}_n": tokens,
        f"{stage}_ms": round(seconds * 1000, 3),
        f"{stage}_per_token_ms": round(seconds * 1000 / tokens, 3) if tokens else None,
        f"{stage}_per_second": round(tokens / seconds, 3) if seconds else None,
    }


def sse_event(body: Json) -> bytes:
    """Encode `body` as one server-sent event."""
    return b"data: " + _encoded(body) + b"\n\n"


def typed_event(body: Json) -> bytes:
    """Encode `body` as one server-sent event that is named by its type."""
    return b"event: %b\n%b" % (body["type"].encode(), sse_event(body))


def _encoded(value: Json) -> bytes:
    """Return JSON without the line breaks of Unicode: httpx and requests split a stream at these, too."""
    encoded = quick_json.encode(value)
    if b"\xc2\x85" in encoded or b"\xe2\x80" in encoded:
        encoded = encoded.replace(b"\xc2\x85", b"\\u0085")
        encoded = encoded.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return encoded
