"""Events of servers become pieces of an answer.

The events of vLLM 0.32 and of llama-server are recorded ones, shortened; those of SGLang, Ollama and others follow
their documentation and sources.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from modules.core.events import Json, Logprob, TokenLogprobs
from modules.engines.served import llama_server, ollama
from modules.engines.served.logprobs import LOWEST, of_chat
from modules.engines.served.openai_events import ChatReader, completion_reader, top_logprobs
from modules.engines.served.server_kind import Piece, Read

DONE = b"[DONE]"
VLLM_FIRST = b"""{"id":"cmpl-a","object":"text_completion","created":1796013222,"model":"m","choices":[{"index":0,\
"text":"1","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":[1,4093,198],"token_ids":[33]}]}"""
VLLM_LAST = b"""{"id":"cmpl-a","object":"text_completion","created":1796013222,"model":"smollm2","choices":[{"index":0,\
"text":". Red","logprobs":{"text_offset":[1,2],"token_logprobs":[-0.0397,-1.0296],"tokens":["."," Red"],\
"top_logprobs":[{".":-0.0397,")":-4.0397},{" Red":-1.0296," Blue":-2.0921}]},"finish_reason":"length",\
"stop_reason":null,"prompt_token_ids":null,"token_ids":[30,3950]}]}"""
VLLM_USAGE = b"""{"id":"cmpl-a","object":"text_completion","created":1796013222,"model":"smollm2","choices":[],\
"usage":{"prompt_tokens":13,"total_tokens":25,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":8}}}"""
LLAMA_FIRST = b"""{"index":0,"content":"Hello","tokens":[19556],"stop":false,"id_slot":-1,"tokens_predicted":1,\
"tokens_evaluated":12,"completion_probabilities":[{"id":19556,"token":"Hello","bytes":[72,101,108,108,111],\
"logprob":-2.0375,"top_logprobs":[{"id":19556,"token":"Hello","bytes":[72,101,108,108,111],"logprob":-2.0375},\
{"id":57,"token":"I","bytes":[73],"logprob":-2.2028}]}]}"""
LLAMA_LAST = b"""{"index":0,"content":"","tokens":[],"id_slot":1,"stop":true,"model":"m","tokens_predicted":12,\
"tokens_evaluated":13,"truncated":false,"stop_type":"word","stopping_word":"fox","timings":{"cache_n":11}}"""


def event(**fields: Json) -> bytes:
    return json.dumps(fields).encode()


def facts(piece: Piece) -> dict[str, Any]:
    """Return the fields of a piece that are not the defaults."""
    return {key: value for key, value in asdict(piece).items() if value != asdict(Piece())[key]}


def test_a_text_completion_of_vllm_is_read() -> None:
    read = completion_reader(1)
    assert facts(read(VLLM_FIRST)) == {"text": "1", "tokens": 1, "ids": (33,), "prompt_ids": (1, 4093, 198)}
    last = read(VLLM_LAST)
    assert (last.text, last.tokens, last.ids, last.reason) == (". Red", 2, (30, 3950), "length")
    assert last.logprobs == (
        TokenLogprobs(Logprob(".", -0.0397, 30), (Logprob(".", -0.0397, -1),), "2e"),
        TokenLogprobs(Logprob(" Red", -1.0296, 3950), (Logprob(" Red", -1.0296, -1),), b" Red".hex()),
    )
    assert facts(read(VLLM_USAGE)) == {"prompt_tokens": 13, "completion_tokens": 12, "cached_tokens": 8}
    assert facts(read(DONE)) == {"is_end": True}
    assert completion_reader(None)(VLLM_LAST).logprobs == (), "nobody has asked for them"


def test_the_stop_string_is_known_where_the_server_names_it() -> None:
    read = completion_reader(None)
    for field in ("stop_reason", "matched_stop"):  # vLLM, SGLang
        for value, expected in (("\nYou:", "\nYou:"), (2, ""), (None, "")):
            piece = read(event(choices=[{"text": "", "finish_reason": "stop", field: value}]))
            assert (piece.reason, piece.stop_string) == ("stop", expected)


def test_an_answer_of_llama_server_is_read() -> None:
    read = llama_server.completion_reader(1)
    first = read(LLAMA_FIRST)
    assert (first.text, first.tokens, first.ids, first.reason, first.is_end) == ("Hello", 1, (19556,), "", False)
    top = (Logprob("Hello", -2.0375, 19556),)
    assert first.logprobs == (TokenLogprobs(Logprob("Hello", -2.0375, 19556), top, "48656c6c6f"),)
    assert facts(read(LLAMA_LAST)) == {
        "reason": "stop",
        "stop_string": "fox",
        "prompt_tokens": 13,
        "completion_tokens": 12,
        "cached_tokens": 11,
        "model": "m",
        "is_end": True,
    }
    assert read(event(content="", stop=True, stop_type="limit")).reason == "length"
    assert read(event(error={"code": 500, "message": "out of memory"})).error == "out of memory"
    assert facts(read(DONE)) == {"is_end": True}


def test_an_answer_of_ollama_is_read_from_both_of_its_apis() -> None:
    read = ollama.reader(None)
    assert facts(read(event(model="m", response="Hi", done=False))) == {"text": "Hi", "tokens": 1}
    last = read(event(model="m", response="", done=True, done_reason="length", prompt_eval_count=26, eval_count=259))
    assert facts(last) == {"reason": "length", "is_end": True, "prompt_tokens": 26, "completion_tokens": 259}
    chat = ollama.reader(None)
    assert chat(event(message={"role": "assistant", "content": "Hi"}, done=False)).text == "Hi"
    assert chat(event(message={"role": "assistant", "content": ""}, done=True, done_reason="stop")).reason == "stop"
    assert chat(event(error="model runner has unexpectedly stopped")).error == "model runner has unexpectedly stopped"


def chunk(finish: str | None = None, logprobs: Json = None, **delta: Json) -> bytes:
    return event(choices=[{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])


def test_a_chat_completion_is_read() -> None:
    read = ChatReader(1)
    listed = {
        "content": [
            {
                "token": "你",
                "logprob": -0.5,
                "bytes": [228, 189, 160],
                "top_logprobs": [{"token": "你", "logprob": -0.5}, {"token": "x", "logprob": -3}],
            }
        ]
    }
    assert facts(read(chunk(role="assistant", content=""))) == {}
    piece = read(chunk(content="你", logprobs=listed))
    assert piece.text == "你" and piece.logprobs == (
        TokenLogprobs(Logprob("你", -0.5, -1), (Logprob("你", -0.5, -1),), "e4bda0"),
    )
    assert read(chunk("stop")).reason == "stop"
    assert read(chunk("tool_calls")).reason == "stop"
    assert facts(read(event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1}))) == {
        "prompt_tokens": 3,
        "completion_tokens": 1,
    }


def test_the_tokens_of_a_piece_are_counted_by_their_ids_where_the_server_sends_them() -> None:
    data = event(choices=[{"delta": {"content": "four of them"}, "token_ids": [1, 2, 3, 4], "finish_reason": None}])
    assert ChatReader(None)(data).tokens == 4 and ChatReader(None)(chunk(content="one")).tokens == 1


def test_a_refusal_is_the_answer() -> None:
    assert ChatReader(None)(chunk(refusal="I cannot.")).text == "I cannot."


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_that_is_sent_apart_is_put_between_its_marks(field: str) -> None:
    read = ChatReader(None)
    events = [
        chunk(**{field: "Let me"}),
        chunk(**{field: " see."}),
        chunk(content="Yes"),
        chunk(content="."),
        chunk("stop"),
    ]
    assert "".join(read(one).text for one in events) == "<think>\nLet me see.\n</think>\n\nYes."
    read = ChatReader(None)
    assert "".join(read(one).text for one in (chunk(**{field: "Hm"}), chunk("length"))) == "<think>\nHm\n</think>\n\n"
    thinking = ollama.reader(None)
    lines = [event(message={"thinking": "Hm"}, done=False), event(message={"content": "Yes"}, done=True)]
    assert "".join(thinking(line).text for line in lines) == "<think>\nHm\n</think>\n\nYes"


def test_errors_in_a_stream_are_read_in_all_their_forms() -> None:
    read = completion_reader(None)
    for body in (
        {"error": {"message": "CUDA out of memory", "code": 500}},
        {"error": "CUDA out of memory"},
        {"object": "error", "message": "CUDA out of memory", "code": 400},
    ):
        assert "CUDA out of memory" in read(event(**body)).error
        assert "CUDA out of memory" in ChatReader(None)(event(**body)).error
    for finish in ("abort", "error", "content_filter"):
        piece = read(event(choices=[{"text": "", "finish_reason": finish}]))
        assert finish in piece.error and not piece.reason, "an aborted answer is not complete"


def test_what_is_no_event_is_refused(subtests: pytest.Subtests) -> None:
    readers: dict[str, Read] = {
        "text": completion_reader(2),
        "chat": ChatReader(2),
        "llama": llama_server.completion_reader(2),
        "ollama": ollama.reader(2),
    }
    bad = [b"", b"x", b"[]", b"3", b'"a"', b"null", b"{", b"[" * 100_000, b"\xff\xfe"]
    for name, read in readers.items():
        for data in bad:
            with subtests.test(name, data=ascii(data[:20])), pytest.raises(ValueError):
                read(data)
    wrong = {
        "text": [
            {"choices": [{"text": 5}]},
            {"choices": ["x"]},
            {"choices": {"a": 1}},
            {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]},
            {"choices": [{"text": "a", "logprobs": {"tokens": [5], "token_logprobs": [-1.0]}}]},
        ],
        "chat": [{"choices": [{"delta": {"content": 5}}]}, {"choices": [{"delta": "x"}]}],
        "llama": [{"content": 5}, {"content": "", "completion_probabilities": {"a": 1}}],
        "ollama": [{"response": 5}, {"message": {"content": ["x"]}}, {"response": "", "logprobs": [3]}],
    }
    for name, bodies in wrong.items():
        for body in bodies:
            with subtests.test(name, body=str(body)), pytest.raises(ValueError):
                readers[name](event(**body))


