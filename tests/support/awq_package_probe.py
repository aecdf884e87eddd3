"""Compare autoawq as it is with autoawq after our corrections.

`python -m tests.support.awq_package_probe <folder> <the same dequantized>`, with the overlay on PYTHONPATH. Writes
JSON: how far its own layers on a CPU and ours are from the dequantized model in float32, and which of `autoawq.patches`
are still needed.
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

from modules.engines.autoawq.arguments import CONFIG, arguments
from modules.engines.autoawq.build import load_model, usable_packages
from modules.engines.autoawq.package import AutoAWQForCausalLM, base
from modules.engines.autoawq.patches import patched_loading
from modules.engines.hf.arguments import Environment
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.linked_folder import linked_folder

NAMED = {"quant_filename": "model.safetensors"}
LOST = "model.layers.1.mlp.up_proj.qzeros"
TEXT = "The capital of France is"
OWN = {"device_map": {"": "cpu"}, "torch_dtype": torch.float16, "fuse_layers": False}


def main() -> None:
    folder, plain = (Path(each) for each in sys.argv[1:])
    tokens = transformers.AutoTokenizer.from_pretrained(folder).encode(TEXT)
    reference = logits(transformers.AutoModelForCausalLM.from_pretrained(plain, torch_dtype=torch.float32), tokens)
    told: dict[str, Any] = {"no GPU": complaint(folder)}
    base.get_best_device = lambda: "cpu-naive"
    slow = logits(AutoAWQForCausalLM.from_quantized(str(folder), **OWN).model, tokens)
    told["capitals"] = complaint(in_capitals(folder, folder.parent / "capitals"))
    told["missing"] = complaint(without_a_tensor(folder, folder.parent / "lost"))
    options = option_values(resolve(LOADERS["AutoAWQ"], model={}, saved={}, flags={}, form={}))
    calls = arguments(folder, options, Environment())
    with patched_loading(calls[CONFIG], True, lambda _done: None):
        parted = AutoAWQForCausalLM.from_quantized(str(folder), **OWN | elsewhere(folder)).model
    told["elsewhere"] = sorted({str(each.device) for each in parted.model.layers[0].buffers()})
    spread = logits(parted, tokens)
    ours = logits(load_model(calls, lambda _done: None).module, tokens)
    found = {"slow": slow, "spread": spread, "ours": ours}
    told |= {name: apart(each, reference) for name, each in found.items()}
    told["fits"] = sorted(usable_packages(Environment(packages=frozenset({"awq_ext", "flash_attn"}))).packages)
    json.dump(told, sys.stdout)


def elsewhere(folder: Path) -> dict[str, Any]:
    """Return arguments that offload the first layer, as beside a GPU, so that it is not where it is computed."""
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    names = ["model.embed_tokens", *(f"model.layers.{each}" for each in range(layers)), "model.norm", "lm_head"]
    places = dict.fromkeys([*names, "model.rotary_emb"], "cpu") | {"model.layers.0": "disk"}
    return {"device_map": places, "offload_folder": str(folder.parent / "offload"), **NAMED}


def logits(module: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return found


def apart(left: Tensor, right: Tensor) -> float:
    """Return the largest difference of log probabilities of the 5 most likely tokens, on which answers depend."""
    best = right.topk(5).indices
    return float((left.gather(1, best) - right.gather(1, best)).abs().max())


def complaint(folder: Path) -> str:
    """Return the error message of the package without our corrections; empty if the folder loads."""
    try:
        AutoAWQForCausalLM.from_quantized(str(folder), **OWN)
    except (ImportError, UnboundLocalError, NotImplementedError) as error:
        return str(error)
    return ""


def in_capitals(folder: Path, target: Path) -> Path:
    linked_folder(folder, target, ["config.json"])
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = "GEMM"
    (target / "config.json").write_text(json.dumps(config))
    return target


def without_a_tensor(folder: Path, target: Path) -> Path:
    linked_folder(folder, target, ["model.safetensors"])
    weights = load_file(folder / "model.safetensors")
    del weights[LOST]
    save_file(weights, target / "model.safetensors")
    return target


if __name__ == "__main__":
    main()
