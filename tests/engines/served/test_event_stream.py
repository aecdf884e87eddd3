"""Events of streamed bodies, however these are cut into chunks."""

from __future__ import annotations

import pytest

from modules.engines.served import event_stream
from modules.engines.served.event_stream import EventTooLong, JsonLines, ServerSentEvents

BODY = (
    ': ping\n\ndata: {"text": "世界"}\n\nid: 1\ndata:one\r\ndata: two\r\n\r\ndata: three\r\revent: error\n'
    'data: {"message": "x"}\n\nerror: {"code": 500}\n\ndata: {"error": "y"}\nevent: error\n\ndata\n\nretry: 1\n\n'
    "data: [DONE]\n\ndata: never ended"
).encode()
EVENTS = [
    '{"text": "世界"}'.encode(),
    b"one\ntwo",
    b"three",
    b'{"error": {"message": "x"}}',
    b'{"error": {"code": 500}}',
    b'{"error": "y"}',
    b"",
    b"[DONE]",
]


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def events(decoder: JsonLines | ServerSentEvents, chunks: list[bytes]) -> list[bytes]:
    return [event for chunk in chunks for event in decoder.feed(chunk)] + decoder.finish()


def test_server_sent_events_do_not_depend_on_how_the_body_is_cut(subtests: pytest.Subtests) -> None:
    for size in (1, 2, 3, 7, 20, len(BODY)):
        with subtests.test(size=size):
            assert events(ServerSentEvents(), cut(BODY, size)) == EVENTS
    for end in range(len(BODY)):
        assert events(ServerSentEvents(), [BODY[:end], BODY[end:]]) == EVENTS, end


def test_lines_of_json_do_not_depend_on_how_the_body_is_cut(subtests: pytest.Subtests) -> None:
    body = '{"response": "世"}\n\n{"response": "界"}\r\n \n{"done": true}'.encode()
    for size in (1, 2, 5, len(body)):
        with subtests.test(size=size):
            expected = ['{"response": "世"}'.encode(), '{"response": "界"}'.encode(), b'{"done": true}']
            assert events(JsonLines(), cut(body, size)) == expected


def test_a_byte_order_mark_at_the_beginning_costs_no_event() -> None:
    mark = b"\xef\xbb\xbf"
    for size in (1, 2, 4, 100):
        assert events(ServerSentEvents(), cut(mark + b"data: one\n\ndata: " + mark + b"\n\n", size)) == [b"one", mark]
        assert events(JsonLines(), cut(mark + b'{"a": 1}\n{}', size)) == [b'{"a": 1}', b"{}"]
        assert events(JsonLines(), cut(mark + b"{}", size)) == [b"{}"]


def test_an_event_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "LONGEST_EVENT", 100)
    for decoder in (JsonLines(), ServerSentEvents()):
        with pytest.raises(EventTooLong):
            events(decoder, [b"data: 1234567"] * 10)
    with pytest.raises(EventTooLong):
        events(ServerSentEvents(), [b"data: 1234567\n"] * 20)
    with pytest.raises(EventTooLong):
        events(ServerSentEvents(), [b"data:\n"] * 200)
