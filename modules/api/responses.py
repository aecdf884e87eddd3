"""Build the answers of OpenAI's API: completions and chat completions, whole or as chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from modules.api.ignored_fields import ignored_header, shortened
from modules.core.events import Done, Json, Logprob, Text, TokenLogprobs
from modules.core.pieces import REASONING, TEXT, Piece, ReplyParser

_PLACEHOLDER = "\0"  # of the text in a prepared chunk; a model's name cannot contain it
_INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # shown for a token that ends within a character


class ResponseBuilder:
    """Build the answer to one request. Methods called `sse_…` return whole events of a stream.

    `ignored` are the fields of the request that the answer does without: the body lists them, and `headers` do.
    """

    object: ClassVar[str]
    chunk_object: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, prompts: int, usage_chunk: bool = False, ignored: Sequence[str] = ()) -> None:
        self._prompts = prompts
        self._usage_chunk = usage_chunk
        self._ignored: dict[str, Json] = {"ignored": shortened(ignored)} if ignored else {}
        self.headers = ignored_header(ignored)
        self._facts = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    # -- what subclasses define --------------------------------------------------------------------------------------

    def opening(self, number: int) -> Json:
        """Return the choice of the chunk that begins answer `number`; None if it needs no such chunk."""

    def delta(self, text: str) -> dict[str, Json]:
        """Return the part of a chunk's choice with `text`; for "" that of the last chunk."""
        raise NotImplementedError

    def message(self, number: int, pieces: Sequence[Text]) -> dict[str, Json]:
        """Return the part of a whole answer's choice with the text of `pieces`."""
        raise NotImplementedError

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        """Return the log-probabilities of `pieces`, which follow those of earlier calls."""
        raise NotImplementedError

    # -- whole -----------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        choices = [self._whole_choice(number, pieces, ends[number]) for number, pieces in enumerate(answers)]
        body = {**self._facts, "object": self.object, "choices": choices, "usage": self._usage(ends)}
        return {**body, **self._ignored}

    def _whole_choice(self, number: int, pieces: Sequence[Text], end: Done) -> Json:
        has_logprobs = any(piece.logprobs for piece in pieces)
        return {
            "index": number,
            **self.message(number, pieces),
            "logprobs": self.logprobs(number, pieces) if has_logprobs else None,
            "finish_reason": _finish_reason(end),
        }

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
                json.dumps(_PLACEHOLDER).encode()
            )
            self._frames[number] = before, after
        before, after = self._frames[number]
        return before + json.dumps(piece.text).encode() + after

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        """Return the event that ends answer `number`; `last` if no other answer is still to end."""
        choice = {**self._choice(number, ""), "finish_reason": _finish_reason(end)}
        return self._chunk([choice], **(self._ignored if last and not self._usage_chunk else {}))

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        usage = self._chunk([], usage=self._usage(ends), **self._ignored) if self._usage_chunk else b""
        return usage + b"data: [DONE]\n\n"

    def _choice(self, number: int, text: str, logprobs: Json = None) -> Json:
        return {"index": number, **self.delta(text), "logprobs": logprobs, "finish_reason": None}

    def _chunk(self, choices: Json, usage: Json = None, **more: Json) -> bytes:
        body = {**self._facts, "object": self.chunk_object, "choices": choices, **more}
        return sse_event({**body, "usage": usage} if self._usage_chunk else body)


_FIELDS: Mapping[str, str] = {TEXT: "content", REASONING: "reasoning_content"}


