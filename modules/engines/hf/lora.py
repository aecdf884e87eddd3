"""LoRAs on a model of transformers, through PEFT's layers: any number at once, of any ranks, each with its weight.

PEFT's layers stand in the place of the model's own only while a LoRA is in force; each adds to what the layer behind it
computes, whose weights are never written to. To take LoRAs out is to put the model's layers back where they were: it
is then what it was, bit for bit, and as fast.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import itertools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
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

try:
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers as _convert
except ImportError:  # PEFT of before transformers 5, which renames and joins weights
    _convert = None  # type: ignore[assignment]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MARK = ".lora_"  # in the name of every tensor that is an adapter's own
_REFUSED = (
    *("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication", "megatron_config"),
    *("alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"),
)
"""What PEFT does in ways that cannot be weighted, added up or taken back."""
_HARMLESS = {"peft_version", "qalora_group_size", "ensure_weight_tying", "runtime_config"}
"""What newer versions of PEFT write, and older ones can do without: it changes nothing by itself."""
_HARMLESS_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Of a training, as `init_lora_weights` names them. All others begin by changing the model's own weights."""


@dataclass(frozen=True, eq=False)
class Lora:
    """`tensors` by their names in the file, in the type that the model computes in."""

    config: Any
    tensors: Mapping[str, Tensor]


class HfAdapters:
    """`context` is how many tokens the model can read; `forget` drops what was computed before."""

    def __init__(self, model: Model, context: int, forget: Callable[[], None]) -> None:
        self._model, self._context, self._forget = model, context, forget
        self._module: Any = model.module
        self._own: dict[str, Any] = {}  # all the model's modules, while PEFT's may stand in the place of some

    def open(self, path: Path) -> Lora:
        """ValueError, in words, for what cannot be used here."""
        if not path.is_dir():
            raise ValueError("a GGUF adapter can be used with GGUF models only")
        config = _config(path / _CONFIG)
        return Lora(config, self._read(path / _WEIGHTS))

    def _read(self, path: Path) -> dict[str, Tensor]:
        try:
            read = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is damaged: {error}") from error
        for name in [name for name in read if _MARK not in name]:
            if not self._is_own(name, read.pop(name)):
                raise ValueError(f"the tensor {name} is neither A nor B of a module")
        # A copy: the file is mapped into memory, and what it holds would change with it.
        return {name: each.to(_computes_in(self._module), copy=True) for name, each in read.items()}

    def _is_own(self, name: str, tensor: Tensor) -> bool:
        """PEFT saves the model's embeddings too if they are among the targets."""
        parts = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        try:
            own = self._module.get_parameter(parts)
        except AttributeError:
            return False
        known = own.shape == tensor.shape and own.device.type != "meta"
        return known and torch.equal(own.cpu(), tensor.to(own.dtype))

    def close(self, handle: Lora) -> None:
        """Nothing but memory is held, which goes with the last one that knows `handle`."""

    def put(self, wanted: Sequence[tuple[Lora, float]]) -> None:
        """ValueError names the first tensor that does not fit; then no adapter is in force."""
        self._forget()
        self._take_out()
        if not wanted:
            return
        self._own = dict(self._module.named_modules())
        with contextlib.ExitStack() as undoing:
            undoing.callback(self._take_out)
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # all that is amiss is an error below
                self._put_in(wanted)
            undoing.pop_all()

    def _put_in(self, wanted: Sequence[tuple[Lora, float]]) -> None:
        named = {f"adapter{number}": each for number, each in enumerate(wanted)}
        tuner: Any = None
        for name, (lora, _) in named.items():
            config = copy.deepcopy(lora.config)  # PEFT writes into it
            config._register_custom_module(_foreign_layers(self._module))
            if tuner is None:
                tuner = peft.LoraModel(self._module, config, name, low_cpu_mem_usage=True)
            else:
                tuner.peft_config[name] = config
                tuner.inject_adapter(self._module, name, low_cpu_mem_usage=True)
            _fill(self._module, name, lora)
        words = {"inference_mode": True} if _knows_inference(tuner) else {}
        tuner.set_adapter(list(named), **words)
        for layer in _layers(self._module).values():
            for name, (_, weight) in named.items():
                layer.set_scale(name, weight)
        self._module.eval()  # new layers are made for training, and would drop out some of their input

    def _take_out(self) -> None:
        for name in [name for name, each in self._module.named_modules() if isinstance(each, BaseTunerLayer)]:
            if name in self._own:
                self._module.set_submodule(name, self._own[name])
        self._own = {}
        if hasattr(self._module, "peft_config"):
            del self._module.peft_config

    def probe(self) -> NDArray[np.float32]:
        model = self._model
        tokens = model.encode(PROBE)[: self._context - 1]
        source = model.read(tokens) if model.writes_apart else None
        if source is not None:
            tokens = [model.first_written, *tokens]
        logits: NDArray[np.float32] = model.forward(tokens, model.fresh(), source, len(tokens)).cpu().numpy()
        return logits


