"""The `openai` package against our server: chat completions, Responses, embeddings, models.

    .venv/bin/python benchmarks/clients/openai_client.py --bodies

A model of 135M parameters shows that everything arrives in the form that the client expects, and that schemas and
required calls are enforced. Whether a model calls the right tool by itself, it cannot show.
"""

from __future__ import annotations

import json
from typing import Any

import openai
from openai import OpenAI
from pydantic import BaseModel
from report import Run, client_run, expect

QUESTION = "Name the capital of France in one English sentence."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "description": "Return the weather of a city.", "parameters": CITY, "strict": True}
CHAT_TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]
TOOLS: list[Any] = [{"type": "function", **FUNCTION}]
CUSTOM: list[Any] = [{"type": "custom", "name": "write_note", "description": "Keep a note."}]
PASSAGES = ["A fox is an animal.", "Paris is a city."]


class City(BaseModel):
    """A schema as users of the client write it."""

    name: str
    population: int


def check_models(client: OpenAI, run: Run) -> None:
    def models() -> str:
        names = [model.id for model in client.models.list()]
        expect(run.model in names, names)
        return str(client.models.retrieve(run.model).id)

    def missing() -> str:
        try:
            client.models.retrieve("no-such-model")
        except openai.NotFoundError as error:
            return str(error.code)
        raise AssertionError("a model that does not exist was found")

    run.check("models", models)
    run.check("a missing model is not found", missing)


def check_chat(client: OpenAI, run: Run) -> None:
    chat: Any = client.chat.completions

    def create() -> str:
        answer = chat.create(model=run.model, messages=MESSAGES, temperature=0)
        expect(answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens, answer)
        return str(answer.choices[0].message.content)

    def stream() -> str:
        options = {"include_usage": True}
        chunks = list(
            chat.create(model=run.model, messages=MESSAGES, temperature=0, stream=True, stream_options=options)
        )
        expect(chunks[-1].usage.total_tokens and not chunks[-1].choices, chunks[-1])
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])

    def parse() -> str:
        answer = chat.parse(model=run.model, messages=MESSAGES, response_format=City, temperature=0, max_tokens=200)
        expect(isinstance(answer.choices[0].message.parsed, City), answer)
        return repr(answer.choices[0].message.parsed)

    def json_object() -> str:
        kind = {"type": "json_object"}
        answer = chat.create(model=run.model, messages=MESSAGES, response_format=kind, temperature=0, max_tokens=200)
        text = answer.choices[0].message.content
        if answer.choices[0].finish_reason == "stop":
            expect(isinstance(json.loads(text), dict), text)
        return f"{answer.choices[0].finish_reason}: {text}"

    def logprobs() -> str:
        answer = chat.create(model=run.model, messages=MESSAGES, logprobs=True, top_logprobs=2, max_tokens=3)
        tokens = answer.choices[0].logprobs.content
        expect(len(tokens) == 3 and all(len(token.top_logprobs) >= 2 for token in tokens), tokens)
        return " ".join(token.token for token in tokens)

    def refusal() -> str:
        try:
            chat.create(model=run.model, messages=MESSAGES, temperature=9)
        except openai.BadRequestError as error:
            expect(error.param == "temperature", error)
            return str(error)
        raise AssertionError("a temperature of 9 was accepted")

    run.check("chat.completions.create", create)
    run.check("chat.completions.create, streamed", stream)
    run.check("chat.completions.parse", parse)
    run.check("chat.completions.create, JSON object", json_object)
    run.check("chat.completions.create, logprobs", logprobs)
    run.check("an invalid parameter is refused by name", refusal)


def check_chat_tools(client: OpenAI, run: Run) -> None:
    chat: Any = client.chat.completions
    fields = {"model": run.model, "messages": MESSAGES, "tools": CHAT_TOOLS, "temperature": 0, "max_tokens": 120}

    def required() -> str:
        choice = chat.create(**fields, tool_choice="required", parallel_tool_calls=False).choices[0]
        (call,) = choice.message.tool_calls
        expect(choice.finish_reason == "tool_calls" and call.function.name == "get_weather", choice)
        _expect_city(call.function.arguments)
        return str(call.function.arguments)

    def streamed() -> str:
        named = {"type": "function", "function": {"name": "get_weather"}}
        with chat.stream(**fields, tool_choice=named, parallel_tool_calls=False) as events:
            deltas = [event.arguments_delta for event in events if event.type.endswith("arguments.delta")]
            call = events.get_final_completion().choices[0].message.tool_calls[0]
        expect("".join(deltas) == call.function.arguments and len(deltas) > 1, deltas)
        _expect_city(call.function.arguments)
        return f"{len(deltas)} fragments: {call.function.arguments}"

    def automatic() -> str:
        choice = chat.create(**fields).choices[0]
        return f"{choice.finish_reason}: {choice.message.content or choice.message.tool_calls}"

    def result() -> str:
        call = chat.create(**fields, tool_choice="required", parallel_tool_calls=False).choices[0].message
        weather = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "18 degrees, cloudy"}
        answer = chat.create(**{**fields, "messages": [*MESSAGES, call.to_dict(), weather], "tool_choice": "none"})
        expect(answer.choices[0].message.content, answer)
        return str(answer.choices[0].message.content)

    run.check("tools, required", required)
    run.check("chat.completions.stream, a named tool", streamed)
    run.check("tools, automatic (any answer)", automatic)
    run.check("tools, a result sent back", result)


