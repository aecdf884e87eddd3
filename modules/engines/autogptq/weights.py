"""Read GPTQ weights into a model that auto-gptq has laid out, and check that all are there and fit.

The model's parameters have no memory before (they are on "meta"); every tensor is put where the `device_map` says. A
layer of auto-gptq's has `qweight`, `qzeros` and `scales`; its `g_idx` [inputs], the group of each input, counts up
unless the file says otherwise; and it has a `bias` only if the file has one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.utils import find_tied_parameters, offload_weight, retie_parameters, save_offload_index
from accelerate.utils.modeling import set_module_tensor_to_device
from safetensors import safe_open
from torch import Tensor

DeviceMap = Mapping[str, Any]
"""accelerate's device map: the device ("cpu", "disk", a GPU's number) of every part of the model, by its name."""

_PICKLED = (".pt", ".bin")


def load_checkpoint(
    model: Any,
    *,
    checkpoint: str,
    device_map: DeviceMap,
    dtype: torch.dtype,
    folder: Path | None,
    progress: Callable[[float], None],
    **_ignored: object,
) -> None:
    """Load all weights: a replacement of accelerate's `load_checkpoint_in_model`.

    What is to stay on disk is written to `folder`; `progress` gets the loaded fraction, 0 to 1. Raises ValueError for
    tensors that are missing, do not fit, or would not be used.
    """
    if "disk" in device_map.values() and folder is None:
        raise ValueError("please pass along an `offload_folder`")  # accelerate's own message
    model.tie_weights()  # on "meta", tied parameters were created one by one
    loader = _TensorLoader(model, device_map, folder)
    files = list(_checkpoint_files(Path(checkpoint)))
    done, total = 0, sum(file.stat().st_size for file in files)
    for file in files:
        for name, tensor in _read_tensors(file):
            done += tensor.numel() * tensor.element_size()
            progress(min(done / total, 1.0))
            # The few tensors that are used as they are get copied: a file stays mapped while a tensor of it is in use.
            loader.load(name, tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor)
    loader.finish()


def dispatch(model: Any, device_map: DeviceMap, *, simple_dispatch: Callable[..., Any], folder: Path | None) -> Any:
    """Attach accelerate's hooks: a replacement of auto-gptq's `simple_dispatch_model`, which knows no disk."""
    if "disk" not in device_map.values():
        return simple_dispatch(model, device_map)
    return accelerate.dispatch_model(model, dict(device_map), offload_dir=str(folder), offload_buffers=True)


# -- the files ---------------------------------------------------------------------------------------------------------


def _checkpoint_files(checkpoint: Path) -> Iterator[Path]:
    """Yield the weight files: `checkpoint` itself, or those that it lists if it is an index."""
    if checkpoint.suffix != ".json":
        yield checkpoint
        return
    index = json.loads(checkpoint.read_text(encoding="utf-8"))
    yield from (checkpoint.parent / name for name in sorted(set(index["weight_map"].values())))


def _read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors. A pickle is loaded with `weights_only`, whatever the environment says."""
    if file.suffix in _PICKLED:
        yield from torch.load(file, map_location="cpu", weights_only=True).items()
        return
    with safe_open(os.fspath(file), framework="pt") as opened:
        names: list[str] = opened.keys()
        for name in names:
            yield name, opened.get_tensor(name)


# -- the model ---------------------------------------------------------------------------------------------------------


class _TensorLoader:
    """Puts tensors into `model` and keeps track of those that are missing."""

    def __init__(self, model: Any, device_map: DeviceMap, folder: Path | None) -> None:
        self._model, self._device_map, self._folder = model, device_map, folder
        self._expected: dict[str, Tensor] = model.state_dict()
        self._missing = set(self._expected)
        self._offload_index: dict[str, Any] = {}
        self._tied: list[list[str]] = find_tied_parameters(model)

    def load(self, name: str, tensor: Tensor) -> None:
        if name not in self._expected:
            # Old files have buffers that are computed nowadays; packed weights, however, belong to the model.
            if name.endswith(".qweight"):
                raise ValueError(f"tensor '{name}' is quantized, which auto-gptq does not expect")
            return
        self._check(name, tensor)
        if name.endswith(".g_idx") and not tensor.any():
            return  # all zero stands for one group, or for groups that count up, as a missing one does
        self._assign(name, tensor)

    def finish(self) -> None:
        """Fill in missing `g_idx` and remove missing biases. Raises ValueError if other tensors are missing."""
        original_parameters = _parameters_of_architecture(self._model)
        for name in sorted(self._missing):
            layer, kind = self._layer(name), name.rpartition(".")[2]
            if not hasattr(layer, "qweight"):
                continue
            if kind == "g_idx":
                self._assign(name, _default_groups(layer))
            elif kind == "bias" and name not in original_parameters:
                layer.bias = None
                self._missing.discard(name)
        retie_parameters(self._model, self._tied)
        if self._missing:
            missing = sorted(self._missing)
            raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")
        save_offload_index(self._offload_index, self._folder)

    def _assign(self, name: str, tensor: Tensor) -> None:
        """Put `tensor` on its device, and so for all names tied to `name`, which may have other devices."""
        tied_names = next((group for group in self._tied if name in group), [name])
        for tied_name in tied_names:
            device = _device_of(tied_name, self._device_map)
            if device == "disk":
                self._offload_index = offload_weight(tensor, tied_name, str(self._folder), self._offload_index)
            elif tied_name == name or _device_of(name, self._device_map) == "disk":
                set_module_tensor_to_device(self._model, tied_name, device, tensor, dtype=tensor.dtype)
        self._missing.difference_update(tied_names)

    def _layer(self, name: str) -> Any:
        return self._model.get_submodule(name.rpartition(".")[0])

    def _check(self, name: str, tensor: Tensor) -> None:
        """Raise ValueError if `tensor` does not fit its layer.

        auto-gptq's "cuda-old" layers ignore `g_idx`, so theirs must be the default one.
        """
        layer, expected = self._layer(name), self._expected[name]
        is_packed, reason = hasattr(layer, "qweight"), f"its shape is {list(tensor.shape)}, not {list(expected.shape)}"
        fits = tensor.shape == expected.shape
        if fits and is_packed and name.endswith(".g_idx") and layer.QUANT_TYPE == "cuda-old" and tensor.any():
            fits, reason = torch.equal(tensor, _default_groups(layer).to(tensor.dtype)), "its groups are others"
            if not torch.equal(tensor, tensor.sort().values):
                raise ValueError(f"tensor '{name}' is in act-order")
        if not fits and is_packed:
            format_ = f"{layer.bits} bits in groups of {layer.group_size}"
            raise ValueError(f"tensor '{name}' is packed otherwise than {format_}: {reason}")
        if not fits:
            raise ValueError(f"tensor '{name}' has wrong shape: {reason}")


def _parameters_of_architecture(model: Any) -> set[str]:
    """Return the names of the parameters before auto-gptq gave every layer a bias."""
    with accelerate.init_empty_weights():
        return {name for name, _ in type(model)(model.config).named_parameters()}


def _device_of(name: str, device_map: DeviceMap) -> Any:
    while name and name not in device_map:
        name = name.rpartition(".")[0]
    return device_map[name]


def _default_groups(layer: Any) -> Tensor:
    """Return the group of each input if groups count up, shape [inputs], int32."""
    inputs = torch.arange(layer.infeatures, dtype=torch.int32)
    return inputs.div(layer.group_size, rounding_mode="floor")
