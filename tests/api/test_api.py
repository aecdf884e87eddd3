"""The API as its clients use it: the `openai` package against a real server with the real SmolLM2."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from modules.api.completion_responses import TextOffsets
from modules.core.events import Logprob, Text, TokenLogprobs
from modules.runtime.loaded_model import LoadedModel
from tests.support.render_processes import render_processes, wait_until_ended
from tests.support.serving import CONTEXT, Server, smollm2_server

QUESTION = [{"role": "user", "content": "Name the capital of France in one English sentence."}]
GREEDY = {"model": "gpt-3.5-turbo", "temperature": 0}
STORY = {"prompt": "Count: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "temperature": 0, "max_tokens": 1900}
"""A prompt whose answer takes many seconds."""
LISTED = {"loaded": True, "status": {"value": "loaded"}, "context_length": CONTEXT, "input_modalities": ["text"]}


@pytest.fixture(scope="module")
def server(models_folder: Path) -> Iterator[Server]:
    """Serve SmolLM2 for tests that leave it loaded."""
    with smollm2_server(models_folder) as running:
        yield running


# -- models ----------------------------------------------------------------------------------------------------------


def test_models_are_listed_and_the_loaded_one_is_marked(server: Server) -> None:
    (model,) = server.openai.models.list().data
    assert model.id == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (model.object, model.model_extra) == ("model", LISTED)
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


def test_streaming_does_not_change_an_answer(server: Server) -> None:
    complete = server.openai.chat.completions.create(messages=QUESTION, **GREEDY)
    chunks = list(server.openai.chat.completions.create(messages=QUESTION, stream=True, **GREEDY))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == complete.choices[0].message.content
    assert len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert {chunk.usage for chunk in chunks} == {None}
    assert len({chunk.id for chunk in chunks}) == 1


THINKS = 'root ::= "<think>\\nIs it Rome?\\n</think>\\n\\nIt is Paris."'


def test_the_thought_of_an_answer_is_apart_from_its_text(server: Server) -> None:
    fields = {"messages": QUESTION, "extra_body": {"grammar_string": THINKS}, **GREEDY}
    answer = server.openai.chat.completions.create(**fields)
    message = answer.choices[0].message
    assert (message.model_extra or {}).get("reasoning_content") == "Is it Rome?"
    assert message.content == "It is Paris."
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    assert 0 < (answer.usage.completion_tokens_details.reasoning_tokens or 0) < answer.usage.completion_tokens - 2
    chunks = server.openai.chat.completions.create(stream=True, **fields)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "Is it Rome?"
    assert "".join(delta.content or "" for delta in deltas) == "It is Paris."


def test_a_thought_that_breaks_off_within_a_marker_is_complete(server: Server) -> None:
    grammar = {"grammar_string": 'root ::= "<think>It is Paris </th"'}
    chunks = server.openai.chat.completions.create(messages=QUESTION, stream=True, extra_body=grammar, **GREEDY)
    thought = "".join((chunk.choices[0].delta.model_extra or {}).get("reasoning_content", "") for chunk in chunks)
    assert thought == "It is Paris </th"


def test_a_client_may_ask_for_the_text_with_its_thought(server: Server) -> None:
    extra = {"grammar_string": THINKS, "reasoning_format": "none"}
    answer = server.openai.chat.completions.create(messages=QUESTION, extra_body=extra, **GREEDY)
    assert answer.choices[0].message.content == "<think>\nIs it Rome?\n</think>\n\nIt is Paris."


CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "rivers": {"type": "array", "items": {"enum": ["Seine"]}, "maxItems": 2},
    },
    "required": ["city", "rivers"],
    "additionalProperties": False,
}


def test_an_answer_follows_a_json_schema(server: Server) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    fields: dict[str, Any] = {"messages": QUESTION, "max_tokens": 60, "response_format": response_format, **GREEDY}
    answer = server.openai.chat.completions.create(**fields).choices[0]
    assert "Paris" in json.loads(answer.message.content or "")["city"]
    chunks = server.openai.chat.completions.create(stream=True, **fields)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.message.content


def test_any_json_object_can_be_asked_for(server: Server) -> None:
    fields: dict[str, Any] = {"response_format": {"type": "json_object"}, "max_tokens": 200, **GREEDY}
    answer = server.openai.chat.completions.create(messages=QUESTION, **fields).choices[0]
    assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content or ""), dict)
    assert (answer.message.content or "").startswith("{")


def test_a_schema_that_cannot_be_enforced_is_refused_by_its_word(server: Server) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        server.openai.completions.create(prompt="A list:", extra_body={"json_schema": schema}, **GREEDY)


def test_a_grammar_that_is_refused_has_the_name_by_which_it_was_sent(server: Server, subtests: pytest.Subtests) -> None:
    wrong = {"type": "nothing"}
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("/completions", {"prompt": "A", "guided_json": wrong}, "guided_json"),
        ("/completions", {"prompt": "A", "grammar": "root ::= ("}, "grammar"),
        ("/chat/completions", {"messages": QUESTION, "json_schema": wrong}, "json_schema"),
        (
            "/messages",
            {"messages": QUESTION, "output_config": {"format": {"type": "json_schema", "schema": wrong}}},
            "",
        ),
    ]
    for path, body, name in refused:
        with subtests.test(path=path, name=name):
            error = server.post(path, {**body, "max_tokens": 5}).json()["error"]
            assert error["message"].startswith(f"{name or 'output_config.format'}: ")
            assert error.get("param", "") == name


CAPITALS = {
    "type": "function",
    "function": {
        "name": "find_capital",
        "description": "Find the capital of a country",
        "parameters": {
            "type": "object",
            "properties": {"country": {"type": "string", "maxLength": 20}},
            "required": ["country"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now", "description": "Tell the time"}}


def test_a_call_of_a_tool_can_be_required_of_any_model(server: Server, subtests: pytest.Subtests) -> None:
    named = {"type": "function", "function": {"name": "find_capital"}}
    for choice, tools in (("required", [CAPITALS]), (named, [NOW, CAPITALS])):
        with subtests.test(choice=choice):
            fields: dict[str, Any] = {"messages": QUESTION, "tools": tools, "tool_choice": choice, **GREEDY}
            (whole,) = server.openai.chat.completions.create(**fields, parallel_tool_calls=False).choices
            (call,) = whole.message.tool_calls or ()
            assert call.type == "function" and call.function.name == "find_capital"
            assert set(json.loads(call.function.arguments)) == {"country"}
            assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")


def test_streaming_does_not_change_a_completion(server: Server) -> None:
    fields = {"prompt": "Once upon a time", "max_tokens": 24, **GREEDY}
    complete = server.openai.completions.create(**fields).choices[0]
    chunks = list(server.openai.completions.create(stream=True, **fields))
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete.text
    assert complete.text
    assert complete.finish_reason == chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_ends_as_in_openais_api(server: Server) -> None:
    response = server.post("/completions", {"prompt": "Hi", "max_tokens": 2, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert all(event.startswith("data: {") for event in events[:-2])
    assert events[-2:] == ["data: [DONE]", ""]


def test_tokens_are_counted_in_complete_and_streamed_answers(server: Server) -> None:
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
    response = server.post(
        "/chat/completions", {"messages": QUESTION, "stop": stop, "stream": stream, "temperature": 0}
    )
    text, finish_reason = streamed_answer(response.text) if stream else complete_answer(response)
    assert text == "The capital of France " + ("" if stop == ["is Pa"] else "is")
    assert finish_reason == "stop"


def complete_answer(response: httpx.Response) -> tuple[str, str]:
    (choice,) = response.json()["choices"]
    return choice["message"]["content"], choice["finish_reason"]


def streamed_answer(events: str) -> tuple[str, str]:
    chunks = [json.loads(line.removeprefix("data: ")) for line in events.split("\n\n") if line.startswith("data: {")]
    choices = [chunk["choices"][0] for chunk in chunks]
    return "".join(choice["delta"].get("content", "") for choice in choices), choices[-1]["finish_reason"]


def test_the_same_seed_gives_the_same_answer(server: Server) -> None:
    fields = {"model": "", "prompt": "My favourite word is", "max_tokens": 12, "temperature": 2.0}
    first, second = (server.openai.completions.create(seed=7, **fields).choices[0].text for _ in range(2))
    with_other_seeds = {server.openai.completions.create(seed=seed, **fields).choices[0].text for seed in (8, 9)}
    assert first == second
    assert with_other_seeds != {first}


def test_several_answers_have_consecutive_seeds(server: Server) -> None:
    fields = {"model": "", "prompt": "My favourite word is", "max_tokens": 12, "temperature": 2.0}
    combined = server.openai.completions.create(seed=7, n=2, **fields)
    separate = [server.openai.completions.create(seed=seed, **fields) for seed in (7, 8)]
    assert [choice.text for choice in combined.choices] == [completion.choices[0].text for completion in separate]
    assert [choice.index for choice in combined.choices] == [0, 1]
    assert combined.usage and separate[0].usage and separate[1].usage
    assert combined.usage.prompt_tokens == separate[0].usage.prompt_tokens
    assert combined.usage.completion_tokens == separate[0].usage.completion_tokens + separate[1].usage.completion_tokens


def test_several_answers_are_streamed_concurrently(server: Server) -> None:
    texts, finish_reasons = {0: "", 1: ""}, {}
    fields = {"messages": QUESTION, "n": 2, "stream": True, **GREEDY}
    for chunk in server.openai.chat.completions.create(**fields):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        finish_reasons[choice.index] = choice.finish_reason
    assert texts[0] == texts[1] == "The capital of France is Paris."
    assert finish_reasons == {0: "stop", 1: "stop"}


def test_several_prompts_and_token_ids_are_accepted(server: Server) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    # The third token depends on rounding, and rounding on which prompts share a batch.
    fields = {"max_tokens": 2, **GREEDY}
    texts = [choice.text for choice in server.openai.completions.create(prompt=prompts, **fields).choices]
    assert texts[0] != texts[1]
    tokens = [server.post("/internal/encode", {"text": prompt}).json()["tokens"] for prompt in prompts]
    assert [choice.text for choice in server.openai.completions.create(prompt=tokens, **fields).choices] == texts
    refused = server.post("/completions", {"prompt": [10**6], "max_tokens": 1}).json()["error"]
    assert (refused["param"], refused["message"].partition(":")[0]) == ("prompt", "prompt")
    assert server.openai.completions.create(prompt=tokens[0], **fields).choices[0].text == texts[0]


def test_echo_puts_the_prompt_before_the_answer(server: Server) -> None:
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
    first, second = (
        server.openai.chat.completions.create(messages=conversation, **fields) for conversation in (messages, joined)
    )
    assert first.choices == second.choices
    assert first.usage and second.usage and first.usage.prompt_tokens == second.usage.prompt_tokens


def test_an_answer_that_a_client_sends_back_is_accepted(server: Server) -> None:
    answer = server.openai.chat.completions.create(messages=QUESTION, **GREEDY).choices[0].message
    conversation = [*QUESTION, answer.model_dump(), {"role": "user", "content": "And of Italy?"}]
    assert server.post("/chat/completions", {"messages": conversation, "max_tokens": 4}).status_code == 200


def test_an_unfinished_answer_is_continued(server: Server) -> None:
    unfinished = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    response = server.post("/chat/completions", {"messages": unfinished, "continue_": True, "temperature": 0})
    assert complete_answer(response) == (" Paris.", "stop")
    error = server.refusal("/chat/completions", {"messages": QUESTION, "continue_": True})
    assert (error["status"], error["param"]) == (400, "continue_")


# -- log-probabilities -----------------------------------------------------------------------------------------------


def test_chat_completions_return_logprobs(server: Server) -> None:
    fields = {"messages": QUESTION, "logprobs": True, "top_logprobs": 3, **GREEDY}
    (choice,) = server.openai.chat.completions.create(**fields).choices
    assert choice.logprobs is not None and choice.logprobs.content
    for token in choice.logprobs.content:
        logprobs = [candidate.logprob for candidate in token.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
        assert len(logprobs) == 3 and token.logprob == logprobs[0] <= 0
        assert bytes(token.bytes or []).decode() == token.token
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    deltas = [chunk.choices[0] for chunk in server.openai.chat.completions.create(stream=True, **fields)]
    streamed = [token for delta in deltas if delta.logprobs for token in delta.logprobs.content or []]
    assert [token.token for token in streamed] == [token.token for token in choice.logprobs.content]


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
    assert [choice.text[offset] for offset in logprobs.text_offset] == [token[0] for token in logprobs.tokens]
    assert [max(top, key=top.__getitem__) for top in logprobs.top_logprobs] == logprobs.tokens
    deltas = [chunk.choices[0] for chunk in server.openai.completions.create(stream=True, **fields)]
    offsets = [offset for delta in deltas if delta.logprobs for offset in delta.logprobs.text_offset or []]
    assert offsets == logprobs.text_offset


def test_without_top_logprobs_only_the_chosen_token_is_returned(server: Server) -> None:
    response = server.post("/chat/completions", {"messages": QUESTION, "logprobs": True, "max_tokens": 3})
    assert [token["top_logprobs"] for token in response.json()["choices"][0]["logprobs"]["content"]] == [[], [], []]


def test_offsets_are_correct_after_tokens_that_split_a_character() -> None:
    def token(text: str) -> TokenLogprobs:
        return TokenLogprobs(Logprob(text, -1.0, 0))

    offsets = TextOffsets()
    assert offsets.of(Text("é", 2, (token("\ufffd"), token("\ufffd")))) == [0, 1]
    assert offsets.of(Text("tes", 2, (token("te"), token("s")))) == [1, 3]


# -- disconnecting ----------------------------------------------------------------------------------------------------


def becomes_idle(model: LoadedModel, seconds: float = 5.0) -> bool:
    """Return whether the worker stops using the CPU within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = cpu_seconds(model)
        time.sleep(0.5)
        if cpu_seconds(model) - before <= 0.02:
            return True
    return False


