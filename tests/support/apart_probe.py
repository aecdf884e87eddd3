"""Answer prompts concurrently and one by one, with a separate KV cache per slot: a script.

It sets `kv_unified`, which is no load option. Reads {"path", "prompts"} from stdin, writes both lists of texts as JSON.
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
    asked = json.load(sys.stdin)
    usual = arguments

    def apart(*args: Any) -> dict[str, Any]:
        calls = usual(*args)
        calls["llama_init_from_model"]["kv_unified"] = False
        return calls

    llamacpp.__dict__["arguments"] = apart
    form = {"n_ctx": 4 * 512, "threads": 1, "threads_batch": 1, "parallel": 4}
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form=form))
    engine = llamacpp.LlamaCpp(Path(asked["path"]), options, lambda progress: None)
    together = _texts(engine, asked["prompts"])
    alone = []
    for prompt in asked["prompts"]:
        engine.forget()
        alone += _texts(engine, [prompt])
    print(json.dumps([together, alone]))


def _texts(engine: llamacpp.LlamaCpp, prompts: Sequence[str]) -> list[str]:
    said: dict[int, str] = dict.fromkeys(range(len(prompts)), "")
    for call, prompt in enumerate(prompts):
        engine.submit(call, engine.tokenize(prompt, PARAMS), PARAMS)
    while not engine.idle:
        for call, event in engine.step():
            if isinstance(event, Text):
                said[call] += event.text
    return list(said.values())


if __name__ == "__main__":
    main()
