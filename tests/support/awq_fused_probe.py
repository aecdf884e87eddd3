"""Load an AWQ folder with autoawq's fused layers on a CPU, with stand-ins for their kernels: a script.

`python -m tests.support.awq_fused_probe <folder> <dequantized folder>`, with the stand-ins and the overlay on
PYTHONPATH, prints JSON: the largest differences from the log probabilities of the dequantized model in float32, and
answers of our engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from modules.core.events import Done, Text
from modules.engines.autoawq import patches
from modules.engines.autoawq.arguments import LOAD, arguments
from modules.engines.autoawq.build import load_model, usable_packages
from modules.engines.autoawq.fused_layers import FusedModel
from modules.engines.autoawq.package import attn, base
from modules.engines.hf.arguments import Environment
from modules.engines.hf.engine import Engine
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.answers import parameters
from tests.support.version_5_files import read_in_transformers_4

CONTEXT = 24
GPU = Environment(gpus=(8 << 30,), memory=8 << 30, packages=frozenset({"awq_ext", "flash_attn"}))
FRANCE, COUNTING = "The capital of France is", "one two three four"


def main() -> None:
    folder, plain = (Path(argument) for argument in sys.argv[1:])
    read_in_transformers_4()
    model = load_fused(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain, torch_dtype=torch.float32)
    results = {
        "differences": differences(model, reference),
        "answers": answers(model),
        "tokens in a full context": tokens_in_a_full_context(model),
    }
    attn.flash_attn_with_kvcache = attn.flash_attn_with_kvcache._attend
    results["unpatched difference"] = max(differences(model, reference))
    json.dump(results, sys.stdout)


def load_fused(folder: Path) -> FusedModel:
    options = option_values(resolve(LOADERS["AutoAWQ"], model={}, saved={}, flags={}, form={"max_seq_len": CONTEXT}))
    calls = arguments(folder, options, usable_packages(GPU))
    assert calls[LOAD]["fuse_layers"] and calls[LOAD]["device_map"] == {"": 0}
    calls[LOAD]["device_map"] = {"": "cpu"}
    base.get_best_device = lambda: patches.UNKNOWN_DEVICE
    model = load_model(calls, lambda _done: None)
    assert isinstance(model, FusedModel)
    return model


def differences(model: FusedModel, reference: Any) -> list[float]:
    """Compare two prompts of different lengths, which are prefilled and decoded in turn."""
    sequences = [model.encode(FRANCE), model.encode(f"{FRANCE} the")]
    caches = [model.new_cache() for _ in sequences]
    ours = [[model.forward(tokens, cache)] for tokens, cache in zip(sequences, caches, strict=True)]
    for token in model.encode(COUNTING):
        for tokens, cache, logits in zip(sequences, caches, ours, strict=True):
            tokens.append(token)
            logits.append(model.forward([token], cache))
    for cache in caches:
        model.recycle(cache)
    return [difference(torch.cat(logits), reference, tokens) for logits, tokens in zip(ours, sequences, strict=True)]


def difference(ours: Tensor, reference: Any, tokens: list[int]) -> float:
    with torch.inference_mode():
        theirs = reference(torch.tensor([tokens])).logits[0, -len(ours) :]
    return float((ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max())


def answers(model: FusedModel) -> dict[str, str]:
    engine = Engine(
        model, TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens)), CONTEXT, ()
    )
    requests: dict[str, Any] = {
        "single": {},
        "repeated": {},
        "guided by the prompt itself": {"guidance_scale": 1.5, "negative_prompt": FRANCE},
        "guided": {"guidance_scale": 2.5, "negative_prompt": "The capital of Italy is Rome"},
    }
    for number, options in enumerate(requests.values()):
        params = parameters(max_new_tokens=6, **options)
        engine.submit(number, engine.tokenize(FRANCE, params), params)
    texts = dict.fromkeys(range(len(requests)), "")
    while not engine.idle:
        for call, event in engine.step():
            texts[call] += event.text if isinstance(event, Text) else ""
    return dict(zip(requests, texts.values(), strict=True))


def tokens_in_a_full_context(model: FusedModel) -> int:
    """Return the number of tokens of a prompt and an answer that fills the context."""
    engine = Engine(
        model, TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens)), CONTEXT, ()
    )
    params = parameters(max_new_tokens=0, ban_eos_token=True)
    engine.submit(0, engine.tokenize(FRANCE, params), params)
    while not engine.idle:
        for _, event in engine.step():
            if isinstance(event, Done):
                return event.prompt_tokens + event.completion_tokens
    return 0


if __name__ == "__main__":
    main()
