"""The `anthropic` package against our server: messages, streams, tools, token counts, models.

    python3 -m venv /tmp/venv-anthropic && /tmp/venv-anthropic/bin/pip install anthropic
    /tmp/venv-anthropic/bin/python benchmarks/clients/anthropic_client.py --bodies

A model of 135M parameters shows that everything arrives in the form that the client expects, and that required calls
are enforced. Whether a model calls the right tool by itself, or thinks, it cannot show.
"""

from __future__ import annotations

from typing import Any

import anthropic
from anthropic import Anthropic
from report import Run, client_run, expect

QUESTION = "Name the capital of France in one English sentence."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
GREEDY: dict[str, Any] = {"temperature": 0}  # not an argument of the package since version 2
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"name": "get_weather", "description": "Return the weather of a city.", "input_schema": CITY}]
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}


def check_models(client: Anthropic, run: Run) -> None:
    def models() -> str:
        found = {model.id: model for model in client.models.list(limit=1)}
        expect(run.model in found, found)
        return f"{len(found)} models; {client.models.retrieve(run.model).created_at:%Y-%m-%d}"

    def missing() -> str:
        try:
            client.models.retrieve("no-such-model")
        except anthropic.NotFoundError as error:
            return str(error.body)
        raise AssertionError("a model that does not exist was found")

    run.check("models.list, in pages, and models.retrieve", models)
    run.check("a missing model is not found", missing)


