"""Compare autoawq with and without our patches: a script.

`python -m tests.support.awq_package_probe <folder> <dequantized folder>`, with the overlay on PYTHONPATH, prints JSON:
the differences of autoawq's own layers on a CPU and of ours from the dequantized model in float32, and which patches of
`autoawq.patches` are still needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from modules.engines.autoawq.arguments import CONFIG, arguments
from modules.engines.autoawq.build import load_model, usable_packages
from modules.engines.autoawq.package import AutoAWQForCausalLM, base
from modules.engines.autoawq.patches import patched_loading
from modules.engines.hf.arguments import Environment
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.linked_folder import linked_folder
from tests.support.version_5_files import read_in_transformers_4

WEIGHT_FILE = {"quant_filename": "model.safetensors"}
MISSING_TENSOR = "model.layers.1.mlp.up_proj.qzeros"
TEXT = "The capital of France is"
CPU_ARGUMENTS = {"device_map": {"": "cpu"}, "torch_dtype": torch.float16, "fuse_layers": False}


def main() -> None:
    folder, plain = (Path(argument) for argument in sys.argv[1:])
    read_in_transformers_4()
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    reference = logprobs_of(transformers.AutoModelForCausalLM.from_pretrained(plain, torch_dtype=torch.float32), tokens)
    results: dict[str, Any] = {"no GPU": load_error(folder)}
    base.get_best_device = lambda: "cpu-naive"
    package = logprobs_of(AutoAWQForCausalLM.from_quantized(str(folder), **CPU_ARGUMENTS).model, tokens)
    results["upper case"] = load_error(with_upper_case_version(folder, folder.parent / "upper case"))
    results["missing tensor"] = load_error(without_a_tensor(folder, folder.parent / "missing tensor"))
    options = option_values(resolve(LOADERS["AutoAWQ"], model={}, saved={}, flags={}, form={}))
    calls = arguments(folder, options, Environment())
    with patched_loading(calls[CONFIG], True, lambda _done: None):
        offloaded = AutoAWQForCausalLM.from_quantized(str(folder), **CPU_ARGUMENTS | offloading(folder)).model
    results["devices of an offloaded layer"] = sorted(
        {str(buffer.device) for buffer in offloaded.model.layers[0].buffers()}
    )
    offloaded_logits = logprobs_of(offloaded, tokens)
    ours = logprobs_of(load_model(calls, lambda _done: None).module, tokens)
    variants = {"package": package, "package with offload": offloaded_logits, "ours": ours}
    results["differences"] = {name: difference(actual, reference) for name, actual in variants.items()}
    results["usable packages"] = sorted(
        usable_packages(Environment(packages=frozenset({"awq_ext", "flash_attn"}))).packages
    )
    json.dump(results, sys.stdout)


def offloading(folder: Path) -> dict[str, Any]:
    """Return arguments that offload the first layer to disk, so that it is not stored where it is computed."""
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    names = ["model.embed_tokens", *(f"model.layers.{number}" for number in range(layers)), "model.norm", "lm_head"]
    device_map = dict.fromkeys([*names, "model.rotary_emb"], "cpu") | {"model.layers.0": "disk"}
    return {"device_map": device_map, "offload_folder": str(folder.parent / "offload"), **WEIGHT_FILE}


def logprobs_of(module: Any, tokens: list[int]) -> Tensor:
    with torch.inference_mode():
        logprobs: Tensor = module(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return logprobs


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference of log probabilities of the 5 most likely tokens, on which answers depend."""
    best = expected.topk(5).indices
    return float((actual.gather(1, best) - expected.gather(1, best)).abs().max())


def load_error(folder: Path) -> str:
    """Return the error message of the package without our patches; empty if the folder loads."""
    try:
        AutoAWQForCausalLM.from_quantized(str(folder), **CPU_ARGUMENTS)
    except (ImportError, UnboundLocalError, NotImplementedError) as error:
        return str(error)
    return ""


def with_upper_case_version(folder: Path, target: Path) -> Path:
    linked_folder(folder, target, ["config.json"])
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = "GEMM"
    (target / "config.json").write_text(json.dumps(config))
    return target


def without_a_tensor(folder: Path, target: Path) -> Path:
    linked_folder(folder, target, ["model.safetensors"])
    weights = load_file(folder / "model.safetensors")
    del weights[MISSING_TENSOR]
    save_file(weights, target / "model.safetensors")
    return target


if __name__ == "__main__":
    main()
