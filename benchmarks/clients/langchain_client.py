"""LangChain's ChatOpenAI and OpenAIEmbeddings against our server: answers, streams, tools, schemas, vectors.

    .venv/bin/python benchmarks/clients/langchain_client.py --bodies

The first run makes an environment of its own. A tiny embedding model with random weights lies beside the chat model.
"""

from __future__ import annotations

import math
import sys
from typing import Any

from environments import EMBEDDING_MODEL, add_models_folder, run_in_environment
from report import Run, client_run, expect

if __name__ == "__main__":
    run_in_environment("langchain", "langchain-openai==1.7.4")

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

QUESTION = "Name the capital of France in one English sentence."
TEXTS = ["The cat sat on the mat.", "Paris is in France."]
CL100K_TOKENS = [791, 8415, 7731, 389, 279, 5634, 13]
"""The first text in the tokens of OpenAI's embedding models."""


class City(BaseModel):
    """A city and its country."""

    city: str = Field(max_length=20)
    country: str = Field(max_length=20)


@tool  # type: ignore[untyped-decorator]
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}."


def check_chat(chat: ChatOpenAI, run: Run) -> None:
    def invoke() -> str:
        answer = chat.invoke(QUESTION)
        expect(answer.content and answer.usage_metadata, answer)
        return str(answer.content)

    def stream() -> str:
        pieces = list(chat.stream(QUESTION, stream_usage=True))  # not by itself with servers other than OpenAI's
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        expect(len(pieces) > 2 and whole.content and whole.usage_metadata, whole)
        return f"{len(pieces)} pieces: {whole.content}"

    def tools() -> str:
        answer: Any = chat.bind_tools([get_weather], tool_choice="get_weather").invoke("How is the weather in Rome?")
        expect(answer.tool_calls, answer)
        expect(all(call["name"] == "get_weather" and call["args"]["city"] for call in answer.tool_calls), answer)
        return str([call["args"] for call in answer.tool_calls])

    def streamed_tools() -> str:
        bound = chat.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
        whole: Any = None
        for piece in bound.stream("How is the weather in Rome?"):
            whole = piece if whole is None else whole + piece
        (call,) = whole.tool_calls
        expect(call["name"] == "get_weather" and call["args"], whole)
        return str(call["args"])

    def result() -> str:
        call = {"name": "get_weather", "args": {"city": "Rome"}, "id": "call_1", "type": "tool_call"}
        messages = [
            HumanMessage("How is the weather in Rome?"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("Sunny in Rome.", tool_call_id="call_1"),
        ]
        answer = chat.bind_tools([get_weather], tool_choice="none").invoke(messages)
        expect(answer.content, answer)
        return str(answer.content)

    run.check("invoke", invoke)
    run.check("stream", stream)
    run.check("bind_tools, a named tool", tools)
    run.check("bind_tools, streamed", streamed_tools)
    run.check("a tool's result sent back", result)


def check_schemas(chat: ChatOpenAI, run: Run) -> None:
    for method in ("json_schema", "function_calling", "json_mode"):

        def structured(method: str = method) -> str:
            asked = chat.with_structured_output(City, method=method, include_raw=True)  # type: ignore[arg-type]
            answer: Any = asked.invoke(f"{QUESTION} Answer as JSON with the keys city and country.")
            if method == "json_mode":  # any JSON object; whether it fits the schema is up to the model
                expect(answer["raw"].content.lstrip().startswith("{"), answer)
                return str(answer["raw"].content)
            expect(isinstance(answer["parsed"], City), answer)
            return repr(answer["parsed"])

        run.check(f"with_structured_output, {method}", structured)


def check_embeddings(url: str, run: Run) -> None:
    settings: dict[str, Any] = {"model": EMBEDDING_MODEL, "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}

    def vectors() -> str:
        found = OpenAIEmbeddings(**settings, check_embedding_ctx_length=False).embed_documents(TEXTS)
        expect(len(found) == len(TEXTS) and math.isclose(math.hypot(*found[0]), 1, rel_tol=1e-3), found)
        return f"{len(found)} vectors of {len(found[0])} numbers"

    def foreign_tokens() -> str:
        embeddings = OpenAIEmbeddings(**settings)
        try:  # what it would send for the first text; it downloads its vocabulary at first use
            embeddings.client.create(model=EMBEDDING_MODEL, input=[CL100K_TOKENS], encoding_format="base64")
        except openai.BadRequestError as error:
            expect("check_embedding_ctx_length=False" in str(error), error)
            return str(error)
        raise AssertionError("OpenAI's tokens were taken for the model's own")

    run.check("embed_documents", vectors)
    run.check("OpenAI's tokens are refused by the option that avoids them", foreign_tokens)


def main() -> None:
    sys.argv[1:] = add_models_folder(sys.argv[1:])
    with client_run(__doc__, ("langchain-openai", "langchain-core", "openai")) as run:
        chat = ChatOpenAI(
            model=run.model, base_url=f"{run.url}/v1", api_key="none", temperature=0, max_tokens=120, max_retries=0
        )  # type: ignore[call-arg,arg-type]
        check_chat(chat, run)
        check_schemas(chat, run)
        check_embeddings(run.url, run)


if __name__ == "__main__":
    main()
