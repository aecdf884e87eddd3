"""What PEFT makes of several LoRAs at once, each with its weight: the reference for LoRAs of our engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.forked import forked
from tests.support.hf_reference import greedy, reference_model

Set = Sequence[tuple[str, float]]


def in_peft(path: Path, loras: Path, sets: Sequence[Set], prompts: list[str], tokens: int, load: Any) -> list[Any]:
    """Return for each set one {"text", "logprobs", …} for each prompt, as `hf_reference.greedy` does.

    In float32 the model's weights are changed by the sum of what PEFT says each LoRA alone adds to them. Models in
    fewer bits cannot be changed so: there PEFT's own layers add it up.
    """
    return forked(_answers, path, loras, sets, prompts, tokens, load)


def _answers(
    path: Path, loras: Path, sets: Sequence[Set], prompts: list[str], tokens: int, load: dict[str, Any]
) -> list[Any]:
    import torch

    model, tokenizer = reference_model(path, load)
    kind = model.dtype
    model = _with(model, loras, sorted({name for each in sets for name, _ in each}))
    apply = _merged if kind == torch.float32 else _side_by_side
    if kind != torch.float32:
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(kind)
    return [[greedy(model, tokenizer, prompt, tokens) for prompt in prompts] for _ in apply(model, sets)]


def _with(model: Any, folder: Path, names: Sequence[str]) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    return model.eval()


def _layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [each for each in model.modules() if isinstance(each, LoraLayer)]


def _merged(model: Any, sets: Sequence[Set]) -> Iterator[None]:
    """Yield once for each set, while it is applied."""
    own = {layer: layer.get_base_layer().weight.data for layer in _layers(model)}
    with model.disable_adapter():
        for each in sets:
            for layer, weight in own.items():
                deltas = [share * layer.get_delta_weight(name) for name, share in each if name in layer.lora_A]
                layer.get_base_layer().weight.data = sum(deltas, weight)
            yield


def _side_by_side(model: Any, sets: Sequence[Set]) -> Iterator[None]:
    """Yield once for each set, while it is applied."""
    for each in sets:
        model.base_model.set_adapter([name for name, _ in each])
        for layer in _layers(model):
            for name, share in each:
                layer.set_scale(name, share)
        yield
