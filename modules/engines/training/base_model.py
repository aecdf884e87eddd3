"""Load the base model of a run, add the adapter to train, and check that gradients reach all of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors.torch import load_file

from modules.core.events import Json
from modules.core.training_errors import NoGradient, TrainingFailed
from modules.engines.hf.arguments import (
    TOKENIZER,
    Environment,
    ModelConfig,
    model_call,
    runs_on_cpu,
    uses_gptqmodel_on_cpu,
)
from modules.engines.hf.build import torch_environment
from modules.engines.hf.environment import likely_environment
from modules.engines.hf.gptqmodel import disable_compilation
from modules.engines.hf.model import progress_of_weights, python_arguments
from modules.engines.hf.model_folder import folder_for_transformers, in_folder
from modules.engines.training.arguments import base_calls, choose_targets, load_options, lora_arguments
from modules.engines.training.job import TrainingJob
from modules.engines.training.tokenizer import load_tokenizer
from modules.system import gpus

ADAPTER = "default"


class BaseModel:
    """A loaded base model: the `module`, its `tokenizer`, and the `dtype` that it computes in."""

    def __init__(self, job: TrainingJob, advance: Callable[[float], None]) -> None:
        config = ModelConfig(job.base)
        options = load_options(job.parameters, job.options, config.quantization_method)
        environment = _environment(bool(options["cpu"]))
        self.on_cpu = runs_on_cpu(options, environment.gpus)
        if uses_gptqmodel_on_cpu(config, options, environment):
            disable_compilation()
        gpu_has_bf16 = not self.on_cpu and torch.cuda.is_bf16_supported()
        weights = str(job.parameters["base_weights"])
        calls = in_folder(
            base_calls(job.base, options, weights, environment, gpu_has_bf16), folder_for_transformers(job.base)
        )
        name, args = model_call(calls)
        self.dtype = str(args["dtype"])
        self.kernel = str(args.get("quantization_config", {}).get("backend", ""))
        self.tokenizer = load_tokenizer(calls[TOKENIZER], job.name)
        with progress_of_weights(advance):
            self.module: Any = getattr(transformers, name).from_pretrained(**python_arguments(args))
        self.module.config.use_cache = False
        _keep_4bit_weights_unpacked(self.module)

    def add_adapter(self, job: TrainingJob) -> Any:
        """Return the model with a new adapter, or the one that the job starts from, as PEFT's model."""
        if job.adapter is not None:
            return peft.PeftModel.from_pretrained(self.module, str(job.adapter), ADAPTER, is_trainable=True)
        arguments = lora_arguments(job.parameters, self._targets(job.parameters))
        return peft.get_peft_model(self.module, peft.LoraConfig(**arguments), ADAPTER)

    def _targets(self, parameters: Mapping[str, Json]) -> list[str]:
        """Return the names of the layers to train: by their last part, or whole if others are called the same."""
        blocks = _blocks(self.module)
        linear = {name for name, layer in self.module.named_modules() if _is_linear(layer)}
        inside = {name for name in linear if name.startswith(blocks)}
        chosen = set(choose_targets(parameters, {name.rpartition(".")[2] for name in inside}))
        whole = {name for name in inside if name.rpartition(".")[2] in chosen}
        outside = {name.rpartition(".")[2] for name in linear - inside}
        return sorted(whole if chosen & outside else chosen)


def _environment(cpu: bool) -> Environment:
    if not cpu:
        return torch_environment()
    environment = likely_environment()
    gpus.hide_gpus()
    return environment


def _blocks(module: Any) -> str:
    """Return the beginning of the names of everything in the transformer blocks: the longest list of modules."""
    lists = {name: len(child) for name, child in module.named_modules() if isinstance(child, torch.nn.ModuleList)}
    if not lists:
        raise TrainingFailed("the model has no list of transformer blocks")
    return f"{max(lists, key=lambda name: lists[name])}."


def _is_linear(layer: object) -> bool:
    """Whether PEFT can train a layer: torch's linear layers, bitsandbytes', GPT-2's, and packed ones."""
    return isinstance(layer, torch.nn.Linear) or type(layer).__name__ == "Conv1D" or hasattr(layer, "qweight")


def _keep_4bit_weights_unpacked(module: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at a forward pass without gradients, as it does on some CPUs.

    The repacked weights give no gradients any more.
    """
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def trained_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors by their names in the model.

    The whole state of the model is never asked for: bitsandbytes would dequantize its weights for it.
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def check_gradients(model: Any) -> None:
    """Raise NoGradient unless the gradient of every B is finite and not all 0."""
    bad = [name for name, weight in trained_tensors(model).items() if ".lora_B." in name and not _is_sound(weight.grad)]
    if bad:
        count = sum(".lora_B." in name for name in trained_tensors(model))
        names = [name.removeprefix("base_model.model.").partition(".lora_B.")[0] for name in bad]
        raise NoGradient(", ".join(names[:3]), len(bad), count)


def has_overflow(model: Any) -> bool:
    """Whether a gradient is infinite or not a number, as float16 gives with too large a scale."""
    gradients = (weight.grad for weight in trained_tensors(model).values() if weight.grad is not None)
    return not all(bool(gradient.isfinite().all()) for gradient in gradients)


def _is_sound(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


def check_file(model: Any, folder: Path) -> None:
    """Raise TrainingFailed unless the adapter's file in `folder` holds the tensors of `model`."""
    stored = load_file(folder / "adapter_model.safetensors")
    tensors = {_name_in_file(name): weight for name, weight in trained_tensors(model).items()}
    if stored.keys() != tensors.keys():
        raise TrainingFailed(f"the file of the adapter has {len(stored)} tensors, the adapter {len(tensors)}")
    for name, weight in tensors.items():
        if not torch.equal(stored[name], weight.detach().cpu()):
            raise TrainingFailed(f"the file of the adapter has another content: {name}")


def _name_in_file(name: str) -> str:
    name = name.replace(f".{ADAPTER}", "")
    return name.removesuffix(".weight") if name.endswith(".lora_magnitude_vector.weight") else name


def effect(model: Any, tokens: list[int]) -> float:
    """Return the largest change of a logit by the adapter, for a test prompt."""
    ids = torch.tensor([tokens], device=model.device)
    with evaluating(model):
        changed = model(input_ids=ids, use_cache=False).logits.float()
        with model.disable_adapter():
            base = model(input_ids=ids, use_cache=False).logits.float()
    largest = float((changed - base).abs().max())
    return largest if math.isfinite(largest) else math.nan


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Turn off dropout and gradients."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()
