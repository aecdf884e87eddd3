"""Answers by `generate` of transformers: the reference for the answers of the transformers engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.forked import forked

TOP = 5


def transformers_answers(
    path: Path, prompts: list[str], tokens: int, auto_class: str = "AutoModelForCausalLM", **load: Any
) -> list[Any]:
    """Return one {"tokens", "text", "logprobs"} for each prompt, as `greedy` does.

    `load` are keyword arguments of `from_pretrained`; a `quantization_config` holds those of BitsAndBytesConfig.
    """
    return forked(_answers, path, prompts, tokens, auto_class, load)


def reference_model(path: Path, load: dict[str, Any], auto_class: str = "AutoModelForCausalLM") -> tuple[Any, Any]:
    """Return the model and its tokenizer."""
    import transformers

    if "quantization_config" in load:
        load = load | {"quantization_config": transformers.BitsAndBytesConfig(**load["quantization_config"])}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return getattr(transformers, auto_class).from_pretrained(path, **load), tokenizer


def greedy(model: Any, tokenizer: Any, prompt: str, tokens: int) -> dict[str, Any]:
    """Return the "tokens" and the "text" of the answer, and as "logprobs" the TOP highest of every step."""
    import torch

    inputs = tokenizer(prompt, return_tensors="pt")
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=tokens, **options)
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    generated = out.sequences[0, start:].tolist()
    best = [torch.log_softmax(logits[0].double(), -1).topk(TOP).values.tolist() for logits in out.logits]
    return {"tokens": generated, "text": tokenizer.decode(generated, skip_special_tokens=True), "logprobs": best}


def _answers(
    path: Path, prompts: list[str], tokens: int, auto_class: str, load: dict[str, Any]
) -> list[dict[str, Any]]:
    model, tokenizer = reference_model(path, load, auto_class)
    return [greedy(model, tokenizer, prompt, tokens) for prompt in prompts]
