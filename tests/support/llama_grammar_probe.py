"""A script that generates random texts under a grammar with llamacpp_HF's vocabulary, in a process for llama.cpp.

It reads a JSON object from stdin: the "path" of a GGUF file, a "grammar", the number of "texts", and whether
"llguidance" is installed. It writes, as JSON, the texts and whether they are complete; or the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from modules.core.errors import OptionError
from modules.engines.hf.sampling.pipeline import build_processors, new_generator, sample_token
from modules.engines.llamacpp.arguments import arguments
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp_hf.vocabulary import LlamaVocabulary
from modules.loaders import generation_settings
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS

CPU = torch.device("cpu")
MAX_TOKENS = 60


def main() -> None:
    request = json.load(sys.stdin)
    if not request["llguidance"]:
        sys.modules["llguidance"] = None  # type: ignore[assignment]  # makes the import fail
    options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form={"n_ctx": 256}))
    path = Path(request["path"])
    model = Model(path, arguments(path, options, installed_build()), lambda done: None)
    vocabulary = LlamaVocabulary(None, model, sorted(model.vocabulary.end_tokens))
    try:
        texts = [_generate(model, vocabulary, request["grammar"], seed) for seed in range(request["texts"])]
        print(json.dumps(texts))
    except OptionError as error:
        print(json.dumps({"error": error.say("en")}))


def _generate(model: Model, vocabulary: LlamaVocabulary, grammar: str, seed: int) -> tuple[str, bool]:
    torch.manual_seed(seed)
    params = generation_settings.resolve({"grammar_string": grammar, "temperature": 1.0, "min_p": 0.0, "seed": seed})
    chain = build_processors(
        params, prompt_tokens=[500], vocabulary=vocabulary, eos=sorted(model.vocabulary.end_tokens), device=CPU
    )
    generator, tokens = new_generator(params, CPU), torch.tensor([[500]])
    for _ in range(MAX_TOKENS):
        token = sample_token(chain(tokens, torch.randn(1, model.n_vocab)), params, generator)
        if model.vocabulary.is_end_token(int(token)):
            break
        tokens = torch.cat([tokens, token[:, None]], dim=1)
    count = tokens.shape[1] - 1
    pieces = b"".join(model.vocabulary.piece(token) for token in tokens[0, 1:].tolist())
    return pieces.decode("utf-8", "replace"), count < MAX_TOKENS


if __name__ == "__main__":
    main()
