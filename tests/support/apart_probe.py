"""A script that answers prompts concurrently and one by one, with a separate KV cache per slot.

It reads {"path", "prompts"} from stdin and writes both lists of texts as JSON, how many tokens of a running request
were copied for another one with the same prompt, what became of two conversations that were continued together, and
how many tokens were evaluated anew when all prompts were asked again, and how the prompts of long and short requests
advanced.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.core.events import Done, Json, Text
from modules.engines.llamacpp import engine as llamacpp
from modules.loaders import generation_settings
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS

PARAMS = generation_settings.resolve({"temperature": 0, "max_new_tokens": 40})


def main() -> None:
    request = json.load(sys.stdin)
    form = {"n_ctx": 512, "threads": 1, "threads_batch": 1, "parallel": 4, "kv_unified": "off"}
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form=form))
    engine = llamacpp.LlamaCpp(Path(request["path"]), options, lambda progress: None)
    together = _texts(engine, request["prompts"])
    alone = []
    for prompt in request["prompts"]:
        engine.forget()
        alone += _texts(engine, [prompt])
    copied, continued = _copied(engine, " ".join(request["prompts"])), _continued(engine)
    asked_again = _asked_again(engine, request["prompts"])
    print(json.dumps([together, alone, copied, continued, asked_again, _evaluated(engine)]))


def _copied(engine: llamacpp.LlamaCpp, prompt: str) -> int:
    """Return how many tokens the second of two equal requests finds in the other one's cache."""
    engine.forget()
    tokens = engine.tokenize(prompt, PARAMS)
    engine.submit(1, tokens, PARAMS)
    list(engine.step())
    engine.submit(2, tokens, PARAMS)
    ends = {}
    while not engine.idle:
        ends |= {call: event for call, event in engine.step() if isinstance(event, Done)}
    return ends[2].cached_tokens


def _continued(engine: llamacpp.LlamaCpp) -> dict[str, list[int]]:
    """Continue the first and the last of four conversations at the same time.

    Return the slots of both, and how many tokens of each prompt were evaluated anew.
    """
    engine.forget()
    prompts = [f"Number {number}: " + "once upon a time " * 20 for number in range(4)]
    _texts(engine, prompts)
    requests = []
    for call in (0, 3):
        engine.submit(call, engine.tokenize(prompts[call] + "again", PARAMS), PARAMS)
        list(engine.step())
        request = engine._scheduler.find(call)
        assert request is not None and request.slot is not None
        requests.append(request)
    return {
        "slots": [request.slot.number for request in requests if request.slot],
        "new": [request.prompt_tokens - request.reused_tokens for request in requests],
    }


def _asked_again(engine: llamacpp.LlamaCpp, prompts: Sequence[str]) -> list[int]:
    """Ask four short prompts together, and again: one begins before the others come, of which its neighbor is the last.

    Return how many tokens of each were evaluated anew.
    """
    engine.forget()
    params = PARAMS | {"max_new_tokens": 80, "ban_eos_token": True}
    _texts(engine, prompts, params)
    tokens = [engine.tokenize(prompt, params) for prompt in prompts]
    held = [slot.cells.tolist() for slot in engine._cache.slots]
    slots = [next(number for number, cells in enumerate(held) if cells[: len(one)] == one) for one in tokens]
    order = sorted(range(4), key=slots.__getitem__)
    ends: dict[int, Done] = {}
    for group in (order[:1], [order[2], order[3], order[1]]):
        for call in group:
            engine.submit(call, tokens[call], params)
        list(engine.step())
    while not engine.idle:
        ends |= {call: event for call, event in engine.step() if isinstance(event, Done)}
    return [ends[call].prompt_tokens - ends[call].cached_tokens for call in range(len(prompts))]


def _evaluated(engine: llamacpp.LlamaCpp) -> list[list[int]]:
    """Begin two long requests, and then a short one. Return how many tokens of each were evaluated after each step."""
    engine.forget()
    for call in (0, 1):
        engine.submit(call, engine.tokenize(f"Number {call}: " + "once upon a time " * 60, PARAMS), PARAMS)
    engine.interrupt(False)
    list(engine.step())
    engine.resume()
    engine.submit(2, engine.tokenize("Once upon a time, there was a cat", PARAMS), PARAMS)
    evaluated = []
    for _ in range(3):
        found = [engine._scheduler.find(call) for call in (0, 1, 2)]
        evaluated.append([request.evaluated for request in found if request is not None])
        list(engine.step())
    for call in (0, 1, 2):
        engine.cancel(call)
    return evaluated


def _texts(engine: llamacpp.LlamaCpp, prompts: Sequence[str], params: Mapping[str, Json] = PARAMS) -> list[str]:
    texts: dict[int, str] = dict.fromkeys(range(len(prompts)), "")
    for call, prompt in enumerate(prompts):
        engine.submit(call, engine.tokenize(prompt, params), params)
    while not engine.idle:
        for call, event in engine.step():
            if isinstance(event, Text):
                texts[call] += event.text
    return list(texts.values())


if __name__ == "__main__":
    main()
