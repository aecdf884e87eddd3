"""Events from workers: serialization to one line of JSON, and parsing."""

from __future__ import annotations

import json

import pytest

from modules.core.errors import NoModelLoaded, Unsupported, both
from modules.core.events import (
    Done,
    Event,
    Failed,
    Info,
    Logprob,
    Note,
    Progress,
    Result,
    Text,
    TokenLogprobs,
    Waiting,
    from_line,
    text_item,
    texts_line,
    to_line,
)
from modules.core.fill_in_middle import FimTokens
from modules.core.worker_errors import LoadFailed

LOGPROBS = TokenLogprobs(Logprob(" 猫", -0.5, 7), (Logprob(" 猫", -0.5, 7), Logprob("\n", -1.25, 198)), "20e78cab")


EVENTS: list[Event] = [
    Text("hello"),
    Text('two\nlines "quoted" 猫 😀 \0 \x85 \u2028', 3),
    Text("", 0),
    Text("cat", 2, (LOGPROBS, LOGPROBS)),
    Progress("weights", 0.25),
    Progress("machines", 0.0, ("./start.sh --node-rank 1",)),
    Waiting(3),
    Result(None),
    Result({"tokens": [1, 2], "nested": {"text": "猫", "number": 1.5, "truth": True}}),
    Done("stop", 1, 2, 3, 0.5, 1.5, 4, 2**32 - 2, "\nUser:"),
]


def test_an_event_survives_serialization(subtests: pytest.Subtests) -> None:
    for event in EVENTS:
        with subtests.test(event=event):
            assert from_line(to_line(7, event)) == [(7, event)]


def test_an_error_event_keeps_its_class_and_fields() -> None:
    ((call, event),) = from_line(to_line(7, Failed(LoadFailed("llama.cpp", "猫.gguf", "no such file", both("why")))))
    assert call == 7
    assert isinstance(event, Failed)
    assert type(event.error) is LoadFailed
    assert vars(event.error) == {
        "loader": "llama.cpp",
        "model": "猫.gguf",
        "words": "no such file",
        "cause": {"zh": "why", "en": "why"},
    }


def test_texts_of_many_calls_share_a_line() -> None:
    texts = [(7, Text('two\nlines "quoted" 猫 😀 \0 \u2028', 3)), (8, Text("", 0)), (7, Text("more"))]
    line = texts_line(text_item(call, text) for call, text in texts)
    assert line.count(b"\n") == 1
    assert from_line(line) == texts


@pytest.mark.parametrize("event", [Text("a\nb\r\n\u2028c"), Failed(Unsupported(both("two\nlines"))), Result("\n")])
def test_an_event_is_one_line_of_json(event: Event) -> None:
    line = to_line(1, event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)[:2] == [1, type(event).__name__]


@pytest.mark.parametrize(
    "line", [b"", b"chatter\n", b'[1,"Text",{"te', b'[1,"Nonsense",{}]\n', b"{}\n", b"[1]\n", b'[0,"Texts",[[1]]]\n']
)
def test_a_line_that_is_not_an_event_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_line(line)


def test_info_survives_serialization() -> None:
    info = Info(
        *(4096, {"bos_token": "<s>"}, "{{ messages }}", 1 << 30),
        notes=(Note("numa", {"en": "no effect", "zh": "无效"}),),
        vocabulary_size=49152,
        fim=FimTokens(5, 6, 7, suffix_first=True, stops=("<|file_sep|>", "<|fim_pad|>")),
        slots=4,
    )
    assert Info.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert Info.from_json(json.loads(json.dumps(Info(4096).to_json()))) == Info(4096)
    served = Info(4096, abilities=("lora",), samplers=(), messages=True)
    assert Info.from_json(json.loads(json.dumps(served.to_json()))) == served


def test_an_error_without_fields_is_serialized() -> None:
    assert from_line(to_line(1, Failed(NoModelLoaded())))[0][0] == 1
