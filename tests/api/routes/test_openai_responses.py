"""OpenAI's Responses as its clients use them: the `openai` package, and bodies recorded from Codex."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from modules.app import App
from modules.config import flags
from tests.support import codex_bodies
from tests.support.say import say, say_plan
from tests.support.serving import Server, server_of

THINKS = say("<think>\nParis?\n</think>\n\nIt is Paris.")
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an engine that answers what it is told to, in the format of a model that thinks."""
    app = App(flags.parse(["--api", "--model-dir", str(tmp_path_factory.mktemp("models"))]))
    try:
        app.models.load(say_plan("qwen-3"))
        with server_of(app) as running:
            yield running
    finally:
        app.models.unload()


def create(server: Server, text: str, **fields: Any) -> Response:
    return server.openai.responses.create(model="any", input=text, **fields)


def stream(server: Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a streamed response, checked against the types of OpenAI's client."""
    response = server.post("/responses", {**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    return read_events(response.text)


def read_events(text: str) -> list[dict[str, Any]]:
    events = []
    for frame in text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        EVENTS.validate_python(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_has_its_thought_and_its_text_as_items(server: Server) -> None:
    answer = create(server, THINKS)
    thought, message = answer.output
    assert thought.type == "reasoning" and thought.summary[0].text == "Paris?"
    assert message.type == "message" and answer.output_text == "It is Paris."
    assert (answer.object, answer.status, answer.model) == ("response", "completed", "qwen-3")
    usage = answer.usage
    assert usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens


def test_a_stream_has_the_events_of_openais_and_ends_with_the_whole_response(server: Server) -> None:
    events = stream(server, {"input": THINKS, "instructions": "Be brief.", "metadata": {"a": "b"}})
    names = kinds(events)
    assert names[:4] == ["created", "in_progress", "output_item.added", "reasoning_summary_part.added"]
    assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert "".join(event["delta"] for event in events if event["type"].endswith("output_text.delta")) == "It is Paris."
    response = events[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert (response["instructions"], response["metadata"], response["store"]) == ("Be brief.", {"a": "b"}, False)
    first = events[0]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert {event["response"]["id"] for event in events if "response" in event} == {response["id"]}
    whole = create(server, THINKS, instructions="Be brief.", metadata={"a": "b"})
    assert whole.output_text == response["output"][1]["content"][0]["text"]


def test_openais_client_assembles_a_stream(server: Server) -> None:
    with server.openai.responses.stream(model="any", input=THINKS) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert "".join(deltas) == final.output_text == "It is Paris."


class City(BaseModel):
    name: str


def test_openais_client_parses_an_answer_by_a_schema(server: Server) -> None:
    answer = server.openai.responses.parse(model="any", input=say('{"name": "Paris"}'), text_format=City)
    assert answer.output_parsed == City(name="Paris")
    assert answer.text is not None and answer.text.format is not None and answer.text.format.type == "json_schema"


def test_a_conversation_is_sent_as_items(server: Server) -> None:
    first = create(server, THINKS)
    items = [
        {"role": "user", "content": THINKS},
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": say("Yes.")}]},
    ]
    assert create(server, items).output_text == "Yes."  # type: ignore[arg-type]


def test_an_answer_that_reaches_its_limit_is_incomplete(server: Server) -> None:
    events = stream(server, {"input": say("abcdef"), "max_output_tokens": 3})
    response = events[-1]["response"]
    assert kinds(events)[-1] == response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (response["output"][0]["status"], response["output"][0]["content"][0]["text"]) == ("incomplete", "abc")


def test_what_the_answer_does_without_is_listed_in_the_header_and_the_response(server: Server) -> None:
    fields = {
        "input": [{"role": "user", "content": say("Hi")}, {"type": "web_search_call", "id": "ws_1"}],
        "tools": [{"type": "web_search"}, {"type": "local_shell"}],
        "prompt_cache_options": {},
    }
    ignored = ["prompt_cache_options", "tools[0]", "tools[1]", "input[1]"]
    answer = server.post("/responses", fields)
    assert answer.json()["ignored"] == ignored
    assert answer.headers["x-ignored-parameters"] == ", ".join(ignored)
    assert stream(server, fields)[-1]["response"]["ignored"] == ignored


def test_input_tokens_are_counted_as_the_answer_counts_them(server: Server) -> None:
    counted = server.openai.responses.input_tokens.count(model="any", input="Hello", instructions="Be brief.")
    usage = create(server, "Hello", instructions="Be brief.").usage
    assert usage is not None and counted.input_tokens == usage.input_tokens
    assert counted.object == "response.input_tokens"


def test_an_error_of_a_count_names_the_fields_of_the_response(server: Server) -> None:
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    error = server.refusal("/responses/input_tokens", {"input": [{"role": "user", "content": [image]}]})
    assert error["status"] == 400
    assert "input[0].content[0]" in error["message"] and "messages" not in error["message"]


# -- tools -------------------------------------------------------------------------------------------------------------

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Return the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
PATCH = "*** Begin Patch\n*** Add File: a.txt\n+“a” \\ b\n*** End Patch"


def calls(*called: tuple[str, dict[str, Any]]) -> str:
    """Return the text of calls as the model writes them."""
    texts = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in called)
    return "".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


def test_calls_are_items_and_their_results_are_sent_back(server: Server) -> None:
    question = say("<think>\nhm\n</think>\n\n" + calls(("weather", {"city": "Rom"}), ("weather", {"city": "Oslo"})))
    answer = create(server, question, tools=[WEATHER])
    thought, first, second = answer.output
    assert thought.type == "reasoning" and first.type == second.type == "function_call"
    assert [json.loads(call.arguments) for call in (first, second)] == [{"city": "Rom"}, {"city": "Oslo"}]
    assert (first.name, first.status, answer.status) == ("weather", "completed", "completed")
    items = [
        {"role": "user", "content": question},
        *(item.model_dump(exclude_none=True) for item in answer.output),
        *(
            {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
            for call in (first, second)
        ),
        {"role": "user", "content": say("Warm.")},
    ]
    assert create(server, items, tools=[WEATHER]).output_text == "Warm."  # type: ignore[arg-type]


def test_arguments_are_streamed_while_they_are_written(server: Server) -> None:
    with server.openai.responses.stream(
        model="any",
        input=say("I look." + calls(("weather", {"city": "Rom"}))),
        tools=[WEATHER],  # type: ignore[list-item]
    ) as events:
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        message, call = events.get_final_response().output
    assert message.type == "message" and call.type == "function_call"
    assert len(deltas) > 3 and "".join(deltas) == call.arguments
    assert json.loads(call.arguments) == {"city": "Rom"}


def test_codexs_patch_comes_without_json(server: Server) -> None:
    events = stream(server, codex_bodies.first_turn(say(calls(("apply_patch", {"input": PATCH})))))
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas) == PATCH and len(deltas) > 3
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", PATCH)
    assert events[-1]["response"]["ignored"][-2:] == ["tools[3]", "tools[4]"]


def test_codexs_later_turns_are_answered(server: Server) -> None:
    events = stream(server, codex_bodies.later_turn(say(calls(("mcp__docs__search", {"query": "x"})))))
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "mcp__docs__", "search")


def test_a_call_that_cannot_be_read_stays_text_and_is_reported(server: Server) -> None:
    answer = server.post("/responses", {"input": say("<tool_call>\nno JSON\n</tool_call>"), "tools": [WEATHER]}).json()
    assert answer["output"][0]["content"][0]["text"].startswith("<tool_call>")
    assert answer["ignored"]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_refusal_has_openais_form_and_names_the_field(server: Server, subtests: pytest.Subtests) -> None:
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "temperature": 9}, "temperature"),
        ({"input": "x", "max_output_token": 9}, "max_output_token"),
        ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, None),
        ({"instructions": "x"}, "input"),
    ]
    for body, param in cases:
        for is_streamed in (False, True):
            with subtests.test(body=str(body), stream=is_streamed):
                error = server.refusal("/responses", {**body, "stream": is_streamed})
                assert (error["status"], error["param"]) == (400, param)


def test_a_prompt_beyond_the_context_is_refused(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(server, "x" * 200_000)
    assert caught.value.code == "context_length_exceeded"


def test_a_stored_response_does_not_exist(server: Server) -> None:
    with pytest.raises(openai.NotFoundError):
        server.openai.responses.retrieve("resp_1")


def test_an_error_in_a_stream_is_an_event_and_a_failed_response(make_app: Callable[..., App]) -> None:
    app = make_app("--api")
    app.models.load(say_plan())
    received = ""
    with server_of(app) as server:
        body = {"input": say("\aBegun\a\a\a\a end"), "stream": True}
        with server.http.stream("POST", "/responses", json=body) as response:
            for text in response.iter_text():
                if "output_text.delta" in text and "output_text.delta" not in received:
                    app.models.unload()
                received += text
    events = read_events(received)
    assert kinds(events)[-2:] == ["error", "failed"]
    failed = events[-1]["response"]
    assert (failed["status"], events[-2]["code"]) == ("failed", "unloaded")
    assert failed["error"]["message"] == events[-2]["message"]
    assert failed["output"][0]["content"][0]["text"].startswith("B")
