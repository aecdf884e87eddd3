"""What PEFT makes of several LoRAs at once, each with its weight, for the tests to hold ours against: a process of its
own.

`python -m tests.peft_together` reads one JSON object from stdin: `path`, the keyword arguments of `from_pretrained` in
`load`, the folder `loras`, `sets` of [name, weight] pairs, `prompts`, `tokens`. It prints a list of answers for each
set. In float32 the model's weights are changed by the sum of what PEFT says each LoRA alone adds to them; models in
fewer bits cannot be changed so, and there PEFT's own layers add it up.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.hf_reference import TOP, loaded, of

Set = Sequence[tuple[str, float]]


def in_peft(path: Path, loras: Path, sets: Sequence[Set], prompts: list[str], tokens: int, load: Any) -> list[Any]:
    """For each set one {"text", "logprobs"} for each prompt: greedy, with the best log-probabilities of each step."""
    asked = {"path": str(path), "loras": str(loras), "sets": sets, "prompts": prompts, "tokens": tokens, "load": load}
    return of("tests.peft_together", **asked)


def main() -> None:
    import torch

    asked = json.load(sys.stdin)
    model, tokenizer = loaded(asked["path"], asked["load"])
    kind = model.dtype
    names = sorted({name for each in asked["sets"] for name, _ in each})
    model = _with(model, Path(asked["loras"]), names)
    weights = _merged if kind == torch.float32 else _side_by_side
    if kind != torch.float32:
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(kind)
    answers = [
        [_answer(model, tokenizer, each, asked["tokens"]) for each in asked["prompts"]]
        for _ in weights(model, asked["sets"])
    ]
    json.dump(answers, sys.stdout)


def _with(model: Any, folder: Path, names: Sequence[str]) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    return model.eval()


def _layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [each for each in model.modules() if isinstance(each, LoraLayer)]


def _merged(model: Any, sets: Sequence[Set]) -> Any:
    """One turn for each set, in which it is in force."""
    own = {layer: layer.get_base_layer().weight.data for layer in _layers(model)}
    with model.disable_adapter():
        for each in sets:
            for layer, weight in own.items():
                deltas = [share * layer.get_delta_weight(name) for name, share in each if name in layer.lora_A]
                layer.get_base_layer().weight.data = sum(deltas, weight)
            yield


def _side_by_side(model: Any, sets: Sequence[Set]) -> Any:
    for each in sets:
        model.base_model.set_adapter([name for name, _ in each])
        for layer in _layers(model):
            for name, share in each:
                layer.set_scale(name, share)
        yield


def _answer(model: Any, tokenizer: Any, prompt: str, tokens: int) -> dict[str, Any]:
    import torch

    inputs = tokenizer(prompt, return_tensors="pt")
    wishes = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=tokens, **wishes)
    best = [torch.log_softmax(logits[0].double(), -1).topk(TOP).values.tolist() for logits in out.logits]
    drawn = out.sequences[0, inputs["input_ids"].shape[1] :]
    return {"text": tokenizer.decode(drawn, skip_special_tokens=True), "logprobs": best}


if __name__ == "__main__":
    main()
