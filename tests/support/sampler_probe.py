"""Apply the samplers of the llama.cpp engine to fixed logits: a script, so that llama.cpp runs in its own process.

Reads a JSON object from stdin: "path" of a GGUF file, whose vocabulary is used, and "cases". A case has "params",
"logits" by token (all others are unreachable), the tokens of a "prompt", and how many tokens to "draw". Writes as JSON
for every case the sampled tokens, with "first" those of as many samplers with the seeds 0, 1, …; with "draw" 0, the
tokens that may be sampled with their probabilities; or the error. With "texts" instead of "cases": the text of every
token, and the tokens of every text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import WebUIError
from modules.engines.llamacpp.arguments import arguments
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp.sampler import Sampler, first_token_probabilities
from modules.loaders import generation_settings
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS

UNREACHABLE = -1e4
"""A logit so low that its token is not sampled even at the highest temperature."""


class FixedLogitsModel(Model):
    """A model with a real vocabulary and fixed logits."""

    fixed_logits: NDArray[np.float32]

    def logits(self, row: int) -> NDArray[np.float32]:
        return self.fixed_logits


def main() -> None:
    request = json.load(sys.stdin)
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form={"n_ctx": 256}))
    path = Path(request["path"])
    model = FixedLogitsModel(path, arguments(path, options, installed_build()), lambda done: None)
    if "texts" in request:
        pieces = [
            model.vocabulary.piece(token, special=True).decode("utf-8", "replace") for token in range(model.n_vocab)
        ]
        tokens = {text: list(model.vocabulary.tokenize(text, False)) for text in request["texts"]}
        print(json.dumps({"pieces": pieces, "tokens": tokens}))
        return
    print(json.dumps([_sample(model, case) for case in request["cases"]]))


def _sample(model: FixedLogitsModel, case: Mapping[str, Any]) -> Any:
    model.fixed_logits = np.full(model.n_vocab, UNREACHABLE, np.float32)
    for token, logit in case["logits"].items():
        model.fixed_logits[int(token)] = logit
    before = model.fixed_logits.copy()
    try:
        params = generation_settings.resolve(case["params"], logit_bias=case.get("logit_bias"))
        prompt = case.get("prompt", [])
        if case.get("first"):
            result: Any = [_first_token(model, params | {"seed": seed}, prompt) for seed in range(case["draw"])]
        elif case["draw"]:
            sampler = Sampler(model, params, prompt)
            result = [sampler.sample(0) for _ in range(case["draw"])]
            sampler.free()
        else:
            result = _likely(first_token_probabilities(model, params, prompt, 0))
    except WebUIError as error:
        return {"error": error.say("en")}
    assert np.array_equal(before, model.fixed_logits), "the logits of the model are not modified"
    return result


def _first_token(model: Model, params: Mapping[str, Any], prompt: Sequence[int]) -> int:
    sampler = Sampler(model, params, prompt)
    try:
        return sampler.sample(0)
    finally:
        sampler.free()


def _likely(chances: NDArray[np.float64]) -> dict[int, float]:
    return {int(token): float(chances[token]) for token in np.flatnonzero(chances)}


if __name__ == "__main__":
    main()
