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

    def close(self) -> None:
        """Have nothing to stop."""


async def _read(message: Message) -> None:
    """Take a message at once."""


class _Server:
    """Serves one route that answers by `begin`, and counts how often answers were closed."""

    def __init__(self, begin: Callable[[], Awaitable[_Generation]], stream: bool = True) -> None:
        self.closed = 0

        def release() -> None:
            self.closed += 1

        async def answers() -> Answers:
            generation = await begin()
            return Answers(generation, _Words(), 1, _Words.headers, release)  # type: ignore[arg-type]

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

    def send_to(self, read: Callable[[Message], Awaitable[None]] = _read, leaves_after: float = 60) -> list[Message]:
        """Return what is sent to a client that takes each message by `read`, and disconnects after some seconds.

        Nothing of the request may go on after that.
        """
        sent: list[Message] = []
        received: list[Message] = [{"type": "http.request", "body": b""}]

        async def receive() -> Message:
            if received:
                return received.pop()
            await asyncio.sleep(leaves_after)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            await read(message)

        async def ask() -> None:
            scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
            await asyncio.wait_for(self.application(scope, receive, send), 5)
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(ask())
        return sent


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


@pytest.mark.usefixtures("short_silence")
def test_silence_is_not_bridged_while_the_client_reads_slowly() -> None:
    async def read_slowly(message: Message) -> None:
        await asyncio.sleep(0.12 if message["type"] == "http.response.body" else 0)

    sent = _Server(lambda: _begin(0)).send_to(read_slowly)
    assert [message["body"] for message in sent[1:]] == [b"<word ", b">."]


def test_a_client_that_leaves_ends_the_answer(subtests: pytest.Subtests) -> None:
    cases = (
        ("stream, before it begins", True, _begin(0, after=60), [errors.CLIENT_GONE], 0),
        ("stream, while it is written", True, _begin(0, 60), [200], 1),
        ("whole, before it begins", False, _begin(0, after=60), [errors.CLIENT_GONE], 0),
        ("whole, while it is written", False, _begin(0, 60), [errors.CLIENT_GONE], 1),
    )
    for name, stream, beginning, statuses, closed in cases:
        with subtests.test(name):
            server = _Server(lambda beginning=beginning: beginning, stream)  # type: ignore[misc]
            sent = server.send_to(leaves_after=0.02)
            assert [message["status"] for message in sent if "status" in message] == statuses
            assert server.closed == closed


def test_a_stream_without_silence_has_no_comment() -> None:
    assert "waiting" not in _Server(lambda: _begin(0, 0.01, 0.01)).get().text


@pytest.mark.usefixtures("short_silence")
def test_nothing_is_sent_after_the_last_event() -> None:
    """The last message takes long to be sent, as a client that reads slowly makes it."""

    async def read_slowly(message: Message) -> None:
        await asyncio.sleep(0.18 if not message.get("more_body", True) else 0)

    sent = _Server(lambda: _begin(0, 0.08)).send_to(read_slowly)
    bodies = [message["body"] for message in sent[1:]]
    assert (bodies[0], bodies[-1]) == (b"<word ", b">.") and bodies.count(b": waiting\n\n") == 1
