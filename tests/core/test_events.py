"""What a worker says, written on the wire and read back."""

from __future__ import annotations

import json

import pytest

from modules.core.errors import LoadFailed, NoModelLoaded, Unsupported, both
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
    to_line,
)

CHANCES = TokenLogprobs(Logprob(" 猫", -0.5), (Logprob(" 猫", -0.5), Logprob("\n", -1.25)))


EVENTS: list[Event] = [
    Text("hello"),
    Text('two\nlines "quoted" 猫 😀 \0 \x85 \u2028', 3),
    Text("", 0),
    Text("cat", 2, (CHANCES, CHANCES)),
    Progress("weights", 0.25),
    Waiting(3),
    Result(None),
    Result({"tokens": [1, 2], "nested": {"text": "猫", "number": 1.5, "truth": True}}),
    Done("stop", 1, 2, 3, 0.5, 1.5),
]


def test_an_event_is_read_back_as_it_was_written(subtests: pytest.Subtests) -> None:
    for event in EVENTS:
        with subtests.test(event=event):
            assert from_line(to_line(7, event)) == (7, event)


def test_an_error_comes_back_with_its_kind_and_facts() -> None:
    call, event = from_line(to_line(7, Failed(LoadFailed("llama.cpp", "猫.gguf", "no such file", both("why")))))
    assert call == 7
    assert isinstance(event, Failed)
    assert type(event.error) is LoadFailed
    assert vars(event.error) == {
        "loader": "llama.cpp",
        "model": "猫.gguf",
        "words": "no such file",
        "cause": {"zh": "why", "en": "why"},
    }


@pytest.mark.parametrize("event", [Text("a\nb\r\n\u2028c"), Failed(Unsupported(both("two\nlines"))), Result("\n")])
def test_an_event_is_one_line_of_json(event: Event) -> None:
    line = to_line(1, event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)[:2] == [1, type(event).__name__]


@pytest.mark.parametrize("line", [b"", b"chatter\n", b'[1,"Text",{"te', b'[1,"Nonsense",{}]\n', b"{}\n", b"[1]\n"])
def test_what_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        from_line(line)


def test_what_is_known_of_a_model_comes_back_as_it_went() -> None:
    info = Info(4096, "<s>", "</s>", "{{ messages }}", 1 << 30, (Note("numa", {"en": "no effect", "zh": "无效"}),))
    assert Info.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_an_error_without_facts_needs_none() -> None:
    assert from_line(to_line(1, Failed(NoModelLoaded())))[0] == 1
