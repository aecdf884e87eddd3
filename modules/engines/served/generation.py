"""One generation by a server: its request, the tries of it, and the answer as it comes. In the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from modules.core.errors import WebUIError, Words, both
from modules.core.events import Begun, Done, Event, Json, Waiting
from modules.core.server_errors import (
    ServerBrokeOff,
    ServerBusy,
    ServerChanged,
    ServerLost,
    ServerNotUnderstood,
    ServerSilent,
)
from modules.engines.prompt_fitting import LONGEST_TOKEN
from modules.engines.served.answer_so_far import AnswerSoFar, continuation
from modules.engines.served.faults import sentence, shown
from modules.engines.served.http_client import GRACE_SECONDS, EventStream, HttpClient
from modules.engines.served.retries import Retries
from modules.engines.served.server_kind import GenerateRequest, Piece, ServedPrompt, ServerKind

SILENCE_SECONDS = 60.0
"""The longest silence within an answer."""
_ENDED_EARLY: Words = {"en": "the response ended early", "zh": "响应提前结束"}
_TOO_MUCH: Words = {"en": "it is longer than was asked for", "zh": "长度超过所要求的上限"}
_NO_EVENT: Words = {"en": "an event of the stream does not belong to its API", "zh": "数据流中含有不属于该 API 的事件"}

_CHANGED_BY_RESUMING: Mapping[str, Json] = {
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "dry_multiplier": 0,
    "mirostat_mode": 0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "grammar_string": "",
    "answer_grammar": None,
    "top_logprobs": None,
}
"""Parameters whose effect depends on what belongs to the answer, with the values that have none."""

Aside = Callable[[Callable[[], Json]], Awaitable[Json]]
"""Run a function that blocks in another thread."""


@dataclass(frozen=True)
class Limits:
    """Options of a served engine. `first_seconds` is the longest silence before an answer begins."""

    streams: int = 512
    first_seconds: float = 300.0
    may_resume: bool = True
    idle_seconds: float = SILENCE_SECONDS


class Generation:
    """A generation of one call. `put` hands events on, and tells whether more may be read now."""

    def __init__(
        self,
        client: HttpClient,
        kind: ServerKind,
        limits: Limits,
        put: Callable[[Event], bool],
        aside: Aside,
        interval: int = 1,
    ) -> None:
        self._client, self._kind, self._limits, self._put, self._aside = client, kind, limits, put, aside
        self._interval = interval
        self._stream: EventStream | None = None
        self._begun: Begun | None = None
        self._has_begun = False
        self._size, self._longest = 0, 0

    async def run(self, prompt: ServedPrompt, params: Mapping[str, Json]) -> Done:
        """Generate, hand on the text, and return the end. Raises the error of a request, or ServerLost."""
        if prompt.length >= 0:
            self._begun = Begun(prompt.length, prompt.shortened, params.get("seed", -1))
        resumes = self._can_resume(prompt, params)
        stops = params.get("stop") or ()
        answer = AnswerSoFar(prompt, params.get("seed", -1), stops, resumes, time.monotonic)
        self._longest = LONGEST_TOKEN * (params.get("max_new_tokens") or self._kind.facts.context_length or 1 << 20)
        request = self._kind.request(prompt, params, ids=resumes, interval=self._interval)
        try:
            await self._completed(request, answer, params)
        finally:
            if (text := answer.finish()) is not None:
                self._put(text)
        return answer.done()

    def resume_reading(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    async def _completed(self, request: GenerateRequest, answer: AnswerSoFar, params: Mapping[str, Json]) -> None:
        try:
            await self._tried(request, answer)
        except ServerSilent:
            raise
        except ServerLost as lost:
            if not answer.ids or not await self._resume(answer, params, lost):
                raise

    def _can_resume(self, prompt: ServedPrompt, params: Mapping[str, Json]) -> bool:
        is_plain = all(params.get(key) in (none, None) for key, none in _CHANGED_BY_RESUMING.items())
        takes_ids = self._kind.gives_ids and self._kind.facts.takes_ids
        return self._limits.may_resume and takes_ids and is_plain and not prompt.messages

    async def _tried(self, request: GenerateRequest, answer: AnswerSoFar) -> None:
        """Send a request, again or amended as long as it has brought nothing and that may help."""
        retries = Retries()
        while True:
            self._has_begun = False
            try:
                return await self._send(request, answer)
            except WebUIError as error:
                if not self._has_begun and (other := request.amended(error)) is not None:
                    request = other
                    continue
                pause = None if self._has_begun or answer.is_complete else retries.pause_after(error)
                if answer.is_complete:
                    return None  # only the counts are missing
                if pause is None:
                    raise
                if isinstance(error, ServerBusy):
                    self._put(Waiting(1))
            await asyncio.sleep(pause)

    async def _send(self, request: GenerateRequest, answer: AnswerSoFar) -> None:
        def take(events: list[bytes]) -> None:
            for data in events:
                self._take(request, answer, stream, data)

        first = self._limits.first_seconds
        stream = EventStream(request.path, request.body, take, allowed_silence=first, is_ndjson=request.is_ndjson)
        self._stream = stream
        await self._client.stream(stream)
        if not answer.is_complete:
            raise ServerLost(self._client.target.origin, _ENDED_EARLY)

    def _take(self, request: GenerateRequest, answer: AnswerSoFar, stream: EventStream, data: bytes) -> None:
        target = self._client.target
        try:
            piece = request.read(data)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise ServerNotUnderstood(target.origin, request.path, _NO_EVENT) from None
        if piece.error:
            raise ServerBrokeOff(target.origin, both(sentence(shown(target, piece.error))))
        if not self._has_begun and _brings_tokens(piece):
            self._has_begun = True
            if self._begun is not None:
                self._put(self._begun)  # not before: it is handed on together with the first text
            stream.allow(self._limits.idle_seconds)
        self._size += len(piece.text)
        if self._size > self._longest:
            raise ServerNotUnderstood(target.origin, request.path, _TOO_MUCH)
        alias = self._kind.facts.alias
        if alias and piece.model and piece.model != alias:
            raise ServerChanged(target.origin, alias, shown(target, piece.model))
        was_complete = answer.is_complete
        text = answer.feed(piece)
        if text is not None and not self._put(text):
            stream.pause()
        if answer.is_complete and not was_complete:
            stream.allow(GRACE_SECONDS, GRACE_SECONDS)
        if piece.is_end or (answer.is_complete and not piece.reason and not was_complete):
            stream.finish()  # the end, or a stop string that only we have seen

    async def _resume(self, answer: AnswerSoFar, params: Mapping[str, Json], lost: ServerLost) -> bool:
        """Go on after the tokens that have come, once. Return whether the answer is complete now.

        Raises ServerLost if the connection is lost again.
        """
        found = await self._continuation(answer)
        if found is None:
            return False
        ids, rest = found
        wanted = int(params.get("max_new_tokens") or 0)
        if wanted and len(ids) >= wanted:
            return False
        if (text := answer.resumed(ids, rest)) is not None:
            self._put(text)
        prompt = ServedPrompt(tokens=(*answer.prompt_ids, *ids), length=len(answer.prompt_ids) + len(ids))
        left = {**params, "max_new_tokens": wanted - len(ids) if wanted else 0}
        try:
            await self._tried(self._kind.request(prompt, left, interval=self._interval), answer)
        except ServerLost:
            raise
        except WebUIError:
            raise lost from None
        return True

    async def _continuation(self, answer: AnswerSoFar) -> tuple[list[int], str] | None:
        def find() -> tuple[list[int], str] | None:
            if not answer.prompt_ids:
                answer.prompt_ids = tuple(self._kind.tokenize(answer.prompt.text))
            encode, decode = self._kind.questions["encode"], self._kind.questions["decode"]
            received = "".join(answer.received)
            if found := continuation(answer.prompt_ids, answer.ids, received, decode):
                return found
            # A llama-server sends the last id alone of a character that several tokens make up.
            return continuation(answer.prompt_ids, encode(received, add_special=False), received, decode)

        retries = Retries()
        while True:
            try:
                found: tuple[list[int], str] | None = await self._aside(find)
                return found
            except WebUIError as error:
                pause = retries.pause_after(error)
            if pause is None:
                return None
            await asyncio.sleep(pause)


def _brings_tokens(piece: Piece) -> bool:
    return bool(piece.text or piece.ids or piece.tokens or piece.reason)
