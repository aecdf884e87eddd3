"""Load an AWQ folder with autoawq's fused layers on a CPU, on stand-ins for their kernels.

`python -m tests.support.awq_fused_probe <folder> <the same dequantized>`, with the stand-ins and the overlay on
PYTHONPATH. Writes JSON: how far logits are from those of the dequantized model in float32, and answers of our engine.
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

CONTEXT = 24
GPU = Environment(gpus=(8 << 30,), memory=8 << 30, packages=frozenset({"awq_ext", "flash_attn"}))
FRANCE, COUNTING = "The capital of France is", "one two three four"


def main() -> None:
    folder, plain = (Path(each) for each in sys.argv[1:])
    model = fused(folder)
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain, torch_dtype=torch.float32)
    told = {"logits": distances(model, reference), "answers": answers(model), "to the end": to_the_end(model)}
    attn.flash_attn_with_kvcache = attn.flash_attn_with_kvcache._attend
    told["unpatched"] = max(distances(model, reference))
    json.dump(told, sys.stdout)


def fused(folder: Path) -> FusedModel:
    options = option_values(resolve(LOADERS["AutoAWQ"], model={}, saved={}, flags={}, form={"max_seq_len": CONTEXT}))
    calls = arguments(folder, options, usable_packages(GPU))
    assert calls[LOAD]["fuse_layers"] and calls[LOAD]["device_map"] == {"": 0}
    calls[LOAD]["device_map"] = {"": "cpu"}
    base.get_best_device = lambda: patches.UNKNOWN_DEVICE
    model = load_model(calls, lambda _done: None)
    assert isinstance(model, FusedModel)
    return model


def distances(model: FusedModel, reference: Any) -> list[float]:
    """Compare two prompts, the second a token longer than the first, evaluated and continued in turn."""
    texts = [model.encode(FRANCE), model.encode(f"{FRANCE} the")]
    caches = [model.new_cache() for _ in texts]
    ours = [[model.forward(text, cache)] for text, cache in zip(texts, caches, strict=True)]
    for token in model.encode(COUNTING):
        for text, cache, told in zip(texts, caches, ours, strict=True):
            text.append(token)
            told.append(model.forward([token], cache))
    for cache in caches:
        model.recycle(cache)
    return [distance(torch.cat(told), reference, text) for told, text in zip(ours, texts, strict=True)]


def distance(ours: Tensor, reference: Any, text: list[int]) -> float:
    with torch.inference_mode():
        theirs = reference(torch.tensor([text])).logits[0, -len(ours) :]
    return float((ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max())


def answers(model: FusedModel) -> dict[str, str]:
    engine = Engine(
        model, TokenizerVocabulary(model.tokenizer, model.vocab_size, sorted(model.eos_tokens)), CONTEXT, ()
    )
    asked: dict[str, Any] = {
        "alone": {},
        "again": {},
        "guided from itself": {"guidance_scale": 1.5, "negative_prompt": FRANCE},
        "guided": {"guidance_scale": 2.5, "negative_prompt": "The capital of Italy is Rome"},
    }
    for number, wishes in enumerate(asked.values()):
        params = parameters(max_new_tokens=6, **wishes)
        engine.submit(number, engine.tokenize(FRANCE, params), params)
    said = dict.fromkeys(range(len(asked)), "")
    while not engine.idle:
        for call, event in engine.step():
            said[call] += event.text if isinstance(event, Text) else ""
    return dict(zip(asked, said.values(), strict=True))


def to_the_end(model: FusedModel) -> int:
    """Return the number of tokens when the context is full."""
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