def _config(path: Path) -> Any:
    said = json.loads(path.read_text(encoding="utf-8"))
    if said.get("peft_type") != "LORA":
        raise ValueError(f"this is an adapter of the kind {said.get('peft_type')}; only LORA can be used")
    beyond = [key for key in _REFUSED if said.get(key)]
    if said.get("bias", "none") not in (None, "none"):
        beyond.append("bias")
    if beyond:
        raise ValueError(f"it asks for {beyond[0]}, which is more than A and B")
    if said.get("init_lora_weights") not in _HARMLESS_BEGINNINGS:
        raise ValueError(
            f"its training began by changing the model's own weights (init_lora_weights={said['init_lora_weights']}); "
            "PEFT's save_pretrained can convert it with path_initial_model_for_weight_conversion"
        )
    known = {each.name for each in dataclasses.fields(peft.LoraConfig)} | _HARMLESS
    if beyond := [key for key, value in said.items() if value and key not in known]:
        raise ValueError(f"it asks for {beyond[0]}, which PEFT {peft.__version__} does not know")
    config = peft.LoraConfig.from_pretrained(str(path.parent))
    config.init_lora_weights, config.inference_mode = False, True
    return config


def _knows_inference(tuner: Any) -> bool:
    """PEFT 0.15, of the overlay for old packages, does not."""
    return "inference_mode" in inspect.signature(tuner.set_adapter).parameters


def _foreign_layers(module: Any) -> dict[Any, Any]:
    """Classes of linear layers that PEFT does not know: quantised ones that name their sizes as auto-gptq does."""
    found = {type(each) for each in module.modules() if hasattr(each, "infeatures") and hasattr(each, "qweight")}
    return dict.fromkeys(found, peft.tuners.lora.Linear)


def _computes_in(module: Any) -> torch.dtype:
    """The type of what passes through the layers."""
    found: torch.dtype = next(each.dtype for each in module.parameters() if each.is_floating_point())
    return found


def _layers(module: Any) -> dict[str, Any]:
    return {name: each for name, each in module.named_modules() if isinstance(each, LoraLayer)}


def _fill(module: Any, adapter: str, lora: Lora) -> None:
    """Give the new layers' empty parameters their values. ValueError names the first tensor that is amiss.

    PEFT's own way asks the module for its `state_dict`, which ruins 4-bit weights on the CPU: bitsandbytes unpacks them
    for it, and loses the scales. It also puts an adapter where the weights of its layer are, which may be nowhere."""
    config = module.peft_config[adapter]
    left = dict(lora.tensors)
    if _convert is not None:
        left = _convert(module, config, left, adapter)
    left = {name.removeprefix(_PREFIX): each for name, each in left.items()}
    for place, layer in _layers(module).items():
        device = _device(layer.get_base_layer())
        for key, empty in list(layer.named_parameters()):
            if adapter in key.split(".") and not key.startswith("base_layer."):
                value = _taken(left, _in_file(f"{place}.{key}", adapter), empty.shape)
                owner, _, name = key.rpartition(".")
                setattr(layer.get_submodule(owner), name, torch.nn.Parameter(value.to(device), requires_grad=False))
    if left:
        raise ValueError(f"the model has no place for the tensor {_PREFIX}{next(iter(left))}")


def _taken(left: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    value = left.pop(name, None)
    if value is None:
        raise ValueError(f"the tensor {_PREFIX}{name} is missing")
    if value.shape != shape:
        here, there = list(value.shape), list(shape)
        raise ValueError(f"the tensor {_PREFIX}{name} is of the shape {here}, and the model takes {there}")
    return value


def _device(layer: Any) -> torch.device:
    """Where it computes; its weights may be elsewhere until then."""
    weights = next(itertools.chain(layer.parameters(), layer.buffers()))  # quantised ones may have no parameters
    return torch.device(layer._hf_hook.execution_device) if weights.device.type == "meta" else weights.device


def _in_file(key: str, adapter: str) -> str:
    name = ".".join(part for part in key.split(".") if part != adapter)
    return name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name
