"""LiteLLM against our server, as an OpenAI-compatible one and as LM Studio: answers, streams, tools, vectors.

    .venv/bin/python benchmarks/clients/litellm_client.py --bodies

The first run makes an environment of its own. A tiny embedding model with random weights lies beside the chat model.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

from environments import EMBEDDING_MODEL, add_models_folder, run_in_environment
from report import Run, client_run, expect

if __name__ == "__main__":
    run_in_environment("litellm", "litellm==1.110.2")

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no download of prices

import litellm

MESSAGES = [{"role": "user", "content": "Name the capital of France in one English sentence."}]
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Return the weather of a city.", "parameters": CITY}
TOOLS = [{"type": "function", "function": WEATHER}]
PROVIDERS = ("openai", "lm_studio")


def check_provider(provider: str, run: Run) -> None:
    settings: dict[str, Any] = {"api_base": f"{run.url}/v1", "api_key": "none", "num_retries": 0}
    chat: dict[str, Any] = {
        **settings,
        "model": f"{provider}/{run.model}",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 120,
    }

    def completion() -> str:
        answer: Any = litellm.completion(**chat)
        expect(answer.choices[0].message.content and answer.usage.completion_tokens, answer)
        return str(answer.choices[0].message.content)

    def stream() -> str:
        pieces = [piece.choices[0].delta.content or "" for piece in litellm.completion(**chat, stream=True)]
        expect(len(pieces) > 2 and any(pieces), pieces)
        return f"{len(pieces)} pieces: {''.join(pieces)}"

    def tools() -> str:
        answer: Any = litellm.completion(**chat, tools=TOOLS, tool_choice="required")
        call = answer.choices[0].message.tool_calls[0].function
        expect(call.name == "get_weather" and isinstance(json.loads(call.arguments)["city"], str), answer)
        return str(call.arguments)

    def streamed_tools() -> str:
        named = {"type": "function", "function": {"name": "get_weather"}}
        pieces = list(litellm.completion(**chat, tools=TOOLS, tool_choice=named, stream=True))
        whole: Any = litellm.stream_chunk_builder(pieces, messages=MESSAGES)
        call = whole.choices[0].message.tool_calls[0].function
        expect(call.name == "get_weather" and json.loads(call.arguments), whole)
        return str(call.arguments)

    def schema() -> str:
        wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
        answer: Any = litellm.completion(**chat, response_format=wanted)
        expect("city" in json.loads(answer.choices[0].message.content), answer)
        return str(answer.choices[0].message.content)

    def vectors() -> str:
        texts = ["The cat sat on the mat.", "Paris is in France."]
        found = litellm.embedding(**settings, model=f"{provider}/{EMBEDDING_MODEL}", input=texts).data
        numbers = found[0]["embedding"]
        expect(len(found) == len(texts) and math.isclose(math.hypot(*numbers), 1, rel_tol=1e-3), found)
        return f"{len(found)} vectors of {len(numbers)} numbers"

    run.check(f"{provider}: completion", completion)
    run.check(f"{provider}: completion, streamed", stream)
    run.check(f"{provider}: tools, required", tools)
    run.check(f"{provider}: a named tool, streamed", streamed_tools)
    run.check(f"{provider}: response_format", schema)
    run.check(f"{provider}: embedding", vectors)


def main() -> None:
    sys.argv[1:] = add_models_folder(sys.argv[1:])
    with client_run(__doc__, ("litellm", "openai")) as run:
        for provider in PROVIDERS:
            check_provider(provider, run)


if __name__ == "__main__":
    main()
