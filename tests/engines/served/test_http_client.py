"""The HTTP client against a real server that cuts, stalls, redirects and answers nonsense."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from modules.core.errors import OptionError, WebUIError
from modules.core.server_errors import (
    ServerBusy,
    ServerDenied,
    ServerFailed,
    ServerLacks,
    ServerLost,
    ServerNotTrusted,
    ServerNotUnderstood,
    ServerRedirects,
    ServerRefused,
    ServerSilent,
    ServerUnreachable,
)
from modules.engines.served import http_client
from modules.engines.served.event_stream import LONGEST_EVENT
from modules.engines.served.faults import LONGEST_REFUSAL, reason
from modules.engines.served.http_client import EventStream, HttpClient
from modules.engines.served.target import Target
from tests.support.fake_server import CUT, RESET, STALL, FakeServer, Reply, stream

T = TypeVar("T")
PATH = "/v1/completions"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


async def get(target: Target, path: str = PATH, **limits: Any) -> Any:
    response = await HttpClient(target).request(path, **limits)
    return response.json()


async def events_of(
    target: Target, silence: float = 4.0, is_ndjson: bool = False, events: list[bytes] | None = None
) -> list[bytes]:
    """Return the events of a stream; those before an error are in `events` as well."""
    events = [] if events is None else events
    stream = EventStream(PATH, {"prompt": "x"}, events.extend, allowed_silence=silence, is_ndjson=is_ndjson)
    await HttpClient(target).stream(stream)
    return events


def test_a_short_request_carries_the_key_and_json(server: FakeServer) -> None:
    server.add("/api/v1/chat", Reply(json={"text": "世界"}))
    target = Target.parse(f"{server.url}/api/v1", key="sk-secret")
    answer = run(HttpClient(target).request("/v1/chat", {"prompt": "你好 \ud83d"}))
    assert (answer.status, answer.json()) == (200, {"text": "世界"})
    (request,) = server.requests
    assert (request.method, request.json()) == ("POST", {"prompt": "你好 ?"})
    assert request.headers["authorization"] == "Bearer sk-secret"
    assert request.headers["host"] == server.url.removeprefix("http://")
    assert run(get(target, "/v1/chat")) == {"text": "世界"} and server.requests[1].method == "GET"


def test_a_unix_socket_is_a_server_too(tmp_path: Path) -> None:
    with FakeServer(tmp_path / "socket") as server:
        server.add(PATH, Reply(json=1))
        assert run(get(Target(socket=str(tmp_path / "socket")))) == 1
    with pytest.raises(ServerUnreachable, match=r"unix:.*its socket does not exist"):
        run(get(Target(socket=str(tmp_path / "nothing"))))


def test_a_stream_arrives_byte_by_byte(server: FakeServer) -> None:
    body = "data: 世界\n\n: life\n\ndata: [DONE]\n\n".encode()
    server.add(PATH, Reply(parts=[bytes([byte]) for byte in body]), Reply(parts=[bytes([byte]) for byte in body]))
    assert run(events_of(Target(server.url))) == ["世界".encode(), b"[DONE]"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    server.add(PATH, Reply(parts=[bytes([byte]) for byte in head + body], raw=True))
    assert run(events_of(Target(server.url))) == ["世界".encode(), b"[DONE]"]
    server.add(PATH, Reply(parts=[b'{"a": 1}\n{"b"', b": 2}"]))
    assert run(events_of(Target(server.url), is_ndjson=True)) == [b'{"a": 1}', b'{"b": 2}']


def test_a_stream_that_breaks_is_lost_with_what_came_before(server: FakeServer, subtests: pytest.Subtests) -> None:
    for end in (CUT, RESET):
        with subtests.test(end=end):
            server.add(PATH, stream(b"data: one", 0.01, b"data: two", 0.05, end))
            events: list[bytes] = []
            with pytest.raises(ServerLost) as error:
                run(events_of(Target(server.url), events=events))
            assert not isinstance(error.value, ServerSilent) and events == [b"one", b"two"]


def test_silence_ends_a_stream_but_comments_are_life(server: FakeServer) -> None:
    pings: list[Any] = [part for _ in range(8) for part in (0.05, b": ping")]
    server.add(PATH, stream(b"data: one", *pings, b"data: two", STALL))
    events: list[bytes] = []
    with pytest.raises(ServerSilent, match=r"nothing came for 0\.2 s"):
        run(events_of(Target(server.url), silence=0.2, events=events))
    assert events == [b"one", b"two"]
    server.add(PATH, Reply(parts=[STALL], raw=True))
    with pytest.raises(ServerSilent):
        run(events_of(Target(server.url), silence=0.05))
    with pytest.raises(ServerSilent):
        run(get(Target(server.url), seconds=0.05))


def test_cancelling_closes_the_connection(server: FakeServer) -> None:
    server.add(PATH, stream(b"data: one", STALL))

    async def cancelled() -> None:
        task = asyncio.create_task(events_of(Target(server.url)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])

    run(cancelled())
    assert server.wait_for(lambda: server.gone == [0])


def test_a_paused_stream_is_not_read_and_not_silent(server: FakeServer) -> None:
    server.add(PATH, stream(b"data: one", *[b"data: " + b"x" * (1 << 20)] * 40, b"data: end"))
    events: list[int] = []

    async def paused() -> tuple[int, int]:
        def take(some: list[bytes]) -> None:
            events.extend(map(len, some))
            source.allow(0.1)
            source.pause()

        source = EventStream(PATH, {}, take, allowed_silence=4)
        task = asyncio.create_task(HttpClient(Target(server.url)).stream(source))
        await asyncio.sleep(0.3)
        before = len(events)
        source.take = lambda some: events.extend(map(len, some))
        source.resume()
        await task
        return before, len(events)

    before, after = run(paused())
    assert before < 10 and after == 42


def test_silence_counts_from_the_moment_at_which_a_paused_stream_is_read_again(server: FakeServer) -> None:
    release, events = threading.Event(), list[bytes]()
    server.add(PATH, stream(b"data: one", lambda: release.wait(4), b"data: two"))

    async def paused() -> None:
        def take(some: list[bytes]) -> None:
            events.extend(some)
            source.allow(0.2)
            source.pause()

        source = EventStream(PATH, {}, take, allowed_silence=4)
        task = asyncio.create_task(HttpClient(Target(server.url)).stream(source))
        while not events:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.3)
        time.sleep(0.2)  # the loop is busy when the time of the next look has come
        source.take = events.extend
        source.resume()
        for _ in range(5):
            await asyncio.sleep(0)
        source.allow(4)
        release.set()
        await task

    run(paused())
    assert events == [b"one", b"two"]


def test_refusals_have_the_words_of_the_server_but_not_the_key(server: FakeServer, subtests: pytest.Subtests) -> None:
    target = Target.parse(server.url, key="sk-secret")
    for status, body, error, words in (
        (
            400,
            {"error": {"message": "bad sk-secret\nprompt", "type": "x"}},
            ServerRefused,
            r"HTTP 400\): bad \*\*\* prompt",
        ),
        (422, {"detail": [{"loc": ["body"]}]}, ServerRefused, r'\[\{"loc": \["body"\]\}\]'),
        (413, None, ServerRefused, "413"),
        (401, {"error": "no key"}, ServerDenied, "no key.* server_key_env"),
        (404, {"message": "no model"}, ServerLacks, "no model"),
        (429, {}, ServerBusy, "Try again later"),
        (500, {"error": "x" * 3000}, ServerFailed, "x…"),
        (503, {"error": {"code": 503}}, ServerFailed, r'\{"code": 503\}'),
    ):
        with subtests.test(status=status):
            server.add(PATH, Reply(status, json=body))
            with pytest.raises(WebUIError, match=words) as raised:
                run(events_of(target))
            assert type(raised.value) is error
            assert len(str(raised.value)) < 600
    quoted = Target.parse(server.url, key='sk-"secret"')
    for body in ({"error": {"key": quoted.key, "type": "x", "message": ""}}, {"error": " " * 1595 + quoted.key}):
        server.add(PATH, Reply(400, json=body))
        with pytest.raises(ServerRefused) as raised:
            run(events_of(quoted))
        assert "sk-" not in str(raised.value)


def test_what_is_not_the_api_is_named(server: FakeServer, subtests: pytest.Subtests) -> None:
    page = {"Content-Type": "text/html; charset=utf-8"}
    for reply, error, words in (
        (Reply(200, [b"<html>"], page), ServerNotUnderstood, "web page"),
        (Reply(502, [b"<html>Bad Gateway"], page), ServerFailed, r"HTTP 502\): \(no message\)"),
        (
            Reply(307, headers={"Location": "http://other/v1"}),
            ServerRedirects,
            "'http://other/v1', which is not followed",
        ),
        (Reply(301), ServerRedirects, "''"),
        (Reply(parts=[b"SSH-2.0-OpenSSH\r\n"], raw=True), ServerNotUnderstood, "not HTTP"),
        (Reply(parts=[b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nx"], raw=True), ServerNotUnderstood, "HTTP"),
        (Reply(200, [b"x"], {"Content-Encoding": "gzip"}), ServerNotUnderstood, "compressed"),
        (Reply(200, headers={"X": "y" * 1_000_000}), ServerNotUnderstood, "too long"),
        (Reply(parts=[CUT], raw=True), ServerLost, "closed"),
        (Reply(200, [b"{"], {"Content-Type": "application/json"}), ServerNotUnderstood, "not a stream of events"),
        (stream(b"data: " + b"x" * LONGEST_EVENT), ServerNotUnderstood, "too long"),
    ):
        with subtests.test(words=words):
            server.add(PATH, reply)
            with pytest.raises(error, match=words):
                run(events_of(Target(server.url)))
    server.add(PATH, Reply(parts=[b"x" * 2000]))
    with pytest.raises(ServerNotUnderstood, match="too long"):
        run(get(Target(server.url), limit=1000))


def test_json_instead_of_a_stream_is_no_lost_connection(server: FakeServer) -> None:
    whole = {"choices": [{"message": {"content": "All at once."}}]}
    server.add(PATH, Reply(json=whole), Reply(json={"error": {"message": "no quota"}}))
    with pytest.raises(ServerNotUnderstood, match="not a stream of events"):
        run(events_of(Target(server.url)))
    with pytest.raises(ServerRefused, match=r"HTTP 200\): no quota"):
        run(events_of(Target(server.url)))
    json_type = {"Content-Type": "application/json"}
    server.add(PATH, stream(b"data: 1", headers=json_type), Reply(parts=[b'{"done": 1}'], headers=json_type))
    assert run(events_of(Target(server.url))) == [b"1"], "only the type is wrong"
    assert run(events_of(Target(server.url), is_ndjson=True)) == [b'{"done": 1}']


def test_a_stream_of_anything_but_a_body_is_refused(server: FakeServer, subtests: pytest.Subtests) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for name, parts in (
        ("trailers", [b"0\r\n", *[b"X-%d: y\r\n" % n for n in range(9000)]]),
        ("one", [b"0\r\nX: ", b"y" * 99_999]),
    ):
        with subtests.test(name):
            server.add(PATH, Reply(parts=[head, b"".join(parts), STALL], raw=True))
            with pytest.raises(ServerNotUnderstood, match="too long"):
                run(events_of(Target(server.url)))


def test_a_response_may_follow_an_interim_one(server: FakeServer) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n7"
    server.add(PATH, Reply(parts=[raw], raw=True))
    assert run(get(Target(server.url))) == 7


def test_a_server_that_does_not_run_is_unreachable(server: FakeServer) -> None:
    server.close()
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:\d+: connection refused"):
        run(get(Target(server.url)))
    with pytest.raises(ServerUnreachable, match="name is unknown"):
        run(get(Target("http://name.invalid")))
    with pytest.raises(ServerUnreachable, match="name is unknown"):
        run(get(Target(f"http://{'x' * 64}.invalid")))


def test_a_refusal_that_never_ends_is_read_up_to_a_bound(server: FakeServer) -> None:
    server.add(PATH, Reply(400, [b"no: ", b"x" * LONGEST_REFUSAL, STALL]))
    with pytest.raises(ServerRefused, match=r"HTTP 400\): no: x+…"):
        run(events_of(Target(server.url)))
    assert server.wait_for(lambda: server.gone == [0])


def test_a_defect_in_what_takes_the_events_is_raised_as_it_is(server: FakeServer, subtests: pytest.Subtests) -> None:
    for name, pause in (("with the head", []), ("later", [b": life", 0.02])):
        with subtests.test(name):
            server.add(PATH, stream(*pause, b"data: one", STALL))
            source = EventStream(PATH, {}, lambda events: 1 // 0, allowed_silence=4)
            with pytest.raises(ZeroDivisionError):
                run(HttpClient(Target(server.url)).stream(source))


def test_a_server_that_does_not_finish_connecting_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "CONNECT_SECONDS", 0.05)
    unreachable = pytest.raises(ServerUnreachable, match=r"nothing came for 0\.05 s")
    with socket.create_server(("127.0.0.1", 0)) as silent, unreachable:  # no answer to the greeting of TLS
        run(get(Target(f"https://127.0.0.1:{silent.getsockname()[1]}")))


def test_a_refusal_at_all_addresses_of_a_name_is_called_one() -> None:
    both = OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed")
    assert reason(both) == reason(ConnectionRefusedError(111, "Connection refused"))


def test_certificates_are_verified(tmp_path: Path) -> None:
    certificate = Path(__file__).with_name("certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FakeServer(context=context) as server:
        server.add(PATH, Reply(json=1))
        assert run(get(Target(server.url, ca=str(certificate)))) == 1
        with pytest.raises(ServerNotTrusted, match=r"could not be verified: .*self.signed"):
            run(get(Target(server.url, key="sk-secret")))
        named = Target(server.url.replace("127.0.0.1", "localhost"), ca=str(certificate))
        with pytest.raises(ServerNotTrusted, match="Hostname mismatch"):
            run(get(named))
        assert len(server.requests) == 1
    for file in (tmp_path / "missing.pem", Path(__file__)):
        with pytest.raises(OptionError, match="server_ca"):
            HttpClient(Target("https://host", ca=str(file)))
