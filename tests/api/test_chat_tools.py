"""Tools over OpenAI's chat completions, by an engine that answers what the question tells it to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from modules.app import App
from modules.config import flags
from tests.support.say import say, say_plan
from tests.support.serving import Server, server_of

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Look outside",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
ROME = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "settings.yaml").touch()
    app = App(flags.parse(["--api", "--model-dir", str(folder), "--settings", str(folder / "settings.yaml")]))
    try:
        app.models.load(say_plan("qwen-3"))
        with server_of(app) as running:
            yield running
    finally:
        app.models.close()


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": say(text)}], "tools": [WEATHER, NOW], "model": "", **fields}


def names_of(choice: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]


def prompt_of(server: Server, **fields: Any) -> str:
    return str(server.post("/internal/chat-prompt", fields).json()["prompt"])


def test_calls_are_answered_whole_and_streamed_alike(server: Server) -> None:
    body = ask(f"<think>\nHm\n</think>\n\nLet me look.\n{ROME}\n{TIME}")
    (choice,) = server.openai.chat.completions.create(**body).choices
    assert names_of(choice) == [("weather", '{"place": "Rome"}'), ("now", "{}")]
    assert (choice.message.content, choice.finish_reason) == ("Let me look.", "tool_calls")
    assert (choice.message.model_extra or {})["reasoning_content"] == "Hm"
    calls: dict[int, list[str]] = {}
    content, reasons = "", []
    for chunk in server.openai.chat.completions.create(stream=True, **body):
        (part,) = chunk.choices
        content += part.delta.content or ""
        reasons.append(part.finish_reason)
        for call in part.delta.tool_calls or ():
            assert call.function is not None and call.function.arguments is not None
            if call.id:
                assert (call.function.arguments, call.type) == ("", "function")
                calls[call.index] = [call.function.name or "", ""]
            else:
                calls[call.index][1] += call.function.arguments
    assert list(calls.values()) == [["weather", '{"place": "Rome"}'], ["now", "{}"]]
    assert (content, reasons[-1]) == ("Let me look.", "tool_calls")


def test_arguments_are_streamed_while_they_are_written(server: Server) -> None:
    chunks = server.openai.chat.completions.create(stream=True, **ask(ROME))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert len(calls) > 5


class Weather(pydantic.BaseModel):
    place: str


def test_the_openai_package_parses_whole_and_streamed_calls(server: Server) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    fields: dict[str, Any] = {**ask(f"Well. {ROME}"), "tools": [tool]}
    (call,) = server.openai.chat.completions.parse(**fields).choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == Weather(place="Rome")
    with server.openai.chat.completions.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    (call,) = final.message.tool_calls or ()
    assert (call.function.parsed_arguments, final.finish_reason) == (Weather(place="Rome"), "tool_calls")
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert final.message.content == "Well."


def test_without_a_choice_of_tools_none_is_shown(server: Server) -> None:
    question = {"messages": [{"role": "user", "content": "Hi"}], "tools": [WEATHER, NOW]}
    assert '"name": "weather"' in prompt_of(server, **question)
    assert "weather" not in prompt_of(server, **question, tool_choice="none")
    only_now = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW]}}
    shown = prompt_of(server, **question, tool_choice=only_now)
    assert "weather" not in shown and '"name": "now"' in shown
    (choice,) = server.openai.chat.completions.create(**ask(ROME, tool_choice="none")).choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (ROME, None, "stop")


def test_calls_and_results_are_sent_back_to_the_model(server: Server) -> None:
    (choice,) = server.openai.chat.completions.create(**ask(ROME)).choices
    answer = choice.message.model_dump()
    result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": [{"type": "text", "text": "5"}]}
    history = [{"role": "user", "content": "Is it warm?"}, answer, result]
    prompt = prompt_of(server, messages=history, tools=[WEATHER])
    assert ROME in prompt and "<tool_response>\n5\n</tool_response>" in prompt
    assert ROME in prompt_of(server, messages=history), "without tools the history is the same"


def test_several_answers_have_calls_of_their_own(server: Server) -> None:
    choices = server.openai.chat.completions.create(n=2, **ask(ROME)).choices
    assert [names_of(choice) for choice in choices] == [[("weather", '{"place": "Rome"}')]] * 2
    ids = {call.id for choice in choices for call in choice.message.tool_calls or ()}
    assert len(ids) == 2


def test_one_call_is_kept_if_they_may_not_be_parallel(server: Server) -> None:
    (choice,) = server.openai.chat.completions.create(parallel_tool_calls=False, **ask(f"{ROME}\n{TIME}")).choices
    assert names_of(choice) == [("weather", '{"place": "Rome"}')]


def test_a_call_that_cannot_be_read_stays_text_and_is_reported(server: Server) -> None:
    broken = '<tool_call>\n{"nam'
    answer = server.openai.chat.completions.create(**ask(broken))
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (broken, None, "stop")
    assert (answer.model_extra or {})["ignored"] == ["tool_calls[0]"]


def test_a_client_may_ask_for_the_thought_within_the_text_beside_calls(server: Server) -> None:
    body = ask(f"<think>\nHm\n</think>\n\n{ROME}", extra_body={"reasoning_format": "none"})
    (choice,) = server.openai.chat.completions.create(**body).choices
    assert names_of(choice) == [("weather", '{"place": "Rome"}')]
    assert (choice.message.content or "").startswith("<think>\nHm\n</think>")


def test_an_invalid_tool_is_refused_by_name(server: Server) -> None:
    error = server.refusal("/chat/completions", ask("Hi", tools=[{"type": "function", "function": {"name": ""}}]))
    assert (error["status"], error["param"]) == (400, "tools[0].function")
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        server.openai.chat.completions.create(**ask("Hi", tools=[], tool_choice="required"))


def test_a_grammar_of_the_client_leaves_no_room_for_enforced_calls(server: Server) -> None:
    grammar = {"grammar_string": 'root ::= "yes"'}
    error = server.refusal("/chat/completions", ask("Hi", tool_choice="required", **grammar))
    assert (error["status"], error["param"]) == (400, "tools")
    assert server.post("/chat/completions", ask("Hi", **grammar)).status_code == 200


def test_a_template_without_tools_gets_them_in_the_system_message(make_app: Callable[..., App]) -> None:
    app = make_app("--api")
    app.models.load(say_plan("gemma-2"))
    with server_of(app) as server:
        assert json.dumps(WEATHER["function"]["name"]) in prompt_of(server, **ask("Hi"))  # type: ignore[index]
        (choice,) = server.openai.chat.completions.create(**ask(ROME)).choices
        assert names_of(choice) == [("weather", '{"place": "Rome"}')]


def test_no_tool_is_an_internal_error(server: Server, subtests: pytest.Subtests) -> None:
    odd: list[Any] = [None, True, -1, 1.5, "", "x", "\ud800", [], [1], {}, {"a": 1}, {"\ud800": []}]
    for value in odd:
        for tool in (
            value,
            {"type": value},
            {"type": "function", "function": value},
            {"type": "function", "function": {"name": value}},
            {"type": "function", "function": {"name": "f", "description": value}},
            {"type": "function", "function": {"name": "f", "parameters": value}},
            {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": value}}}},
            {"type": "function", "function": {"name": "f", "parameters": {"required": value, "type": value}}},
            {"type": "function", "function": {"name": "f", "strict": value, "more": value}},
        ):
            with subtests.test(tool=ascii(tool)):
                assert server.post("/chat/completions", ask("Hi", tools=[tool])).status_code in (200, 400)
        message = {"role": "assistant", "tool_calls": value, "tool_call_id": value, "function_call": value}
        with subtests.test(message=ascii(message)):
            body = ask("Hi", tool_choice="auto", messages=[{"role": "user", "content": "Hi"}, message])
            assert server.post("/chat/completions", body).status_code in (200, 400)