def check_responses(client: OpenAI, run: Run) -> None:
    responses: Any = client.responses
    fields = {"model": run.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 120}

    def create() -> str:
        answer = responses.create(**fields, instructions="Answer in English.")
        expect(answer.status == "completed" and answer.usage.output_tokens, answer)
        return str(answer.output_text)

    def conversation() -> str:
        first = responses.create(**fields)
        items = [{"role": "user", "content": QUESTION}, *(item.to_dict() for item in first.output)]
        answer = responses.create(**{**fields, "input": [*items, {"role": "user", "content": "And of Spain?"}]})
        expect(answer.output_text, answer)
        return str(answer.output_text)

    def stream() -> str:
        with responses.stream(**fields) as events:
            deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
            final = events.get_final_response()
        expect("".join(deltas) == final.output_text and len(deltas) > 1, deltas)
        return f"{len(deltas)} deltas: {final.output_text}"

    def parse() -> str:
        answer = responses.parse(**fields, text_format=City)
        expect(isinstance(answer.output_parsed, City), answer)
        return repr(answer.output_parsed)

    def tokens() -> str:
        count = responses.input_tokens.count(model=run.model, input=QUESTION).input_tokens
        usage = responses.create(**fields).usage
        expect(count == usage.input_tokens, (count, usage))
        return f"{count} tokens"

    run.check("responses.create", create)
    run.check("responses.create, a conversation", conversation)
    run.check("responses.stream", stream)
    run.check("responses.parse", parse)
    run.check("responses.input_tokens.count", tokens)


def check_response_tools(client: OpenAI, run: Run) -> None:
    responses: Any = client.responses
    fields = {"model": run.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 120}

    def function() -> str:
        answer = responses.create(**fields, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
        (call,) = [item for item in answer.output if item.type == "function_call"]
        _expect_city(call.arguments)
        return f"{call.call_id}: {call.arguments}"

    def streamed() -> str:
        named = {"type": "function", "name": "get_weather"}
        with responses.stream(**fields, tools=TOOLS, tool_choice=named, parallel_tool_calls=False) as events:
            deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
            (call,) = [item for item in events.get_final_response().output if item.type == "function_call"]
        expect("".join(deltas) == call.arguments, deltas)
        return f"{len(deltas)} fragments: {call.arguments}"

    def custom() -> str:
        limit = {**fields, "max_output_tokens": 400}
        answer = responses.create(**limit, tools=CUSTOM, tool_choice={"type": "custom", "name": "write_note"})
        calls = [item for item in answer.output if item.type == "custom_tool_call"]
        expect(calls and calls[0].name == "write_note", answer)
        return f"{answer.status}: {calls[0].input}"

    def foreign() -> str:
        answer = responses.create(**fields, tools=[{"type": "web_search"}])
        expect(answer.to_dict().get("ignored") == ["tools[0]"], answer)
        return str(answer.to_dict()["ignored"])

    run.check("responses.create, a required function", function)
    run.check("responses.stream, a named function", streamed)
    run.check("responses.create, a custom tool", custom)
    run.check("a tool of OpenAI's servers is reported", foreign)


def check_embeddings(client: OpenAI, run: Run) -> None:
    def embeddings() -> str:
        try:
            found = client.embeddings.create(model=run.model, input=PASSAGES).data
        except openai.BadRequestError as error:  # of a chat model, whose vectors would mislead
            return f"refused: {error}"
        expect(len(found) == 2 and len(found[0].embedding) == len(found[1].embedding) > 1, found)
        return f"2 vectors of {len(found[0].embedding)} numbers"

    run.check("embeddings.create (vectors, or a refusal)", embeddings)


def _expect_city(arguments: str) -> None:
    city = json.loads(arguments)
    expect(set(city) == {"city", "unit"} and city["unit"] in ("celsius", "fahrenheit"), arguments)


def main() -> None:
    with client_run(__doc__, ["openai"]) as run:
        client = OpenAI(base_url=f"{run.url}/v1", api_key="any", max_retries=0)
        for check in (
            check_models,
            check_chat,
            check_chat_tools,
            check_responses,
            check_response_tools,
            check_embeddings,
        ):
            check(client, run)


if __name__ == "__main__":
    main()
