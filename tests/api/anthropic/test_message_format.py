"""Answers in the format of Anthropic's API, from the pieces of a reply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from modules.api.anthropic.message_format import ANTHROPIC, MessageFormat
from modules.core.errors import ModelLoading
from modules.core.events import Done, Text
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece

DONE = Done("stop", prompt_tokens=10, cached_tokens=4, completion_tokens=7)


class Script:
    """A parser that returns these pieces, one for each text that it is fed, and the last ones at the end."""

    inside = False

    def __init__(self, pieces: Sequence[Piece], faults: Sequence[str] = ()) -> None:
        self._pieces, self.faults = list(pieces), faults

    def feed(self, text: str) -> list[Piece]:
        return [self._pieces.pop(0)]

    def end(self) -> list[Piece]:
        rest, self._pieces = self._pieces, []
        return rest


def format_of(pieces: Sequence[Piece], **options: Any) -> MessageFormat:
    return MessageFormat("model", Script(pieces, options.pop("faults", ())), **options)


def whole(pieces: Sequence[Piece], end: Done = DONE, **options: Any) -> dict[str, Any]:
    texts = [Text("x") for _ in pieces[:-1]]
    body: dict[str, Any] = format_of(pieces, **options).whole([texts], {0: end})
    return body


def events(pieces: Sequence[Piece], end: Done = DONE, **options: Any) -> list[dict[str, Any]]:
    """Return the events of a stream in which all but the last piece come before the end."""
    written = format_of(pieces, **options)
    parts = [written.sse_opening(0), *(written.sse_text(0, Text("x")) for _ in pieces[:-1])]
    parts += [written.sse_end(0, end, last=True), written.sse_closing({0: end})]
    found = []
    for event in b"".join(parts).decode().removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        found.append(body)
    return found


REPLY: list[Piece] = [
    *((REASONING, "Where "), (REASONING, "is it?"), (TEXT, "\n"), (TEXT, "\nI "), (TEXT, "look."), (TEXT, "\n\n")),
    *((CALL, "weather"), (ARGUMENTS, '{"city": '), (ARGUMENTS, '"Paris"}'), (CALL, "now"), (ARGUMENTS, "{}")),
]


def test_a_message_has_a_block_for_the_thought_the_text_and_each_call() -> None:
    body = whole(REPLY)
    thought, text, first, second = body["content"]
    assert (thought["type"], thought["thinking"], len(thought["signature"])) == ("thinking", "Where is it?", 64)
    assert text == {"type": "text", "text": "\n\nI look.\n\n"}
    assert first | {"id": ""} == {"type": "tool_use", "id": "", "name": "weather", "input": {"city": "Paris"}}
    assert (second["name"], second["input"]) == ("now", {})
    assert first["id"] != second["id"] and first["id"].startswith("toolu_") and len(first["id"]) == 30
    assert (body["type"], body["role"], body["model"], body["stop_reason"]) == (
        *("message", "assistant", "model"),
        "tool_use",
    )
    assert body["usage"] | {"output_tokens_details": 0} == {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 7,
        "output_tokens_details": 0,
    }


def test_a_stream_has_the_same_blocks_in_events() -> None:
    found = events(REPLY, prompt_tokens=9)
    kinds = [(event["type"], event.get("index")) for event in found]
    assert kinds[0] == ("message_start", None)
    assert kinds[-2:] == [("message_delta", None), ("message_stop", None)]
    assert kinds[1:6] == [
        ("content_block_start", 0),
        *(("content_block_delta", 0),) * 3,  # the third is the signature
        ("content_block_stop", 0),
    ]
    assert [event["index"] for event in found if event["type"] == "content_block_stop"] == [0, 1, 2, 3]
    assert found[0]["message"]["usage"] == {"input_tokens": 9, "output_tokens": 0}
    assert (found[0]["message"]["content"], found[0]["message"]["stop_reason"]) == ([], None)
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Where is it?"
    assert "".join(delta.get("text", "") for delta in deltas) == "\n\nI look.\n\n"
    assert "".join(delta.get("partial_json", "") for delta in deltas) == '{"city": "Paris"}{}'
    assert deltas[2]["type"] == "signature_delta"
    assert found[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_white_space_alone_is_no_block() -> None:
    assert whole([(TEXT, "\n"), (TEXT, " ")])["content"] == []
    kinds = [
        block["type"] for block in whole([(REASONING, "Hm"), (TEXT, "\n\n"), (CALL, "f"), (ARGUMENTS, "{}")])["content"]
    ]
    assert kinds == ["thinking", "tool_use"]


def test_a_hidden_thought_has_a_block_without_its_text() -> None:
    thought, text = whole([(REASONING, "secret"), (TEXT, "Yes")], hides_thought=True)["content"]
    assert (thought["type"], thought["thinking"], bool(thought["signature"])) == ("thinking", "", True)
    assert text["text"] == "Yes"


def test_the_reason_of_the_end_is_told(subtests: pytest.Subtests) -> None:
    call: list[Piece] = [(CALL, "f"), (ARGUMENTS, "{}")]
    for pieces, end, expected in [
        ([(TEXT, "x")], Done("stop"), ("end_turn", None)),
        ([(TEXT, "x")], Done("cancelled"), ("end_turn", None)),
        ([(TEXT, "x")], Done("length"), ("max_tokens", None)),
        ([(TEXT, "x")], Done("stop", stop_string="END"), ("stop_sequence", "END")),
        ([(TEXT, "x")], Done("stop", stop_string="\nUser:"), ("end_turn", None)),  # of the template
        (call, Done("stop"), ("tool_use", None)),
        (call, Done("stop", stop_string="</tool_call>"), ("tool_use", None)),
        (call, Done("length"), ("max_tokens", None)),
    ]:
        with subtests.test(pieces=pieces, end=end):
            for body in (whole(pieces, end, stops=["END"]), events(pieces, end, stops=["END"])[-2]["delta"]):
                assert (body["stop_reason"], body["stop_sequence"]) == expected


def test_a_call_that_was_cut_off_is_left_out() -> None:
    body = whole([(TEXT, "Hm"), (CALL, "f"), (ARGUMENTS, '{"a": ')], Done("length"))
    assert [block["type"] for block in body["content"]] == ["text"]
    assert (body["ignored"], body["stop_reason"]) == (["content[1].input"], "max_tokens")


def test_an_answer_whose_only_call_is_left_out_does_not_ask_for_its_result() -> None:
    cut: list[Piece] = [(TEXT, "I look."), (CALL, "weather"), (ARGUMENTS, '{"city": ')]
    body = whole(cut, Done("stop", 7, 0, 9, stop_string="Par"), stops=["Par"])
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "Par")
    assert whole(cut, Done("stop", 7, 0, 9))["stop_reason"] == "end_turn"


def test_what_the_answer_does_without_is_reported() -> None:
    pieces: list[Piece] = [(TEXT, "x")]
    expected = ["mcp_servers", "tool_calls[0]"]
    assert whole(pieces, ignored=["mcp_servers"], faults=["tool_calls[0]"])["ignored"] == expected
    assert events(pieces, ignored=["mcp_servers"], faults=["tool_calls[0]"])[-2]["ignored"] == expected
    assert format_of(pieces, ignored=["mcp_servers"]).headers == {"X-Ignored-Parameters": "mcp_servers"}
    assert "ignored" not in whole(pieces) and "ignored" not in events(pieces)[-2]


def test_silence_and_errors_have_events_of_their_own() -> None:
    assert ANTHROPIC.silence == b'event: ping\ndata: {"type":"ping"}\n\n'
    event = ANTHROPIC.error(ModelLoading("tiny"), "en").decode()
    assert event.startswith('event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"tiny is')