def cpu_seconds(model: LoadedModel) -> float:
    fields = Path(f"/proc/{model._worker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_disconnecting_from_a_stream_stops_the_generation(server: Server) -> None:
    model = server.app.models.current
    with server.http.stream("POST", "/completions", json={**STORY, "stream": True}) as response:
        lines = response.iter_lines()
        for _ in range(9):
            next(lines)
    assert becomes_idle(model)


def test_disconnecting_before_a_complete_answer_stops_the_generation(server: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/completions", json=STORY, timeout=1.0)
    assert becomes_idle(server.app.models.current)


def test_disconnecting_while_queued_leaves_the_queue(server: Server) -> None:
    stream = {**STORY, "stream": True}
    with contextlib.ExitStack() as connections:
        responses = [
            connections.enter_context(server.http.stream("POST", "/completions", json=stream)) for _ in range(4)
        ]
        # Kept in a list, because httpx disconnects when an iterator is garbage-collected.
        lines = [response.iter_lines() for response in responses]
        assert all(map(next, lines)), "--parallel serves four requests at once"
        for body in (STORY, stream):
            with pytest.raises(httpx.ReadTimeout):
                server.http.post("/completions", json=body, timeout=0.5)
    assert becomes_idle(server.app.models.current)


def test_disconnecting_while_the_prompt_is_written_ends_its_rendering(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template would be stopped after 5 s, and then be refused."""
    templates = server.app.templates
    templates.close()
    before = set(render_processes(os.getpid()))  # of other tests
    with monkeypatch.context() as patched:
        patched.setattr(templates, "_choose", lambda own: replace(own, source="{{ (10 ** (10 ** 9)) % 7 }}"))
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/chat/completions", json={"messages": QUESTION}, timeout=1)
    for process in set(render_processes(os.getpid())) - before:
        wait_until_ended(process, seconds=3)
    assert server.post("/chat/completions", {"messages": QUESTION, "max_tokens": 1}).status_code == 200


def test_after_a_disconnection_the_next_request_is_answered_at_once(server: Server) -> None:
    with server.http.stream("POST", "/completions", json={**STORY, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
    began = time.monotonic()
    assert server.post("/completions", {"prompt": "Hi", "max_tokens": 1}).status_code == 200
    assert time.monotonic() - began < 4


def test_a_prompt_is_truncated_to_truncation_length(server: Server) -> None:
    words = "one two three four five six seven eight nine ten"
    body = {"prompt": words, "max_tokens": 1, "temperature": 0}
    complete = server.post("/completions", body).json()["usage"]["prompt_tokens"]
    truncated = server.post("/completions", {**body, "truncation_length": 4}).json()["usage"]["prompt_tokens"]
    assert complete >= 10 and truncated == 4
    conversation = [{"role": role, "content": words} for role in ("user", "assistant", "user", "assistant")]
    fields = {"messages": [*conversation, {"role": "user", "content": "Hi"}], "max_tokens": 1}
    long = server.post("/chat/completions", fields).json()["usage"]["prompt_tokens"]
    short = server.post("/chat/completions", {**fields, "truncation_length": 50}).json()["usage"]["prompt_tokens"]
    assert long > 60 and short <= 49


# -- prompts and tokens ------------------------------------------------------------------------------------------------


def test_the_prompt_of_a_chat_is_shown(server: Server) -> None:
    shown = server.post("/internal/chat-prompt", {"messages": QUESTION}).json()["prompt"]
    assert shown.endswith(f"<|im_start|>user\n{QUESTION[0]['content']}<|im_end|>\n<|im_start|>assistant\n")


def test_the_chances_of_the_next_token_are_those_of_the_logprobs(server: Server) -> None:
    shown = server.post("/internal/logits", {"prompt": "The capital of France is", "top_logits": 5}).json()["logits"]
    (choice,) = server.openai.completions.create(
        prompt="The capital of France is", logprobs=5, max_tokens=1, **GREEDY
    ).choices
    assert choice.logprobs is not None and choice.logprobs.top_logprobs
    expected = {token: math.exp(logprob) for token, logprob in choice.logprobs.top_logprobs[0].items()}
    assert shown == pytest.approx(expected, abs=1e-4)
    assert list(shown) == sorted(shown, key=shown.__getitem__, reverse=True)
    greedy = {"prompt": "The capital of France is", "use_samplers": True, "temperature": 0}
    assert server.post("/internal/logits", greedy).json()["logits"] == {next(iter(shown)): 1.0}


def test_all_answers_can_be_stopped(server: Server) -> None:
    chunks = server.openai.completions.create(stream=True, stream_options={"include_usage": True}, model="any", **STORY)
    next(iter(chunks))
    assert server.post("/internal/stop-generation", {}).json() == "OK"
    *_, last, counts = chunks
    assert last.choices[0].finish_reason == "stop" and counts.usage is not None
    complete = server.post("/completions", {**STORY, "max_tokens": 1}).json()["usage"]
    assert counts.usage.prompt_tokens == complete["prompt_tokens"] > 0
