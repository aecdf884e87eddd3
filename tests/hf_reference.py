"""What transformers alone makes of prompts, for the tests to hold ours against: run as a process of its own.

`python -m tests.hf_reference` reads one JSON object from stdin: `path`, the keyword arguments of `from_pretrained` in
`load` (a `quantization_config` as those of BitsAndBytesConfig), `prompts`, `tokens`. It prints a list of answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = 5


def alone(path: Path, prompts: list[str], tokens: int, kind: str = "AutoModelForCausalLM", **load: Any) -> list[Any]:
    """One {"tokens", "text", "logprobs"} for each prompt: greedy, with the best few log-probabilities of each step."""
    return of("tests.hf_reference", path=str(path), prompts=prompts, tokens=tokens, load=load, kind=kind)


def of(script: str, **asked: Any) -> list[Any]:
    """What `script`, run as a process of its own, prints when it is asked that."""
    command = [sys.executable, "-m", script]
    told = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=280)
    assert told.returncode == 0, told.stderr
    found: list[Any] = json.loads(told.stdout)
    return found


def loaded(path: str, load: dict[str, Any], kind: str = "AutoModelForCausalLM") -> tuple[Any, Any]:
    """The model and its tokenizer."""
    import transformers

    if "quantization_config" in load:
        load["quantization_config"] = transformers.BitsAndBytesConfig(**load["quantization_config"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    return getattr(transformers, kind).from_pretrained(path, **load), tokenizer


def main() -> None:
    import torch

    asked = json.load(sys.stdin)
    model, tokenizer = loaded(asked["path"], asked["load"], asked["kind"])
    answers = []
    for prompt in asked["prompts"]:
        inputs = tokenizer(prompt, return_tensors="pt")
        wishes = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        out = model.generate(**inputs, max_new_tokens=asked["tokens"], **wishes)
        read = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        drawn = out.sequences[0, read:].tolist()
        best = [torch.log_softmax(logits[0].double(), -1).topk(TOP).values.tolist() for logits in out.logits]
        answers.append({"tokens": drawn, "text": tokenizer.decode(drawn, skip_special_tokens=True), "logprobs": best})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
