"""The demo model in the formats of GPTQ and AWQ, and dequantised again: made from its folder in bfloat16.

Each weight is rounded to the nearest of 16 levels, which no calibration has placed: the formats are the real ones, the
quality is not. The scales are such that bfloat16 holds them, so that whoever calculates in it has the very same ones.

GPTQ packs eight rows of the transposed weight into an int32, lowest bits first, and stores zero points less one; here
they are all 8 (symmetric). AWQ packs eight columns, in the order that its kernels read them, with zero points.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.hf_folder import CACHE, bfloat16, write_safetensors

GROUP = 64  # the hidden size of 576 is no multiple of 128
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIGS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "sym": True, "desc_act": False, "checkpoint_format": "gptq"},
    "awq": {"quant_method": "awq", "zero_point": True, "version": "gemm"},
}
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Tensors = dict[str, NDArray[Any]]


def quantised_folder(source: Path, method: str) -> Path:
    """The folder of `source`'s weights by `method`, "gptq" or "awq". Beside it lies `plain`, the same dequantised.

    Made now, if this version of this script has not made it before; outside the repository.
    """
    made_from = hashlib.sha256(Path(__file__).read_bytes() + str(source).encode())
    folder = CACHE / made_from.hexdigest()[:12] / method
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as part:
            _convert(source, Path(part) / "whole", method)
            (Path(part) / "whole").rename(folder)
    return folder / "quantised"


def plain(folder: Path) -> Path:
    """What `quantised_folder` has put beside it."""
    return folder.parent / "plain"


def _convert(source: Path, folder: Path, method: str) -> None:
    config = json.loads((source / "config.json").read_text())
    packed: Tensors = {}
    dequantised: Tensors = {}
    for name, raw in read_safetensors(source / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            packed[name] = dequantised[name] = raw
            continue
        rounded = rounded_to_nearest(_floats(raw), symmetric=method == "gptq")
        for kind, array in (_gptq if method == "gptq" else _awq)(rounded).items():
            packed[f"{name.removesuffix('weight')}{kind}"] = array
        dequantised[name] = rounded.weight
    quantised = config | {"quantization_config": {**CONFIGS[method], "bits": 4, "group_size": GROUP}}
    _write(source, folder / "quantised", quantised, packed)
    _write(source, folder / "plain", config, dequantised)


def _write(source: Path, folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)


# -- rounding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounded:
    """A weight of shape (outputs, inputs) in levels of 0 to 15; `scales` and `zeros` are (outputs, groups)."""

    levels: Ints
    scales: Floats
    zeros: Ints

    @property
    def weight(self) -> Floats:
        """(outputs, inputs)"""
        steps = self.levels.reshape(*self.scales.shape, GROUP) - self.zeros[..., None]
        return (steps * self.scales[..., None]).reshape(self.levels.shape).astype(np.float32)


def rounded_to_nearest(weight: Floats, symmetric: bool) -> Rounded:
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    spread = np.abs(groups).max(-1) / 7.5 if symmetric else (high - low) / 15
    scales = _bfloat16_floats(np.maximum(spread, 2**-14))  # what float16 holds exactly, too
    zeros = np.full(scales.shape, 8) if symmetric else np.clip(np.rint(-low / scales), 0, 15)
    levels = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, 15)
    return Rounded(levels.reshape(weight.shape).astype(np.int32), scales, zeros.astype(np.int32))


# -- packing -----------------------------------------------------------------------------------------------------------


def _gptq(rounded: Rounded) -> Tensors:
    inputs = rounded.levels.shape[1]
    return {
        "qweight": _eights(rounded.levels.T, axis=0),
        "qzeros": _eights(rounded.zeros.T - 1, axis=1),
        "scales": np.ascontiguousarray(rounded.scales.T, np.float16),
        "g_idx": np.arange(inputs, dtype=np.int32) // GROUP,
    }


def _awq(rounded: Rounded) -> Tensors:
    return {
        "qweight": _eights(_reordered(rounded.levels.T), axis=1),
        "qzeros": _eights(_reordered(rounded.zeros.T), axis=1),
        "scales": np.ascontiguousarray(rounded.scales.T, np.float16),
    }


def _reordered(levels: Ints) -> Ints:
    return levels.reshape(len(levels), -1, 8)[..., AWQ_ORDER].reshape(levels.shape)


def _eights(levels: Ints, axis: int) -> Ints:
    """Eight neighbours along `axis` in one int32, the first in the lowest bits."""
    moved = np.moveaxis(levels, axis, -1).astype(np.uint32)
    parts = moved.reshape(*moved.shape[:-1], -1, 8) << (4 * np.arange(8, dtype=np.uint32))
    whole = np.bitwise_or.reduce(parts, axis=-1)
    return np.ascontiguousarray(np.moveaxis(whole, -1, axis)).view(np.int32)


# -- unpacking: as the formats' descriptions say, to check the above ---------------------------------------------------


def dequantised(tensors: Tensors, name: str, method: str) -> Floats:
    """The weight `name` of a folder packed by `method`, (outputs, inputs)."""
    words = {kind: tensors[f"{name}.{kind}"] for kind in ("qweight", "qzeros")}
    scales = tensors[f"{name}.scales"].astype(np.float32)
    if method == "gptq":
        levels, zeros = _nibbles(words["qweight"].T).T, _nibbles(words["qzeros"]) + 1
        group = tensors[f"{name}.g_idx"]
    else:
        levels, zeros = (_in_order(_nibbles(words[kind])) for kind in ("qweight", "qzeros"))
        group = np.arange(len(levels)) // GROUP
    return np.ascontiguousarray(((levels - zeros[group]) * scales[group]).T, np.float32)


def _nibbles(words: Ints) -> Ints:
    """(rows, 8 n) out of (rows, n)"""
    return np.stack([words >> (4 * place) & 15 for place in range(8)], axis=-1).reshape(len(words), -1)


def _in_order(levels: Ints) -> Ints:
    back = np.argsort(AWQ_ORDER)
    return levels.reshape(len(levels), -1, 8)[..., back].reshape(levels.shape)


# -- safetensors -------------------------------------------------------------------------------------------------------

_NUMPY = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "I32": "<i4"}


def read_safetensors(path: Path) -> Tensors:
    """Every tensor by its name; bfloat16 as the 16 bits it is."""
    return dict(_read(path))


def _read(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(size))
        for name, about in head.items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                file.seek(8 + size + begin)
                yield name, np.frombuffer(file.read(end - begin), _NUMPY[about["dtype"]]).reshape(about["shape"])


def _floats(bits: NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _bfloat16_floats(array: Floats) -> Floats:
    return _floats(bfloat16(array))
