"""LoRAs on a model of transformers, through PEFT's layers: any number at once, of any ranks, every one with its weight.

PEFT's layers replace the model's own only while a LoRA is active; every one adds to the output of the layer it wraps,
whose weights are never written to. Removing LoRAs puts the model's own layers back: the model is then the same as
before, bit for bit, and as fast.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import itertools
import json
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from modules.engines.hf.model import Model
from modules.engines.lora_set import PROBE
from modules.formats.peft_features import (
    FEATURES,
    PEFT,
    is_own_tensor,
    unsupported_features,
    used_features,
    without_adapter_name,
)

try:
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers as _convert
except ImportError:  # a PEFT from before transformers 5, which renames and merges weights
    _convert = None  # type: ignore[assignment]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_IGNORED_KEYS = {"peft_version", "qalora_group_size", "ensure_weight_tying", "runtime_config"}
"""Written by newer versions of PEFT, and without an effect by themselves in older ones."""


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter that was read: its PEFT config and its tensors by name, in the dtype that the model computes in."""

    config: Any
    tensors: Mapping[str, Tensor]


class PeftAdapters:
    """The `AdapterBackend` of a transformers model, whose context is `context` tokens.

    `forget` drops the caches computed before a change.
    """

    def __init__(self, model: Model, context: int, forget: Callable[[], None]) -> None:
        self._model, self._context, self._forget = model, context, forget
        self._module: Any = model.module
        self._original_modules: dict[str, Any] = {}  # by name, while PEFT's layers replace some of them

    def open(self, path: Path) -> Lora:
        """Read a PEFT folder. Raises ValueError if this model or PEFT cannot use it."""
        if not path.is_dir():
            raise ValueError("a GGUF adapter can be used with GGUF models only")
        config = _read_config(path / _CONFIG)
        return Lora(config, self._read_tensors(path / _WEIGHTS))

    def _read_tensors(self, path: Path) -> dict[str, Tensor]:
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is damaged: {error}") from error
        for name in [name for name in tensors if not is_own_tensor(name)]:
            if not self._equals_own(name, tensors.pop(name)):
                raise ValueError(f"the tensor {name} is neither A nor B of a module")
        # Copied, as the file is mapped into memory and its tensors would change with it.
        dtype = _compute_dtype(self._module)
        return {without_adapter_name(name): tensor.to(dtype, copy=True) for name, tensor in tensors.items()}

    def _equals_own(self, name: str, tensor: Tensor) -> bool:
        """Return whether `tensor` is a weight of the model itself: PEFT also saves embeddings that are targets."""
        parameter = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        try:
            own = self._module.get_parameter(parameter)
        except AttributeError:
            return False
        is_comparable = own.shape == tensor.shape and own.device.type != "meta"
        return is_comparable and torch.equal(own.cpu(), tensor.to(own.dtype))

    def close(self, handle: Lora) -> None:
        """Do nothing: an adapter holds only memory, which is freed with its last reference."""

    def activate(self, adapters: Sequence[tuple[Lora, float]]) -> None:
        """Activate these adapters, with their weights, and no others.

        Raises ValueError with the name of the first tensor that does not fit; then no adapter is active.
        """
        self._forget()
        self._restore_modules()
        if not adapters:
            return
        self._original_modules = dict(self._module.named_modules())
        with contextlib.ExitStack() as undo:
            undo.callback(self._restore_modules)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # `_fill` raises for everything that PEFT warns about
                self._inject(adapters)
            undo.pop_all()

    def _inject(self, adapters: Sequence[tuple[Lora, float]]) -> None:
        """Replace the targeted layers of the model by PEFT's."""
        named = {f"adapter{number}": pair for number, pair in enumerate(adapters)}
        tuner: Any = None
        for name, (lora, _) in named.items():
            config = copy.deepcopy(lora.config)  # PEFT writes into it
            config._register_custom_module(_foreign_linear_layers(self._module))
            if tuner is None:
                tuner = peft.LoraModel(self._module, config, name, low_cpu_mem_usage=True)
            else:
                tuner.peft_config[name] = config
                tuner.inject_adapter(self._module, name, low_cpu_mem_usage=True)
            _fill(self._module, name, lora)
        arguments = {"inference_mode": True} if _has_inference_mode(tuner) else {}
        tuner.set_adapter(list(named), **arguments)
        for layer in _lora_layers(self._module).values():
            for name, (_, weight) in named.items():
                layer.set_scale(name, weight)
        self._module.eval()  # new layers are in training mode, in which dropout is active

    def _restore_modules(self) -> None:
        for name in [name for name, module in self._module.named_modules() if isinstance(module, BaseTunerLayer)]:
            if name in self._original_modules:
                self._module.set_submodule(name, self._original_modules[name])
        self._original_modules = {}
        if hasattr(self._module, "peft_config"):
            del self._module.peft_config

    def probe(self) -> NDArray[np.float32]:
        model = self._model
        tokens = model.encode(PROBE)[: self._context - 1]
        encoder_output = model.run_encoder(tokens) if model.is_encoder_decoder else None
        if encoder_output is not None:
            tokens = [model.decoder_start_token, *tokens]
        logits = model.forward(tokens, model.new_cache(), encoder_output, len(tokens))
        array: NDArray[np.float32] = logits.cpu().numpy()
        return array


