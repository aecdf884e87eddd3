"""Logits of a model with LoRAs made and applied by PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.forked import forked


def peft_logits(model: Path, folder: Path, adapters: dict[str, dict[str, Any]], tokens: list[int]) -> dict[str, Any]:
    """Make adapters with random weights below `folder`, and return the logits (tokens, vocabulary) with each of them.

    `adapters` are keyword arguments of LoraConfig by the adapter's name; "dtype" is that of the saved file, "strength"
    the standard deviation of B. The logits are computed in float32; those named "none" are without an adapter.
    """
    return forked(_peft_logits, model, folder, adapters, tokens)


def _peft_logits(model: Path, folder: Path, adapters: dict[str, dict[str, Any]], tokens: list[int]) -> dict[str, Any]:
    for name, config in adapters.items():
        _make(model, folder / name, dict(config))
    logits = {"none": _logits(model, None, tokens)}
    return logits | {name: _logits(model, folder / name, tokens) for name in adapters}


def _make(model: Path, folder: Path, config: dict[str, Any]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    strength, dtype = config.pop("strength"), config.pop("dtype", "float32")
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), LoraConfig(**config))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=strength)
    peft.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file({name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(weights).items()}, weights)


def _logits(path: Path, adapter: Path | None, tokens: list[int]) -> Any:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(torch.tensor([tokens])).logits[0].numpy()
