"""A script that answers prompts concurrently and one by one, with a separate KV cache per slot.

It sets `kv_unified`, which is not a load option. It reads {"path", "prompts"} from stdin and writes both lists of texts
as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modules.core.events import Text
from modules.engines.llamacpp import engine as llamacpp
from modules.engines.llamacpp.arguments import arguments
from modules.loaders import generation_settings
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS

PARAMS = generation_settings.resolve({"temperature": 0, "max_new_tokens": 40})


def main() -> None:
    request = json.load(sys.stdin)

    def with_separate_caches(*args: Any) -> dict[str, Any]:
        calls = arguments(*args)
        calls["llama_init_from_model"]["kv_unified"] = False
        return calls

    llamacpp.__dict__["arguments"] = with_separate_caches
    form = {"n_ctx": 4 * 512, "threads": 1, "threads_batch": 1, "parallel": 4}
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form=form))
    engine = llamacpp.LlamaCpp(Path(request["path"]), options, lambda progress: None)
    together = _texts(engine, request["prompts"])
    alone = []
    for prompt in request["prompts"]:
        engine.forget()
        alone += _texts(engine, [prompt])
    print(json.dumps([together, alone]))


def _texts(engine: llamacpp.LlamaCpp, prompts: Sequence[str]) -> list[str]:
    texts: dict[int, str] = dict.fromkeys(range(len(prompts)), "")
    for call, prompt in enumerate(prompts):
        engine.submit(call, engine.tokenize(prompt, PARAMS), PARAMS)
    while not engine.idle:
        for call, event in engine.step():
            if isinstance(event, Text):
                texts[call] += event.text
    return list(texts.values())


if __name__ == "__main__":
    main()
