"""The API as its clients use it: the `openai` package against a real server with the real SmolLM2."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from modules.api.responses import TextOffsets
from modules.core.events import Logprob, Text, TokenLogprobs
from modules.runtime.loaded_model import LoadedModel
from tests.support.serving import Server, smollm2_server

QUESTION = [{"role": "user", "content": "Name the capital of France in one English sentence."}]
GREEDY = {"model": "gpt-3.5-turbo", "temperature": 0}
STORY = {"prompt": "Count: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "temperature": 0, "max_tokens": 1900}
"""A prompt whose answer takes many seconds."""


@pytest.fixture(scope="module")
def server(models_folder: Path) -> Iterator[Server]:
    """Serve SmolLM2 for tests that leave it loaded."""
    with smollm2_server(models_folder) as running:
        yield running


# -- models ----------------------------------------------------------------------------------------------------------


def test_the_models_are_listed_with_the_loaded_one_marked(server: Server) -> None:
    (model,) = server.openai.models.list().data
    assert model.id == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (model.object, model.model_extra) == ("model", {"loaded": True})
    assert server.openai.models.retrieve(model.id) == model


def test_a_missing_model_is_not_found(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Did you mean 'SmolLM2-135M-Instruct\.Q4_1\.gguf'"):
        server.openai.models.retrieve("SmolLM2-135M-Instruct.Q4_2.gguf")


# -- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_names_the_model_that_gave_it(server: Server) -> None:
    answer = server.openai.chat.completions.create(messages=QUESTION, **GREEDY)
    (choice,) = answer.choices
    assert "Paris" in (choice.message.content or "")
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert answer.model == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_a_streamed_answer_equals_the_whole_one(server: Server) -> None:
    whole = server.openai.chat.completions.create(messages=QUESTION, **GREEDY)
    chunks = list(server.openai.chat.completions.create(messages=QUESTION, stream=True, **GREEDY))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert {chunk.usage for chunk in chunks} == {None}
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_streamed_completion_equals_the_whole_one(server: Server) -> None:
    fields = {"prompt": "Once upon a time", "max_tokens": 24, **GREEDY}
    whole = server.openai.completions.create(**fields).choices[0]
    chunks = list(server.openai.completions.create(stream=True, **fields))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert whole.text
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_ends_like_openais(server: Server) -> None:
    answer = server.post("/completions", {"prompt": "Hi", "max_tokens": 2, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert all(event.startswith("data: {") for event in events[:-2])
    assert events[-2:] == ["data: [DONE]", ""]


def test_tokens_are_counted_in_whole_and_streamed_answers(server: Server) -> None:
    fields = {"prompt": "Once upon a time", "max_tokens": 7, **GREEDY}
    usage = server.openai.completions.create(**fields).usage
    tokens = server.post("/internal/token-count", {"text": fields["prompt"]}).json()["length"]
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (tokens, 7, tokens + 7)
    chunks = list(server.openai.completions.create(stream=True, stream_options={"include_usage": True}, **fields))
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == tokens + 7


@pytest.mark.parametrize("stop", [" Paris", [" Par", "never"], ["is Pa"]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_and_is_never_shown(server: Server, stop: str | list[str], stream: bool) -> None:
    answer = server.post("/chat/completions", {"messages": QUESTION, "stop": stop, "stream": stream, "temperature": 0})
    text, reason = streamed(answer.text) if stream else whole_of(answer)
    assert text == "The capital of France " + ("" if stop == ["is Pa"] else "is")
    assert reason == "stop"


def whole_of(answer: httpx.Response) -> tuple[str, str]:
    (choice,) = answer.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def streamed(events: str) -> tuple[str, str]:
    chunks = [json.loads(line.removeprefix("data: ")) for line in events.split("\n\n") if line.startswith("data: {")]
    choices = [chunk["choices"][0] for chunk in chunks]
    return "".join(choice["delta"].get("content", "") for choice in choices), choices[-1]["finish_reason"]


def test_the_same_seed_gives_the_same_answer(server: Server) -> None:
    fields = {"model": "", "prompt": "My favourite word is", "max_tokens": 12, "temperature": 2.0}
    first, again = (server.openai.completions.create(seed=7, **fields).choices[0].text for _ in range(2))
    others = {server.openai.completions.create(seed=seed, **fields).choices[0].text for seed in (8, 9)}
    assert first == again
    assert {first} != others


def test_several_answers_have_consecutive_seeds(server: Server) -> None:
    fields = {"model": "", "prompt": "My favourite word is", "max_tokens": 12, "temperature": 2.0}
    both = server.openai.completions.create(seed=7, n=2, **fields)
    alone = [server.openai.completions.create(seed=seed, **fields) for seed in (7, 8)]
    assert [choice.text for choice in both.choices] == [each.choices[0].text for each in alone]
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.usage and alone[0].usage and alone[1].usage
    assert both.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert both.usage.completion_tokens == alone[0].usage.completion_tokens + alone[1].usage.completion_tokens


def test_several_answers_are_streamed_concurrently(server: Server) -> None:
    texts, ends = {0: "", 1: ""}, {}
    fields = {"messages": QUESTION, "n": 2, "stream": True, **GREEDY}
    for chunk in server.openai.chat.completions.create(**fields):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason
    assert texts[0] == texts[1] == "The capital of France is Paris."
    assert ends == {0: "stop", 1: "stop"}


def test_prompts_may_be_several_or_token_numbers(server: Server) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    fields = {"max_tokens": 2, **GREEDY}  # the third depends on rounding, and so on who is batched with whom
    texts = [choice.text for choice in server.openai.completions.create(prompt=prompts, **fields).choices]
    assert texts[0] != texts[1]
    tokens = [server.post("/internal/encode", {"text": prompt}).json()["tokens"] for prompt in prompts]
    assert [choice.text for choice in server.openai.completions.create(prompt=tokens, **fields).choices] == texts
    assert server.openai.completions.create(prompt=tokens[0], **fields).choices[0].text == texts[0]


def test_an_echo_puts_the_prompt_before_the_answer(server: Server) -> None:
    fields = {"prompt": "One, two,", "max_tokens": 3, **GREEDY}
    plain = server.openai.completions.create(**fields).choices[0].text
    assert server.openai.completions.create(echo=True, **fields).choices[0].text == "One, two," + plain
    chunks = server.openai.completions.create(echo=True, stream=True, **fields)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "One, two," + plain


def test_content_parts_and_the_role_developer_are_accepted(server: Server) -> None:
    parts = [
        {"type": "text", "text": "Name the capital of France"},
        {"type": "text", "text": "in one English sentence."},
    ]
    messages = [{"role": "developer", "content": "You are terse."}, {"role": "user", "content": parts}]
    joined = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Name the capital of France\nin one English sentence."},
    ]
    fields = {"max_tokens": 12, **GREEDY}
    first, second = (server.openai.chat.completions.create(messages=each, **fields) for each in (messages, joined))
    assert first.choices == second.choices
    assert first.usage and second.usage and first.usage.prompt_tokens == second.usage.prompt_tokens


def test_an_answer_that_a_client_sends_back_is_accepted(server: Server) -> None:
    answer = server.openai.chat.completions.create(messages=QUESTION, **GREEDY).choices[0].message
    followed = [*QUESTION, answer.model_dump(), {"role": "user", "content": "And of Italy?"}]
    assert server.post("/chat/completions", {"messages": followed, "max_tokens": 4}).status_code == 200


def test_an_unfinished_answer_is_continued(server: Server) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = server.post("/chat/completions", {"messages": begun, "continue_": True, "temperature": 0})
    assert whole_of(answer) == (" Paris.", "stop")
    refused = server.refusal("/chat/completions", {"messages": QUESTION, "continue_": True})
    assert (refused["status"], refused["param"]) == (400, "continue_")


# -- log-probabilities -----------------------------------------------------------------------------------------------


def test_chat_completions_return_logprobs(server: Server) -> None:
    fields = {"messages": QUESTION, "logprobs": True, "top_logprobs": 3, **GREEDY}
    (choice,) = server.openai.chat.completions.create(**fields).choices
    assert choice.logprobs is not None and choice.logprobs.content
    for token in choice.logprobs.content:
        chances = [candidate.logprob for candidate in token.top_logprobs]
        assert chances == sorted(chances, reverse=True)
        assert len(chances) == 3 and token.logprob == chances[0] <= 0
        assert bytes(token.bytes or []).decode() == token.token
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    chunks = [chunk.choices[0] for chunk in server.openai.chat.completions.create(stream=True, **fields)]
    heard = [token for each in chunks if each.logprobs for token in each.logprobs.content or []]
    assert [token.token for token in heard] == [token.token for token in choice.logprobs.content]


def test_completions_return_logprobs_with_text_offsets(server: Server) -> None:
    fields = {"prompt": "The capital of France is", "max_tokens": 5, "logprobs": 2, **GREEDY}
    choice = server.openai.completions.create(**fields).choices[0]
    logprobs = choice.logprobs
    assert (
        logprobs is not None
        and logprobs.tokens
        and logprobs.text_offset
        and logprobs.token_logprobs
        and logprobs.top_logprobs
    )
    assert "".join(logprobs.tokens) == choice.text
    assert [choice.text[place] for place in logprobs.text_offset] == [token[0] for token in logprobs.tokens]
    assert [max(top, key=top.__getitem__) for top in logprobs.top_logprobs] == logprobs.tokens
    chunks = [chunk.choices[0] for chunk in server.openai.completions.create(stream=True, **fields)]
    places = [place for each in chunks if each.logprobs for place in each.logprobs.text_offset or []]
    assert places == logprobs.text_offset


def test_without_top_logprobs_only_the_chosen_token_is_returned(server: Server) -> None:
    answer = server.post("/chat/completions", {"messages": QUESTION, "logprobs": True, "max_tokens": 3})
    assert [token["top_logprobs"] for token in answer.json()["choices"][0]["logprobs"]["content"]] == [[], [], []]


def test_offsets_are_right_after_tokens_that_split_a_character() -> None:
    def token(text: str) -> TokenLogprobs:
        return TokenLogprobs(Logprob(text, -1.0))

    places = TextOffsets()
    assert places.of(Text("é", 2, (token("\ufffd"), token("\ufffd")))) == [0, 1]
    assert places.of(Text("tes", 2, (token("te"), token("s")))) == [1, 3]


# -- hanging up ------------------------------------------------------------------------------------------------------


def rests(model: LoadedModel, seconds: float = 5.0) -> bool:
    """Return whether the worker stops using the CPU within `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = processor_seconds(model)
        time.sleep(0.5)
        if processor_seconds(model) - before <= 0.02:
            return True
    return False


def processor_seconds(model: LoadedModel) -> float:
    facts = Path(f"/proc/{model._worker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


def test_disconnecting_from_a_stream_stops_the_generation(server: Server) -> None:
    model = server.app.models.current
    with server.http.stream("POST", "/completions", json={**STORY, "stream": True}) as answer:
        lines = answer.iter_lines()
        for _ in range(9):
            next(lines)
    assert rests(model)


def test_disconnecting_before_a_whole_answer_stops_the_generation(server: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/completions", json=STORY, timeout=1.0)
    assert rests(server.app.models.current)


def test_disconnecting_while_queued_leaves_the_queue(server: Server) -> None:
    stream = {**STORY, "stream": True}
    with contextlib.ExitStack() as others:
        answers = [others.enter_context(server.http.stream("POST", "/completions", json=stream)) for _ in range(4)]
        lines = [answer.iter_lines() for answer in answers]  # held on to: httpx hangs up when it is dropped
        assert all(map(next, lines)), "as many as --parallel serves at once"
        for waiting in (STORY, stream):
            with pytest.raises(httpx.ReadTimeout):
                server.http.post("/completions", json=waiting, timeout=0.5)
    assert rests(server.app.models.current)


def test_the_next_request_is_answered_at_once(server: Server) -> None:
    with server.http.stream("POST", "/completions", json={**STORY, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
    began = time.monotonic()
    assert server.post("/completions", {"prompt": "Hi", "max_tokens": 1}).status_code == 200
    assert time.monotonic() - began < 4


def test_a_prompt_is_truncated_to_truncation_length(server: Server) -> None:
    words = "one two three four five six seven eight nine ten"
    body = {"prompt": words, "max_tokens": 1, "temperature": 0}
    whole = server.post("/completions", body).json()["usage"]["prompt_tokens"]
    cut = server.post("/completions", {**body, "truncation_length": 4}).json()["usage"]["prompt_tokens"]
    assert whole >= 10 and cut == 4
    talk = [{"role": role, "content": words} for role in ("user", "assistant", "user", "assistant")]
    fields = {"messages": [*talk, {"role": "user", "content": "Hi"}], "max_tokens": 1}
    long = server.post("/chat/completions", fields).json()["usage"]["prompt_tokens"]
    short = server.post("/chat/completions", {**fields, "truncation_length": 50}).json()["usage"]["prompt_tokens"]
    assert long > 60 and short <= 49