def test_impossible_log_probabilities_are_numbers() -> None:
    for number in (None, float("-inf"), -3.4e38, float("nan"), -(10**400)):
        body = {"tokens": ["a"], "token_logprobs": [number], "top_logprobs": None}
        piece = completion_reader(0)(event(choices=[{"text": "a", "logprobs": body}]))
        assert piece.logprobs == (TokenLogprobs(Logprob("a", LOWEST, -1), (), "61"),)
    for number in (float("inf"), 10**400, 1e-9):
        body = [{"token": "a", "logprob": number}]
        assert of_chat(body, 0)[0].chosen.logprob == 0.0, "certainty"


def test_candidates_that_cannot_be_read_are_none(subtests: pytest.Subtests) -> None:
    assert top_logprobs({"choices": [{"logprobs": {"top_logprobs": [{"a": -1}]}}]}) == {"a": -1.0}
    for listed in (None, [], [None], [["a"]], [{"a": None}], [{"a": "x"}], [{"a": -(10**400)}]):
        with subtests.test(listed=str(listed)[:20]):
            assert top_logprobs({"choices": [{"logprobs": {"top_logprobs": listed}}]}) == {}


def test_counts_that_no_server_can_have_are_left_unknown() -> None:
    assert facts(completion_reader(None)(event(usage=[3, 7]))) == {}
    for count in (-1, 10**400, 1.5, "3", True, None):
        usage = {"prompt_tokens": count, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": count}}
        piece = completion_reader(None)(event(usage=usage))
        assert (piece.prompt_tokens, piece.cached_tokens, piece.completion_tokens) == (-1, -1, 7)
        end = llama_server.completion_reader(None)(event(stop=True, tokens_evaluated=count, tokens_predicted=7))
        assert (end.prompt_tokens, end.completion_tokens) == (-1, 7)
        end = ollama.reader(None)(event(done=True, prompt_eval_count=count, eval_count=7))
        assert (end.prompt_tokens, end.completion_tokens) == (-1, 7)
