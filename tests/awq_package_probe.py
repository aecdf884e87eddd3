"""Tells what autoawq does by itself, beside what it does as we set it right.

`python -m tests.awq_package_probe <folder> <the same dequantised>`, with the overlay on PYTHONPATH. Writes JSON: how
far its own slow way and ours are from the dequantised model in float32, and which of `autoawq_mended` is still needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.engines.autoawq_arguments import arguments
from modules.engines.autoawq_loading import loaded
from modules.engines.autoawq_package import AutoAWQForCausalLM, base
from modules.engines.hf_arguments import Machine
from modules.loaders import LOADERS, settle, values

TEXT = "The capital of France is"
OWN = {"device_map": {"": "cpu"}, "torch_dtype": torch.float16, "fuse_layers": False}


def main() -> None:
    folder, plain = (Path(each) for each in sys.argv[1:])
    tokens = transformers.AutoTokenizer.from_pretrained(folder).encode(TEXT)
    reference = logits(transformers.AutoModelForCausalLM.from_pretrained(plain, torch_dtype=torch.float32), tokens)
    told: dict[str, Any] = {"without a GPU": refusal(folder)}
    base.get_best_device = lambda: "cpu-naive"
    slow = logits(AutoAWQForCausalLM.from_quantized(str(folder), **OWN).model, tokens)
    told["silent about"] = silent_about(folder)
    options = values(settle(LOADERS["AutoAWQ"], model={}, saved={}, flags={}, form={}))
    ours = logits(loaded(arguments(folder, options, Machine()), lambda _done: None).module, tokens)
    told |= {"slow": apart(slow, reference), "ours": apart(ours, reference)}
    told |= {"version": base.AwqConfig.from_pretrained(str(folder)).version}
    json.dump(told, sys.stdout)


def logits(module: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return found


def apart(left: Tensor, right: Tensor) -> float:
    """How far the logarithms of probabilities are apart: of the likeliest 5, on which answers depend."""
    best = right.topk(5).indices
    return float((left.gather(1, best) - right.gather(1, best)).abs().max())


def refusal(folder: Path) -> str:
    try:
        AutoAWQForCausalLM.from_quantized(str(folder), **OWN)
    except ImportError as error:
        return str(error)
    return ""


def silent_about(folder: Path) -> str:
    """A tensor that may be missing without a word."""
    lost = folder.parent / "lost"
    lost.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (lost / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith(".qweight"))
    save_file({key: each for key, each in weights.items() if key != name}, lost / "model.safetensors")
    config = json.loads((lost / "config.json").read_text())
    config["quantization_config"]["version"] = "GEMM"
    (lost / "config.json").write_text(json.dumps(config))
    try:
        AutoAWQForCausalLM.from_quantized(str(lost), **OWN)
    except UnboundLocalError:
        capitals = "capitals, and "
    else:
        capitals = ""
    config["quantization_config"]["version"] = "gemm"
    (lost / "config.json").write_text(json.dumps(config))
    AutoAWQForCausalLM.from_quantized(str(lost), **OWN)
    return f"{capitals}{name}"


if __name__ == "__main__":
    main()
