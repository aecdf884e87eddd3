"""Answers of PEFT with several weighted LoRAs at once: the reference for LoRAs of the transformers engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.forked import forked
from tests.support.hf_reference import greedy, reference_model

LoraSet = Sequence[tuple[str, float]]


def peft_answers(
    path: Path, folder: Path, sets: Sequence[LoraSet], prompts: list[str], tokens: int, load: Any
) -> list[Any]:
    """Return for each set one {"text", "logprobs", …} for each prompt, as `hf_reference.greedy` does.

    In float32 the weighted deltas that PEFT computes for the LoRAs are added to the weights of the model. That is not
    possible with other dtypes: there the layers of PEFT compute the sum.
    """
    return forked(_answers, path, folder, sets, prompts, tokens, load)


def _answers(
    path: Path, folder: Path, sets: Sequence[LoraSet], prompts: list[str], tokens: int, load: dict[str, Any]
) -> list[Any]:
    import torch

    model, tokenizer = reference_model(path, load)
    dtype = model.dtype
    model = _with_adapters(model, folder, sorted({name for loras in sets for name, _ in loras}))
    apply = _merged if dtype == torch.float32 else _side_by_side
    if dtype != torch.float32:
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(dtype)
    return [[greedy(model, tokenizer, prompt, tokens) for prompt in prompts] for _ in apply(model, sets)]


def _with_adapters(model: Any, folder: Path, names: Sequence[str]) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    return model.eval()


def _layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _merged(model: Any, sets: Sequence[LoraSet]) -> Iterator[None]:
    """Yield once for each set, while it is applied."""
    base_weights = {layer: layer.get_base_layer().weight.data for layer in _layers(model)}
    with model.disable_adapter():
        for loras in sets:
            for layer, weight in base_weights.items():
                deltas = [scale * layer.get_delta_weight(name) for name, scale in loras if name in layer.lora_A]
                layer.get_base_layer().weight.data = sum(deltas, weight)
            yield


def _side_by_side(model: Any, sets: Sequence[LoraSet]) -> Iterator[None]:
    """Yield once for each set, while it is applied."""
    for loras in sets:
        model.base_model.set_adapter([name for name, _ in loras])
        for layer in _layers(model):
            for name, scale in loras:
                layer.set_scale(name, scale)
        yield
