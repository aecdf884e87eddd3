"""Chat completions with thoughts and calls, whole and in chunks, in the shapes of OpenAI's API."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from modules.api.chat_responses import ChatResponseBuilder
from modules.api.responses import timings_of
from modules.core.events import Done, Logprob, Text, TokenLogprobs
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece

END = Done("stop", prompt_tokens=10, cached_tokens=4, completion_tokens=8, prompt_seconds=0.5, decode_seconds=2)
TWO_CALLS: list[Piece] = [
    (REASONING, "Hm"),
    (TEXT, "Let me look."),
    (CALL, "weather"),
    (ARGUMENTS, '{"place": '),
    (ARGUMENTS, '"Rome"}'),
    (CALL, "now"),
    (ARGUMENTS, "{}"),
]


class _PieceParser:
    """Parse replies that are JSON lists of pieces, one list a text; an empty list begins the thought."""

    inside = False

    def __init__(self, held_back: tuple[Piece, ...] = (), faults: tuple[str, ...] = ()) -> None:
        self._held_back, self.faults = held_back, faults

    def feed(self, text: str) -> list[Piece]:
        pieces = [(kind, content) for kind, content in json.loads(text)]
        self.inside = any(kind == REASONING for kind, _ in pieces)
        return pieces

    def end(self) -> list[Piece]:
        return list(self._held_back)


def builder(*parsers: _PieceParser, usage_chunk: bool = False, ignored: tuple[str, ...] = ()) -> ChatResponseBuilder:
    return ChatResponseBuilder("model", usage_chunk, ignored, parsers)


def texts_of(pieces: list[Piece]) -> list[Text]:
    return [Text(json.dumps([piece])) for piece in pieces]


def whole(pieces: list[Piece], end: Done = END, parser: _PieceParser | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = builder(parser or _PieceParser()).whole([texts_of(pieces)], {0: end})
    return answer


def chunks_of(events: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in events.decode().split("\n\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


def deltas(events: bytes, number: int = 0) -> list[dict[str, Any]]:
    choices = [choice for chunk in chunks_of(events) for choice in chunk["choices"]]
    return [choice["delta"] for choice in choices if choice["index"] == number]


# -- whole -------------------------------------------------------------------------------------------------------------


def test_calls_are_apart_from_text_and_thought() -> None:
    (choice,) = whole(TWO_CALLS)["choices"]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("Let me look.", "Hm")
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"place": "Rome"}'},
        {"name": "now", "arguments": "{}"},
    ]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2 and all(re.fullmatch(r"call_\w{24}", one) for one in ids)
    assert {call["type"] for call in message["tool_calls"]} == {"function"}
    assert choice["finish_reason"] == "tool_calls"


def test_an_answer_of_calls_alone_has_no_content() -> None:
    (choice,) = whole(TWO_CALLS[2:])["choices"]
    assert choice["message"]["content"] is None
    assert whole([])["choices"][0]["message"]["content"] == ""
    assert "tool_calls" not in whole([(TEXT, "Hi")])["choices"][0]["message"]


def test_an_answer_that_its_limit_cuts_within_a_call_says_so() -> None:
    (choice,) = whole(TWO_CALLS[:4], Done("length"))["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"place": '


def test_calls_that_could_not_be_read_are_listed_as_ignored() -> None:
    assert whole([(TEXT, "<call")], parser=_PieceParser(faults=("tool_calls[0]",)))["ignored"] == ["tool_calls[0]"]
    assert "ignored" not in whole([(TEXT, "Hi")])


def test_the_times_of_an_answer_are_those_of_llama_server() -> None:
    assert whole([(TEXT, "Hi")])["timings"] == {
        "cache_n": 4,
        "prompt_n": 6,
        "prompt_ms": 500,
        "prompt_per_token_ms": 83.333,
        "prompt_per_second": 12,
        "predicted_n": 8,
        "predicted_ms": 2000,
        "predicted_per_token_ms": 250,
        "predicted_per_second": 4,
    }
    with_drafts = timings_of(dataclasses.replace(END, drafted_tokens=6, accepted_tokens=5))
    assert (with_drafts["draft_n"], with_drafts["draft_n_accepted"]) == (6, 5)


# -- in chunks ---------------------------------------------------------------------------------------------------------


def test_a_call_begins_with_its_name_and_goes_on_with_fragments() -> None:
    stream = builder(_PieceParser())
    events = b"".join(stream.sse_text(0, text) for text in texts_of(TWO_CALLS))
    thought, text, first, key, rome, second, nothing = deltas(events)
    assert (thought, text) == ({"reasoning_content": "Hm"}, {"content": "Let me look."})
    for index, (delta, name) in enumerate([(first, "weather"), (second, "now")]):
        (call,) = delta["tool_calls"]
        assert re.fullmatch(r"call_\w{24}", call.pop("id"))
        assert call == {"index": index, "type": "function", "function": {"name": name, "arguments": ""}}
    assert key == {"tool_calls": [{"index": 0, "function": {"arguments": '{"place": '}}]}
    assert rome == {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]}
    assert nothing == {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}
    (last,) = chunks_of(stream.sse_end(0, END, last=True))
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "tool_calls")


def test_several_answers_count_their_own_calls() -> None:
    stream = builder(_PieceParser(), _PieceParser())
    both = [(0, (CALL, "a")), (1, (CALL, "b")), (0, (CALL, "c")), (1, (ARGUMENTS, "{}"))]
    events = b"".join(stream.sse_text(number, Text(json.dumps([piece]))) for number, piece in both)
    assert [delta["tool_calls"][0]["index"] for delta in deltas(events, 0)] == [0, 1]
    assert [delta["tool_calls"][0]["index"] for delta in deltas(events, 1)] == [0, 0]
    ends = stream.sse_end(0, END) + stream.sse_end(1, Done("length"), last=True)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks_of(ends)] == ["tool_calls", "length"]


def test_what_a_parser_held_back_is_sent_before_the_end() -> None:
    stream = builder(_PieceParser(held_back=((CALL, "now"), (ARGUMENTS, "{}")), faults=("tool_calls[1]",)))
    begun, arguments, last = chunks_of(stream.sse_end(0, END, last=True))
    assert begun["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "now"
    assert arguments["choices"][0]["delta"]["tool_calls"][0]["function"] == {"arguments": "{}"}
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert (last["ignored"], last["timings"]["predicted_n"]) == (["tool_calls[1]"], 8)


def test_remarks_are_in_the_usage_chunk_if_there_is_one() -> None:
    stream = builder(_PieceParser(), usage_chunk=True, ignored=("seed_mode",))
    (last,) = chunks_of(stream.sse_end(0, END, last=True))
    (closing,) = chunks_of(stream.sse_closing({0: END}))
    assert last["usage"] is None and "ignored" not in last and "timings" not in last
    assert closing["choices"] == [] and closing["ignored"] == ["seed_mode"] and "timings" in closing
    assert closing["usage"]["total_tokens"] == 18


def test_logprobs_go_with_the_first_part_of_their_token_and_have_its_id() -> None:
    token = TokenLogprobs(Logprob("{", -0.5, 7), (Logprob("{", -0.5, 7),), "7b")
    stream = builder(_PieceParser())
    text = json.dumps([(CALL, "now"), (ARGUMENTS, "{}")])
    first, second = chunks_of(stream.sse_text(0, Text(text, 1, (token,))))
    (shown,) = first["choices"][0]["logprobs"]["content"]
    assert (shown["token"], shown["id"], shown["top_logprobs"][0]["id"]) == ("{", 7, 7)
    assert second["choices"][0]["logprobs"] is None
    (alone,) = chunks_of(stream.sse_text(0, Text("[]", 1, (token,))))
    assert alone["choices"][0]["delta"] == {} and alone["choices"][0]["logprobs"]["content"][0]["id"] == 7
