"""Reads GPTQ weights into a model that auto-gptq has laid out, and holds that every one of them is there and fits.

The model's parameters have no memory before (they are on "meta"); each tensor is put where the `device_map` says. A
layer of auto-gptq's takes `qweight`, `qzeros` and `scales`; its `g_idx`, which group each input belongs to, counts up
unless the file says otherwise, and a `bias` is there only if the file has one.
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

Places = Mapping[str, Any]
"""accelerate's device map: where each part of the model goes."""

_PICKLED = (".pt", ".bin")


def read_into(
    model: Any,
    *,
    checkpoint: str,
    device_map: Places,
    dtype: torch.dtype,
    folder: Path | None,
    advance: Callable[[float], None],
    **_as_accelerate: object,
) -> None:
    """Called in the place of accelerate's `load_checkpoint_in_model`; what is to stay on disk goes to `folder`.

    ValueError for what is missing, does not fit, or would not be used."""
    if "disk" in device_map.values() and folder is None:
        raise ValueError("please pass along an `offload_folder`")  # as accelerate says it
    model.tie_weights()  # those on "meta" were each made anew
    filling = _Filling(model, device_map, folder)
    files = list(_files(Path(checkpoint)))
    done, total = 0, sum(file.stat().st_size for file in files)
    for file in files:
        for name, value in _tensors(file):
            done += value.numel() * value.element_size()
            advance(min(done / total, 1.0))
            # A copy of the few that are used as they are: the file is mapped until all that was read is replaced.
            filling.take(name, value.to(dtype, copy=True) if value.is_floating_point() else value)
    filling.finish()


def placed(model: Any, device_map: Places, *, usual: Callable[..., Any], folder: Path | None) -> Any:
    """Called in the place of auto-gptq's `simple_dispatch_model`, the `usual`, which knows no disk."""
    if "disk" not in device_map.values():
        return usual(model, device_map)
    return accelerate.dispatch_model(model, dict(device_map), offload_dir=str(folder), offload_buffers=True)


# -- the files ---------------------------------------------------------------------------------------------------------


def _files(checkpoint: Path) -> Iterator[Path]:
    if checkpoint.suffix != ".json":
        yield checkpoint
        return
    index = json.loads(checkpoint.read_text(encoding="utf-8"))
    yield from (checkpoint.parent / name for name in sorted(set(index["weight_map"].values())))


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """A pickle is opened for weights only, whatever the environment says."""
    if file.suffix in _PICKLED:
        yield from torch.load(file, map_location="cpu", weights_only=True).items()
        return
    with safe_open(os.fspath(file), framework="pt") as opened:
        names: list[str] = opened.keys()
        for name in names:
            yield name, opened.get_tensor(name)


# -- the model ---------------------------------------------------------------------------------------------------------


class _Filling:
    """Puts tensors into `model`, and knows which it still lacks."""

    def __init__(self, model: Any, places: Places, folder: Path | None) -> None:
        self._model, self._places, self._folder = model, places, folder
        self._wanted: dict[str, Tensor] = model.state_dict()
        self._lacks = set(self._wanted)
        self._index: dict[str, Any] = {}  # of what is on disk
        self._tied: list[list[str]] = find_tied_parameters(model)

    def take(self, name: str, value: Tensor) -> None:
        if name not in self._wanted:
            # Old files hold tables that are computed today; but packed weights are part of the model.
            if name.endswith(".qweight"):
                raise ValueError(f"tensor '{name}' is quantized, which auto-gptq does not expect")
            return
        self._check_fits(name, value)
        if name.endswith(".g_idx") and not value.any():
            return  # one group, or groups that count up: so do those that are not there
        self._put(name, value)

    def finish(self) -> None:
        """Give layers that lack what they can do without their usual. ValueError if more is missing."""
        own = _parameters_before(self._model)
        for name in sorted(self._lacks):
            layer, kind = self._layer(name), name.rpartition(".")[2]
            if not hasattr(layer, "qweight"):
                continue
            if kind == "g_idx":
                self._put(name, _usual_groups(layer))
            elif kind == "bias" and name not in own:
                layer.bias = None
                self._lacks.discard(name)
        retie_parameters(self._model, self._tied)
        if self._lacks:
            missing = sorted(self._lacks)
            raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")
        save_offload_index(self._index, self._folder)

    def _put(self, name: str, value: Tensor) -> None:
        """There, and under the other names of the same weights, for each of which there may be another place."""
        same = next((group for group in self._tied if name in group), [name])
        for each in same:
            place = _place(each, self._places)
            if place == "disk":
                self._index = offload_weight(value, each, str(self._folder), self._index)
            elif each == name or _place(name, self._places) == "disk":
                set_module_tensor_to_device(self._model, each, place, value, dtype=value.dtype)
        self._lacks.difference_update(same)

    def _layer(self, name: str) -> Any:
        return self._model.get_submodule(name.rpartition(".")[0])

    def _check_fits(self, name: str, value: Tensor) -> None:
        """Also that a layer which takes no notice of the groups' order need not."""
        layer, wanted = self._layer(name), self._wanted[name]
        packed, what = hasattr(layer, "qweight"), f"its shape is {list(value.shape)}, not {list(wanted.shape)}"
        fits = value.shape == wanted.shape
        if fits and packed and name.endswith(".g_idx") and layer.QUANT_TYPE == "cuda-old" and value.any():
            fits, what = torch.equal(value, _usual_groups(layer).to(value.dtype)), "its groups are others"
            if not torch.equal(value, value.sort().values):
                raise ValueError(f"tensor '{name}' is in act-order")
        if not fits and packed:
            asked = f"{layer.bits} bits in groups of {layer.group_size}"
            raise ValueError(f"tensor '{name}' is packed otherwise than {asked}: {what}")
        if not fits:
            raise ValueError(f"tensor '{name}' has wrong shape: {what}")


def _parameters_before(model: Any) -> set[str]:
    """By name, those of the model before auto-gptq gave every layer a bias."""
    with accelerate.init_empty_weights():
        return {name for name, _ in type(model)(model.config).named_parameters()}


def _place(name: str, places: Places) -> Any:
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places[name]


def _usual_groups(layer: Any) -> Tensor:
    places = torch.arange(layer.infeatures, dtype=torch.int32)
    return places.div(layer.group_size, rounding_mode="floor")