class ChatResponseBuilder(ResponseBuilder):
    """Build chat completions. `parsers` take the thought out of each answer; without them it stays in the text."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(
        self, model: str, usage_chunk: bool, ignored: Sequence[str] = (), parsers: Sequence[ReplyParser] = ()
    ) -> None:
        super().__init__(model, 1, usage_chunk, ignored)
        self._parsers = parsers
        self._reasoning_tokens = 0

    def opening(self, number: int) -> Json:
        first = {"role": "assistant", "content": "", "refusal": None}
        return {"index": number, "delta": first, "logprobs": None, "finish_reason": None}

    def delta(self, text: str) -> dict[str, Json]:
        return {"delta": {"content": text} if text else {}}

    def message(self, number: int, pieces: Sequence[Text]) -> dict[str, Json]:
        parts = [part for piece in pieces for part in self._split(number, piece)]
        parts += self._parsers[number].end() if self._parsers else ()
        texts = {kind: "".join(text for part, text in parts if part == kind) for kind in (TEXT, REASONING)}
        thought = {_FIELDS[REASONING]: texts[REASONING]} if texts[REASONING] else {}
        return {"message": {"role": "assistant", "content": texts[TEXT], **thought, "refusal": None}}

    def sse_text(self, number: int, piece: Text) -> bytes:
        parts = self._split(number, piece)
        if parts == [(TEXT, piece.text)]:
            return super().sse_text(number, piece)
        logprobs = self.logprobs(number, [piece]) if piece.logprobs else None
        chunks = [self._part(number, part, None if index else logprobs) for index, part in enumerate(parts)]
        return b"".join(chunks) or (self._chunk([self._choice(number, "", logprobs)]) if logprobs else b"")

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        held_back = self._parsers[number].end() if self._parsers else ()
        return b"".join(self._part(number, part) for part in held_back) + super().sse_end(number, end, last)

    def _part(self, number: int, part: Piece, logprobs: Json = None) -> bytes:
        kind, text = part
        delta = {_FIELDS[kind]: text}
        return self._chunk([{"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": None}])

    def _split(self, number: int, piece: Text) -> list[Piece]:
        """Return what is known by now of the thought and the text, and count the tokens of the thought."""
        if not self._parsers:
            return [(TEXT, piece.text)]
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


class CompletionResponseBuilder(ResponseBuilder):
    """Build completions; the text of each begins with its item of `echoes`: its prompt, or ""."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def __init__(
        self, model: str, prompts: int, usage_chunk: bool, echoes: Sequence[str], ignored: Sequence[str] = ()
    ) -> None:
        super().__init__(model, prompts, usage_chunk, ignored)
        self._echoes = echoes
        self._offsets = [TextOffsets() for _ in echoes]

    def opening(self, number: int) -> Json:
        return self._choice(number, self._echoes[number]) if self._echoes[number] else None

    def delta(self, text: str) -> dict[str, Json]:
        return {"text": text}

    def message(self, number: int, pieces: Sequence[Text]) -> dict[str, Json]:
        return {"text": self._echoes[number] + "".join(piece.text for piece in pieces)}

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        listed = list(pieces)
        tokens = [token for piece in listed for token in piece.logprobs]
        return {
            "tokens": [token.chosen.text for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [_candidates(token) for token in tokens],
            "text_offset": [offset for piece in listed for offset in self._offsets[number].of(piece)],
        }


class TextOffsets:
    """Track where each token begins in an answer's text, in characters."""

    def __init__(self) -> None:
        self._next = 0
        self._shown = 0

    def of(self, piece: Text) -> list[int]:
        """Return the offsets of the tokens of `piece`.

        Tokens may run ahead of the text, which is held back for stop strings. The length of a token that ends within
        a character is unknown; after one, offsets continue from the text that was shown.
        """
        offsets = []
        for token in piece.logprobs:
            offsets.append(self._next)
            self._next += len(token.chosen.text)
        self._shown += len(piece.text)
        if any(_INCOMPLETE_CHARACTER in token.chosen.text for token in piece.logprobs):
            self._next = self._shown
        return offsets


def _candidates(token: TokenLogprobs) -> dict[str, float]:
    """Return the likeliest tokens and the chosen one: an unlikely one is added to those requested, as by OpenAI."""
    return {token.text: token.logprob for token in reversed((token.chosen, *reversed(token.top)))}


def _token(candidate: Logprob) -> dict[str, Json]:
    """Return one token; `bytes` is null if it ends within a character: its text does not tell its bytes."""
    raw = None if _INCOMPLETE_CHARACTER in candidate.text else list(candidate.text.encode())
    return {"token": candidate.text, "logprob": candidate.logprob, "bytes": raw}


def _finish_reason(end: Done) -> str:
    return "length" if end.reason == "length" else "stop"


def sse_event(body: Json) -> bytes:
    """Encode `body` as one server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