def check_messages(client: Anthropic, run: Run) -> None:
    fields: dict[str, Any] = {"model": run.model, "messages": MESSAGES, "max_tokens": 60, "extra_body": GREEDY}

    def create() -> str:
        answer = client.messages.create(**fields, system="Answer in English.")
        expect(answer.stop_reason == "end_turn" and answer.usage.output_tokens, answer)
        return _text(answer)

    def stream() -> str:
        with client.messages.stream(**fields) as events:
            text = "".join(events.text_stream)
            final = events.get_final_message()
        expect(text == _text(final) and final.stop_reason == "end_turn" and final.usage.input_tokens, final)
        return text

    def conversation() -> str:
        first = client.messages.create(**fields)
        messages = [*MESSAGES, first.to_param(), {"role": "user", "content": "And of Spain?"}]
        return _text(client.messages.create(**{**fields, "messages": messages}))

    def prefill() -> str:
        begun = {"role": "assistant", "content": "The capital of France is"}
        answer = _text(client.messages.create(**{**fields, "messages": [*MESSAGES, begun]}))
        expect("Paris" in answer and "capital" not in answer, answer)
        return answer

    def stop() -> str:
        answer = client.messages.create(**fields, stop_sequences=["Paris"])
        expect((answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris"), answer)
        return _text(answer)

    def length() -> str:
        answer = client.messages.create(**{**fields, "max_tokens": 2})
        expect(answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 2, answer)
        return _text(answer)

    def count() -> str:
        count = client.messages.count_tokens(model=run.model, messages=MESSAGES).input_tokens
        usage = client.messages.create(**fields).usage
        total = usage.input_tokens + (usage.cache_read_input_tokens or 0)
        expect(count == total, (count, usage))
        return f"{count} tokens, {usage.cache_read_input_tokens} of them from the cache"

    def schema() -> str:
        config: Any = {"format": {"type": "json_schema", "schema": CITY}}
        answer = _text(client.messages.create(**{**fields, "max_tokens": 200}, output_config=config))
        expect('"city"' in answer and '"unit"' in answer, answer)
        return answer

    def thinking() -> str:
        answer = client.messages.create(**fields, thinking={"type": "adaptive"})
        return f"reported: {(answer.model_extra or {}).get('ignored')}"

    def beta() -> str:
        edits: Any = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
        answer = client.beta.messages.create(
            **fields, betas=["context-management-2025-06-27"], context_management=edits
        )
        expect(not (answer.model_extra or {}).get("ignored"), answer)
        return _text(answer)

    run.check("messages.create", create)
    run.check("messages.stream", stream)
    run.check("messages.create, a conversation", conversation)
    run.check("messages.create, an answer that was begun", prefill)
    run.check("a stop sequence ends the answer", stop)
    run.check("max_tokens ends the answer", length)
    run.check("messages.count_tokens", count)
    run.check("messages.create, JSON schema", schema)
    run.check("thinking is accepted", thinking)
    run.check("beta.messages.create", beta)


def check_tools(client: Anthropic, run: Run) -> None:
    one: Any = {"disable_parallel_tool_use": True}
    fields: dict[str, Any] = {
        "model": run.model,
        "messages": MESSAGES,
        "max_tokens": 120,
        "tools": TOOLS,
        "extra_body": GREEDY,
    }

    def required() -> str:
        answer = client.messages.create(**fields, tool_choice={"type": "any", **one})
        (call,) = _calls(answer)
        expect(answer.stop_reason == "tool_use" and call.name == "get_weather", answer)
        _expect_city(call.input)
        return f"{call.id}: {call.input}"

    def streamed() -> str:
        choice: Any = {"type": "tool", "name": "get_weather", **one}
        with client.messages.stream(**fields, tool_choice=choice) as events:
            deltas = [event.partial_json for event in events if event.type == "input_json"]
            (call,) = _calls(events.get_final_message())
        _expect_city(call.input)
        expect(len(deltas) > 1, deltas)
        return f"{len(deltas)} fragments: {call.input}"

    def automatic() -> str:
        answer = client.messages.create(**fields)
        return f"{answer.stop_reason}: {_text(answer) or _calls(answer)}"

    def result() -> str:
        called = client.messages.create(**fields, tool_choice={"type": "any", **one})
        sent: Any = {"type": "tool_result", "tool_use_id": _calls(called)[0].id, "content": "18 degrees, cloudy"}
        messages = [*MESSAGES, called.to_param(), {"role": "user", "content": [sent]}]
        answer = client.messages.create(**{**fields, "messages": messages}, tool_choice={"type": "none"})
        expect(_text(answer), answer)
        return _text(answer)

    def foreign() -> str:
        answer = client.messages.create(**{**fields, "tools": [*TOOLS, SEARCH]})
        expect((answer.model_extra or {}).get("ignored") == ["tools[1]"], answer)
        return "reported: tools[1]"

    run.check("tools, any", required)
    run.check("messages.stream, a named tool", streamed)
    run.check("tools, automatic (any answer)", automatic)
    run.check("tools, a result sent back", result)
    run.check("a tool of Anthropic's servers is reported", foreign)


def check_errors(client: Anthropic, run: Run) -> None:
    def invalid() -> str:
        try:
            client.messages.create(model=run.model, messages=MESSAGES, max_tokens=5, extra_body={"temperature": 9})
        except anthropic.BadRequestError as error:
            expect("temperature" in str(error.body), error.body)
            return str(error.body)
        raise AssertionError("a temperature of 9 was accepted")

    def too_long() -> str:
        messages: list[Any] = [{"role": "user", "content": "word " * 100_000}]
        try:
            with client.messages.stream(model=run.model, messages=messages, max_tokens=5) as events:
                events.get_final_message()
        except anthropic.APIStatusError as error:
            return str(error.body)
        raise AssertionError("a prompt of 100,000 words was accepted")

    def picture() -> str:
        source: Any = {"type": "url", "url": "https://example.com/cat.png"}
        messages: list[Any] = [{"role": "user", "content": [{"type": "image", "source": source}]}]
        try:
            client.messages.create(model=run.model, messages=messages, max_tokens=5)
        except anthropic.BadRequestError as error:
            return str(error.body)
        raise AssertionError("an address was fetched")

    run.check("an invalid parameter is refused by name", invalid)
    run.check("a prompt that is too long is refused", too_long)
    run.check("a picture elsewhere is not fetched", picture)


def _text(answer: Any) -> str:
    return "".join(block.text for block in answer.content if block.type == "text")


def _calls(answer: Any) -> list[Any]:
    return [block for block in answer.content if block.type == "tool_use"]


def _expect_city(arguments: Any) -> None:
    expect(set(arguments) == {"city", "unit"} and arguments["unit"] in ("celsius", "fahrenheit"), arguments)


def main() -> None:
    with client_run(__doc__, ["anthropic"]) as run:
        client = Anthropic(base_url=run.url, api_key="any", max_retries=0)
        for check in (check_models, check_messages, check_tools, check_errors):
            check(client, run)


if __name__ == "__main__":
    main()
