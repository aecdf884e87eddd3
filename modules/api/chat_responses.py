"""Build the answers of OpenAI's chat completions, with the thoughts and the calls of tools apart from the text."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping, Sequence

from modules.api.responses import INCOMPLETE_CHARACTER, ResponseBuilder
from modules.core.events import Done, Json, Logprob, Text
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece, ReplyParser

_FIELDS: Mapping[str, str] = {TEXT: "content", REASONING: "reasoning_content"}
_ID_CHARACTERS = string.ascii_letters + string.digits


def call_id() -> str:
    """Return a new id for a call of a tool."""
    return "call_" + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(24))


class ChatResponseBuilder(ResponseBuilder):
    """Build chat completions. `parsers` split each answer into its parts."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, model: str, usage_chunk: bool, ignored: Sequence[str], parsers: Sequence[ReplyParser]) -> None:
        super().__init__(model, 1, usage_chunk, ignored)
        self._parsers = parsers
        self._calls: dict[int, int] = {}  # how many each answer has begun
        self._reasoning_tokens = 0

    def opening(self, number: int) -> Json:
        first = {"role": "assistant", "content": "", "refusal": None}
        return {"index": number, "delta": first, "logprobs": None, "finish_reason": None}

    def delta(self, text: str) -> dict[str, Json]:
        return {"delta": {"content": text} if text else {}}

    def finish_reason(self, number: int, end: Done) -> str:
        reason = super().finish_reason(number, end)
        return "tool_calls" if reason == "stop" and self._calls.get(number) else reason

    @property
    def faults(self) -> Sequence[str]:
        return [fault for parser in self._parsers for fault in parser.faults]

    # -- whole -------------------------------------------------------------------------------------------------------

    def message(self, number: int, pieces: Sequence[Text]) -> dict[str, Json]:
        parts = [part for piece in pieces for part in self._split(number, piece)]
        parts += self._parsers[number].end()
        texts = {kind: "".join(text for part, text in parts if part == kind) for kind in (TEXT, REASONING)}
        calls = self._whole_calls(number, parts)
        return {
            "message": {
                "role": "assistant",
                "content": texts[TEXT] or (None if calls else ""),
                **({_FIELDS[REASONING]: texts[REASONING]} if texts[REASONING] else {}),
                **({"tool_calls": calls} if calls else {}),
                "refusal": None,
            }
        }

    def _whole_calls(self, number: int, parts: Sequence[Piece]) -> list[Json]:
        found: list[tuple[str, list[str]]] = []
        for kind, text in parts:
            if kind == CALL:
                found.append((text, []))
            elif kind == ARGUMENTS:
                found[-1][1].append(text)
        self._calls[number] = len(found)
        return [
            {"id": call_id(), "type": "function", "function": {"name": name, "arguments": "".join(fragments)}}
            for name, fragments in found
        ]

    # -- in chunks ---------------------------------------------------------------------------------------------------

    def sse_text(self, number: int, piece: Text) -> bytes:
        parts = self._split(number, piece)
        if parts == [(TEXT, piece.text)]:
            return super().sse_text(number, piece)
        logprobs = self.logprobs(number, [piece]) if piece.logprobs else None
        chunks = [self._part(number, part, None if index else logprobs) for index, part in enumerate(parts)]
        return b"".join(chunks) or (self._chunk([self._choice(number, "", logprobs)]) if logprobs else b"")

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        held_back = self._parsers[number].end()
        return b"".join(self._part(number, part) for part in held_back) + super().sse_end(number, end, last)

    def _part(self, number: int, part: Piece, logprobs: Json = None) -> bytes:
        delta = self._delta(number, *part)
        return self._chunk([{"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}])

    def _delta(self, number: int, kind: str, text: str) -> Json:
        if kind == CALL:
            index = self._calls.get(number, 0)
            self._calls[number] = index + 1
            function = {"name": text, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id(), "type": "function", "function": function}]}
        if kind == ARGUMENTS:
            return {"tool_calls": [{"index": self._calls[number] - 1, "function": {"arguments": text}}]}
        return {_FIELDS[kind]: text}

    def _split(self, number: int, piece: Text) -> list[Piece]:
        """Return what is known by now of the parts of an answer, and count the tokens of its thought."""
        parser = self._parsers[number]
        was_inside, parts = parser.inside, parser.feed(piece.text)
        if was_inside or parser.inside:
            self._reasoning_tokens += piece.tokens
        return parts

    def _usage(self, ends: Mapping[int, Done]) -> Json:
        return super()._usage(ends) | {"completion_tokens_details": {"reasoning_tokens": self._reasoning_tokens}}

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        tokens = (token for piece in pieces for token in piece.logprobs)
        content = [{**_token(token.chosen), "top_logprobs": [_token(top) for top in token.top]} for token in tokens]
        return {"content": content, "refusal": None}


def _token(candidate: Logprob) -> dict[str, Json]:
    """Return one token; `bytes` is null if it ends within a character: its text does not tell its bytes."""
    raw = None if INCOMPLETE_CHARACTER in candidate.text else list(candidate.text.encode())
    return {"token": candidate.text, "logprob": candidate.logprob, "bytes": raw, "id": candidate.id}