def _read_config(path: Path) -> Any:
    """Return the PEFT config. Raises ValueError if it asks for what cannot be applied, weighted and undone."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ValueError(f"this is an adapter of the type {config.get('peft_type')}; only LORA is supported")
    unsupported = unsupported_features(used_features(config), PEFT)
    if "init_lora_weights" in unsupported:
        raise ValueError(
            "its training started by changing the model's own weights "
            f"(init_lora_weights={config['init_lora_weights']}); "
            "PEFT's save_pretrained can convert it with path_initial_model_for_weight_conversion"
        )
    if known := [key for key in unsupported if key in FEATURES]:
        raise ValueError(f"it uses {known[0]}, which changes more than A and B")
    supported = {field.name for field in dataclasses.fields(peft.LoraConfig)} | _IGNORED_KEYS
    unknown = [key for key, value in config.items() if value and key not in supported]
    if refused := [*unsupported, *unknown]:
        raise ValueError(f"it uses {refused[0]}, which PEFT {peft.__version__} does not support")
    lora_config = peft.LoraConfig.from_pretrained(str(path.parent))
    lora_config.init_lora_weights, lora_config.inference_mode = False, True
    return lora_config


def _has_inference_mode(tuner: Any) -> bool:
    """Return whether `set_adapter` takes it. PEFT 0.15, of the overlay for old packages, does not."""
    return "inference_mode" in inspect.signature(tuner.set_adapter).parameters


def _foreign_linear_layers(module: Any) -> dict[Any, Any]:
    """Map linear layers unknown to PEFT to its own: quantized ones that name their sizes as auto-gptq does."""
    classes = {type(child) for child in module.modules() if hasattr(child, "infeatures") and hasattr(child, "qweight")}
    return dict.fromkeys(classes, peft.tuners.lora.Linear)


def _compute_dtype(module: Any) -> torch.dtype:
    """Return the dtype of the activations."""
    dtype: torch.dtype = next(parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return dtype


def _lora_layers(module: Any) -> dict[str, Any]:
    return {name: child for name, child in module.named_modules() if isinstance(child, LoraLayer)}


def _fill(module: Any, adapter: str, lora: Lora) -> None:
    """Fill the new layers' empty parameters. Raises ValueError with the name of the first tensor that does not fit.

    PEFT's own function asks the module for its `state_dict`, which ruins 4-bit weights on the CPU: bitsandbytes
    dequantizes them for it, and loses the scales. It also puts an adapter on the device of its layer's weights, which
    may be the meta device.
    """
    config = module.peft_config[adapter]
    remaining = dict(lora.tensors)
    if _convert is not None:
        remaining = _convert(module, config, remaining, adapter)
    modules = {name for name, _ in module.named_modules()}
    remaining = {_name_in_model(name.removeprefix(_PREFIX), modules): tensor for name, tensor in remaining.items()}
    for path, layer in _lora_layers(module).items():
        device = _compute_device(layer.get_base_layer())
        for key, empty in list(layer.named_parameters()):
            if adapter in key.split(".") and not key.startswith("base_layer."):
                value = _take_tensor(remaining, _name_in_file(f"{path}.{key}", adapter), empty.shape)
                owner, _, name = key.rpartition(".")
                setattr(layer.get_submodule(owner), name, torch.nn.Parameter(value.to(device), requires_grad=False))
    if remaining:
        raise ValueError(f"the model has no module for the tensor {_PREFIX}{next(iter(remaining))}")


def _name_in_model(name: str, modules: Container[str]) -> str:
    """Add the "model." that a LoRA lacks if it was trained on the model without its output layer."""
    owner = name.partition(".lora_")[0]
    return f"model.{name}" if owner not in modules and f"model.{owner}" in modules else name


def _take_tensor(remaining: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    value = remaining.pop(name, None)
    if value is None:
        raise ValueError(f"the tensor {_PREFIX}{name} is missing")
    if value.shape != shape:
        raise ValueError(
            f"the tensor {_PREFIX}{name} has the shape {list(value.shape)}, and the model needs {list(shape)}"
        )
    return value


def _compute_device(layer: Any) -> torch.device:
    """Return the device on which `layer` computes; offloaded weights are elsewhere until then."""
    weights = next(itertools.chain(layer.parameters(), layer.buffers()))  # quantized ones may have no parameters
    return torch.device(layer._hf_hook.execution_device) if weights.device.type == "meta" else weights.device


def _name_in_file(key: str, adapter: str) -> str:
    name = ".".join(part for part in key.split(".") if part != adapter)
    return name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name
