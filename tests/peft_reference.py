"""What PEFT makes of an adapter: a script, so that torch lives in a process of its own.

`python -m tests.peft_reference <what.json>`: "model" is a folder; "adapters" are made below "folder" with random
weights, one for each entry (its keywords are LoraConfig's, but "dtype" is how it is saved, and "strength" the spread of
B). "tokens" are read by the model in float32 without an adapter and with each; the logits after every token are saved
in "folder"/logits.npz, by the adapter's name, "none" for none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    folder, tokens = Path(asked["folder"]), torch.tensor([asked["tokens"]])
    for name, words in asked["adapters"].items():
        _make(asked["model"], folder / name, dict(words))
    logits = {
        name: _logits(asked["model"], folder / name if name else None, tokens) for name in ["", *asked["adapters"]]
    }
    np.savez(folder / "logits.npz", **{name or "none": each for name, each in logits.items()})


def _make(model: str, folder: Path, words: dict[str, Any]) -> None:
    torch.manual_seed(5)
    strength, dtype = words.pop("strength"), words.pop("dtype", "float32")
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), LoraConfig(**words))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=strength)
    peft.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file({name: each.to(getattr(torch, dtype)) for name, each in load_file(weights).items()}, weights)


def _logits(path: str, adapter: Path | None, tokens: Any) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(tokens).logits[0].numpy()


if __name__ == "__main__":
    main()
