"""Completions in chunks, in the shapes of OpenAI's API."""

from __future__ import annotations

import json

from modules.api.completion_responses import CompletionResponseBuilder
from modules.core.events import Logprob, Text, TokenLogprobs


def test_text_that_is_held_back_makes_no_chunk_but_its_tokens_do() -> None:
    stream = CompletionResponseBuilder("model", 1, usage_chunk=False, echoes=[""])
    token = TokenLogprobs(Logprob("b", -0.5, 7), (), "62")
    assert (stream.sse_opening(0), stream.sse_text(0, Text(""))) == (b"", b"")
    (choice,) = json.loads(stream.sse_text(0, Text("", 1, (token,))).removeprefix(b"data: "))["choices"]
    assert (choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]) == ("", ["b"], [0])
    (choice,) = json.loads(stream.sse_text(0, Text("bc", 1, (token,))).removeprefix(b"data: "))["choices"]
    assert (choice["text"], choice["logprobs"]["text_offset"]) == ("bc", [1])


def test_an_event_is_one_line_to_every_client() -> None:
    """httpx and requests split a stream at the line breaks of Unicode, too."""
    stream = CompletionResponseBuilder("model", 1, usage_chunk=False, echoes=[""])
    text = "a\u2028b\u2029c\x85d\x0b\x0c\x1c“é…”"
    token = TokenLogprobs(Logprob(text, -0.5, 7), (), "62")
    for piece in (Text(text), Text(text, 1, (token,))):
        (line,) = filter(None, stream.sse_text(0, piece).decode().splitlines())
        assert json.loads(line.removeprefix("data: "))["choices"][0]["text"] == text
