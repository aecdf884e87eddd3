"""The two shapes of an answer in OpenAI's API: completions and chat completions, whole and in chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from modules.core.events import Done, Json, Logprob, Text, TokenChances

_MARK = "\0"  # stands for the text in a chunk that is rendered beforehand; no model's name can hold it
_FRAGMENT = "\N{REPLACEMENT CHARACTER}"  # what is shown of a token that ends within a character


class Shape:
    """How one request is answered: one object per request. `sse` pieces are whole events of a stream, as bytes."""

    object: ClassVar[str]
    chunk_object: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, prompts: int, usage_chunk: bool = False) -> None:
        self._prompts = prompts
        self._usage_chunk = usage_chunk
        self._facts = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    # -- what the two differ in ------------------------------------------------------------------------------------

    def opening(self, number: int) -> Json:
        """The choice of the chunk that begins answer `number`, or None if there is no need for one."""

    def delta(self, text: str) -> dict[str, Json]:
        """The part of a chunk's choice that holds `text`; of the last chunk for ""."""
        raise NotImplementedError

    def message(self, number: int, text: str) -> dict[str, Json]:
        """The part of a whole answer's choice that holds `text`."""
        raise NotImplementedError

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        """The log-probabilities that came with `pieces`, which continue those of earlier calls."""
        raise NotImplementedError

    # -- whole -----------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        choices = [self._whole_choice(number, pieces, ends[number]) for number, pieces in enumerate(answers)]
        return {**self._facts, "object": self.object, "choices": choices, "usage": self._usage(ends)}

    def _whole_choice(self, number: int, pieces: Sequence[Text], end: Done) -> Json:
        chances = any(piece.chances for piece in pieces)
        return {
            "index": number,
            **self.message(number, "".join(piece.text for piece in pieces)),
            "logprobs": self.logprobs(number, pieces) if chances else None,
            "finish_reason": _finish_reason(end),
        }

    def _usage(self, ends: Mapping[int, Done]) -> Json:
        """The tokens of all answers. Several answers to one prompt read it once."""
        each = len(ends) // self._prompts
        firsts = [ends[number] for number in range(0, len(ends), each)]
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
        """Once a token: without log-probabilities, only the text itself is still to be encoded."""
        if piece.chances:
            return self._chunk([self._choice(number, piece.text, self.logprobs(number, [piece]))])
        if not piece.text:
            return b""
        if number not in self._frames:
            before, _, after = self._chunk([self._choice(number, _MARK)]).partition(json.dumps(_MARK).encode())
            self._frames[number] = before, after
        before, after = self._frames[number]
        return before + json.dumps(piece.text).encode() + after

    def sse_end(self, number: int, end: Done) -> bytes:
        return self._chunk([{**self._choice(number, ""), "finish_reason": _finish_reason(end)}])

    def sse_usage(self, ends: Mapping[int, Done]) -> bytes:
        return self._chunk([], usage=self._usage(ends)) if self._usage_chunk else b""

    def _choice(self, number: int, text: str, logprobs: Json = None) -> Json:
        return {"index": number, **self.delta(text), "logprobs": logprobs, "finish_reason": None}

    def _chunk(self, choices: Json, usage: Json = None) -> bytes:
        body = {**self._facts, "object": self.chunk_object, "choices": choices}
        return sse({**body, "usage": usage} if self._usage_chunk else body)


class ChatShape(Shape):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def opening(self, number: int) -> Json:
        first = {"role": "assistant", "content": "", "refusal": None}
        return {"index": number, "delta": first, "logprobs": None, "finish_reason": None}

    def delta(self, text: str) -> dict[str, Json]:
        return {"delta": {"content": text} if text else {}}

    def message(self, number: int, text: str) -> dict[str, Json]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        chances = (each for piece in pieces for each in piece.chances)
        content = [{**_token(each.chosen), "top_logprobs": [_token(top) for top in each.top]} for each in chances]
        return {"content": content, "refusal": None}


class CompletionShape(Shape):
    """`echoes` are what each answer's text begins with: its prompt, or ""."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def __init__(self, model: str, prompts: int, usage_chunk: bool, echoes: Sequence[str]) -> None:
        super().__init__(model, prompts, usage_chunk)
        self._echoes = echoes
        self._places = [Places() for _ in echoes]

    def opening(self, number: int) -> Json:
        return self._choice(number, self._echoes[number]) if self._echoes[number] else None

    def delta(self, text: str) -> dict[str, Json]:
        return {"text": text}

    def message(self, number: int, text: str) -> dict[str, Json]:
        return {"text": self._echoes[number] + text}

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        listed = list(pieces)
        chances = [each for piece in listed for each in piece.chances]
        return {
            "tokens": [each.chosen.text for each in chances],
            "token_logprobs": [each.chosen.logprob for each in chances],
            "top_logprobs": [_candidates(each) for each in chances],
            "text_offset": [place for piece in listed for place in self._places[number].of(piece)],
        }


class Places:
    """Where in one answer's text each token begins, in characters."""

    def __init__(self) -> None:
        self._next = 0
        self._shown = 0

    def of(self, piece: Text) -> list[int]:
        """The places of the tokens that came with `piece`.

        Tokens may run ahead of the text, which waits for stop strings. But those that are fragments of a character
        cannot be counted by their own text; after them we count on from what is shown.
        """
        places = []
        for each in piece.chances:
            places.append(self._next)
            self._next += len(each.chosen.text)
        self._shown += len(piece.text)
        if any(_FRAGMENT in each.chosen.text for each in piece.chances):
            self._next = self._shown
        return places


def _candidates(chances: TokenChances) -> dict[str, float]:
    """The likeliest tokens and the chosen one, as OpenAI has it: one more than asked for if that was unlikely."""
    return {each.text: each.logprob for each in reversed((chances.chosen, *reversed(chances.top)))}


def _token(candidate: Logprob) -> dict[str, Json]:
    """`bytes` is null where the token ends within a character: its text does not tell them."""
    known = None if _FRAGMENT in candidate.text else list(candidate.text.encode())
    return {"token": candidate.text, "logprob": candidate.logprob, "bytes": known}


def _finish_reason(end: Done) -> str:
    return "length" if end.reason == "length" else "stop"


def sse(body: Json) -> bytes:
    """`body` as one event of a stream."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
