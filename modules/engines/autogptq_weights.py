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

_OPTIONAL = (".g_idx", ".bias")


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
    tied = find_tied_parameters(model)
    wanted, index = model.state_dict(), dict[str, Any]()
    files = list(_files(Path(checkpoint)))
    left = set(wanted)
    done, total = 0, sum(file.stat().st_size for file in files)
    for file in files:
        for name, value in _tensors(file):
            done += value.numel() * value.element_size()
            advance(min(done / total, 1.0))
            if name not in wanted:
                _check_needless(name)
                continue
            _check_fits(name, value, wanted[name])
            # A copy of the few that are used as they are: the file is mapped until all that was read is replaced.
            value = value.to(dtype, copy=True) if value.is_floating_point() else value
            place = _place(name, device_map)
            if place == "disk":
                index = offload_weight(value, name, str(folder), index)
            else:
                set_module_tensor_to_device(model, name, place, value, dtype=value.dtype)
            left.discard(name)
    retie_parameters(model, tied)
    left -= {name for group in tied if any(each not in left for each in group) for name in group}
    _leave_out(model, left, device_map)
    if left:
        missing = sorted(left)
        raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")
    save_offload_index(index, folder)


def placed(model: Any, device_map: Places, *, usual: Callable[..., Any], folder: Path | None) -> Any:
    """Called in the place of auto-gptq's `simple_dispatch_model`, the `usual`, which knows no disk."""
    if "disk" not in device_map.values():
        return usual(model, device_map)
    return accelerate.dispatch_model(model, dict(device_map), offload_dir=str(folder), offload_buffers=True)


def _files(checkpoint: Path) -> Iterator[Path]:
    if checkpoint.suffix != ".json":
        yield checkpoint
        return
    index = json.loads(checkpoint.read_text(encoding="utf-8"))
    yield from (checkpoint.parent / name for name in sorted(set(index["weight_map"].values())))


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """A pickle is opened for weights only, whatever the environment says."""
    if file.suffix == ".safetensors":
        with safe_open(os.fspath(file), framework="pt") as opened:
            names: list[str] = opened.keys()
            for name in names:
                yield name, opened.get_tensor(name)
        return
    yield from torch.load(file, map_location="cpu", weights_only=True).items()


def _place(name: str, device_map: Places) -> Any:
    while name and name not in device_map:
        name = name.rpartition(".")[0]
    return device_map[name]


def _check_needless(name: str) -> None:
    """Old files hold tables that are computed today; but packed weights that nobody wants are part of the model."""
    if name.endswith(".qweight"):
        raise ValueError(f"the tensor '{name}' is quantized, and auto-gptq does not expect that")


def _check_fits(name: str, value: Tensor, wanted: Tensor) -> None:
    if value.shape != wanted.shape:
        raise ValueError(f"the tensor '{name}' is of the shape {list(value.shape)}, not {list(wanted.shape)}")


def _leave_out(model: Any, left: set[str], device_map: Places) -> None:
    """Give layers that lack what they can do without their usual, and take that out of `left`."""
    for name in [name for name in left if name.endswith(_OPTIONAL)]:
        owner, _, kind = name.rpartition(".")
        layer = model.get_submodule(owner)
        if not hasattr(layer, "qweight"):
            continue
        left.discard(name)
        if kind == "bias":
            layer.bias = None
        else:
            order = torch.arange(layer.infeatures, dtype=torch.int32) // layer.group_size
            layer.g_idx = order.to(_place(name, device_map))
