"""Streams of answers that take long to begin, by generations that end after given pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from modules.api import errors, sse
from modules.api.answering import answer
from modules.api.answers import Answers
from modules.core.errors import NoModelLoaded
from modules.core.events import Done, Json, Text


class _Words:
    """An AnswerFormat that writes texts as they are."""

    headers: Mapping[str, str] = {"X-Words": "yes"}

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        return ["".join(piece.text for piece in pieces) for pieces in answers]

    def sse_opening(self, number: int) -> bytes:
        return b"<"

    def sse_text(self, number: int, piece: Text) -> bytes:
        return piece.text.encode()

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        return b">"

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        return b"."


class _Generation:
    """Has a word after each of `pauses`, in place of Generations."""

    def __init__(self, *pauses: float) -> None:
        self._pauses = list(pauses)
        self.finished: dict[int, Done] = {}

    async def take(self) -> list[tuple[int, Text | Done]]:
        if self._pauses:
            await asyncio.sleep(self._pauses.pop(0))
            return [(0, Text("word "))]
        if self.finished:
            return []
        self.finished[0] = Done("stop")
        return [(0, self.finished[0])]

    async def collect(self) -> list[list[Text]]:
        texts = []
        while replies := await self.take():
            texts += [reply for _, reply in replies if isinstance(reply, Text)]
        return [texts]


class _Server:
    """Serves one route that answers by `begin`, and counts how often answers were closed."""

    def __init__(self, begin: Callable[[], Awaitable[_Generation]], stream: bool = True) -> None:
        self.closed = 0

        async def close() -> None:
            self.closed += 1

        async def answers() -> Answers:
            generation = await begin()
            return Answers(generation, _Words(), 1, _Words.headers, close)  # type: ignore[arg-type]

        async def route(request: Request) -> Response:
            return await answer(request, stream, answers)

        server = Starlette(routes=[Route("/", route)])
        errors.register_handlers(server)  # type: ignore[arg-type]
        self.application, self._transport = server, httpx.ASGITransport(server)

    def get(self) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://server") as client:
                return await client.get("/")

        return asyncio.run(ask())


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SILENCE_SECONDS", 0.05)


async def _begin(*pauses: float, after: float = 0.0, fails: bool = False) -> _Generation:
    await asyncio.sleep(after)
    if fails:
        raise NoModelLoaded
    return _Generation(*pauses)


def test_an_answer_is_sent_whole_or_as_a_stream() -> None:
    whole, stream = _Server(lambda: _begin(0, 0), stream=False), _Server(lambda: _begin(0, 0))
    assert whole.get().json() == ["word word "]
    assert (stream.get().text, whole.closed, stream.closed) == ("<word word >.", 1, 1)


def test_a_refusal_before_the_stream_has_its_status(subtests: pytest.Subtests) -> None:
    for stream in (True, False):
        with subtests.test(stream=stream):
            server = _Server(lambda: _begin(fails=True), stream)
            assert server.get().status_code == NoModelLoaded.status


@pytest.mark.usefixtures("short_silence")
def test_a_stream_that_begins_late_sends_comments_until_then() -> None:
    server = _Server(lambda: _begin(0, after=0.18))
    before, _, after = server.get().text.partition("<")
    assert before.count(": waiting\n\n") >= 2
    assert (before.replace(": waiting\n\n", ""), after, server.closed) == ("", "word >.", 1)


@pytest.mark.usefixtures("short_silence")
def test_a_refusal_after_the_first_comment_is_an_event() -> None:
    response = _Server(lambda: _begin(after=0.08, fails=True)).get()
    assert response.status_code == 200
    assert 'data: {"error":{"message":' in response.text


@pytest.mark.usefixtures("short_silence")
def test_silence_between_words_is_bridged() -> None:
    first, _, rest = _Server(lambda: _begin(0, 0.18)).get().text.partition(": waiting")
    assert (first, rest.endswith("word >.")) == ("<word ", True)


def test_silence_is_not_bridged_while_the_client_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "SILENCE_SECONDS", 0)

    async def count_messages() -> list[int]:
        sent: list[Message] = []
        counts, has_read = [], asyncio.Event()

        async def send(message: Message) -> None:
            sent.append(message)
            await has_read.wait()

        bridge = sse._SilenceBridge(send, b": waiting\n\n")
        writing = asyncio.create_task(bridge.send({"type": "http.response.start", "status": 200}))
        for _ in range(2):
            await asyncio.sleep(0)
            await bridge.break_silence()
            counts.append(len(sent))
            has_read.set()
            await writing
        return counts

    assert asyncio.run(count_messages()) == [1, 2]


def test_a_client_that_leaves_before_the_answer_begins_ends_it() -> None:
    server = _Server(lambda: _begin(0, after=60))
    received: list[Message] = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def ask() -> None:
        async def receive() -> Message:
            return received.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        await asyncio.wait_for(server.application(scope, receive, send), 5)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing goes on"

    asyncio.run(ask())
    assert sent[0]["status"] == errors.CLIENT_GONE and not server.closed


def test_a_stream_without_silence_has_no_comment() -> None:
    assert "waiting" not in _Server(lambda: _begin(0, 0.01, 0.01)).get().text
