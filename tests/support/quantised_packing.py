"""Weights in levels, and the levels in the 32-bit words of GPTQ and AWQ: rounding to the nearest, packing, unpacking.

GPTQ packs the rows of the transposed weight, eight of 4 bits or four of 8 bits into an int32, lowest bits first, and
stores zero points less one; `g_idx` is the group of each input. AWQ packs eight columns, in the order that its kernels
read them, with zero points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.hf_folder import bfloat16

GROUP = 64  # the hidden size of 576 is no multiple of 128
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Rounded:
    """A weight of shape (outputs, inputs) in levels of 0 to 2**bits - 1; `scales` and `zeros` are (outputs, groups).

    `group` is that of each input: with act-order they lie scattered.
    """

    bits: int
    levels: Ints
    scales: Floats
    zeros: Ints
    group: Ints

    @property
    def weight(self) -> Floats:
        """(outputs, inputs)"""
        return ((self.levels - self.zeros[:, self.group]) * self.scales[:, self.group]).astype(np.float32)


def rounded_to_nearest(weight: Floats, bits: int, symmetric: bool) -> Rounded:
    groups, most = weight.reshape(len(weight), -1, GROUP), 2**bits - 1
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = fine_scales(np.abs(groups).max(-1) * 2 / most if symmetric else (high - low) / most)
    zeros = np.full(scales.shape, 2 ** (bits - 1)) if symmetric else np.clip(np.rint(-low / scales), 0, most)
    levels = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, most)
    in_order = np.arange(weight.shape[1], dtype=np.int32) // GROUP
    return Rounded(bits, levels.reshape(weight.shape).astype(np.int32), scales, zeros.astype(np.int32), in_order)


def fine_scales(spread: Floats) -> Floats:
    """What bfloat16 holds exactly, and float16 too: whoever calculates in them has the very same scales."""
    return floats(bfloat16(np.maximum(spread, 2**-14)))


def floats(bits: NDArray[np.uint16]) -> Floats:
    """bfloat16, which numpy does not have, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


# -- packing -----------------------------------------------------------------------------------------------------------


def gptq(rounded: Rounded) -> Tensors:
    return {
        "qweight": _packed(rounded.levels.T, rounded.bits, axis=0),
        "qzeros": _packed(rounded.zeros.T - 1, rounded.bits, axis=1),
        "scales": np.ascontiguousarray(rounded.scales.T, np.float16),
        "g_idx": rounded.group,
    }


def awq(rounded: Rounded) -> Tensors:
    return {
        "qweight": _packed(_reordered(rounded.levels.T), rounded.bits, axis=1),
        "qzeros": _packed(_reordered(rounded.zeros.T), rounded.bits, axis=1),
        "scales": np.ascontiguousarray(rounded.scales.T, np.float16),
    }


def _reordered(levels: Ints) -> Ints:
    return levels.reshape(len(levels), -1, 8)[..., AWQ_ORDER].reshape(levels.shape)


def _packed(levels: Ints, bits: int, axis: int) -> Ints:
    """As many neighbours along `axis` as an int32 holds, the first in the lowest bits."""
    moved, count = np.moveaxis(levels, axis, -1).astype(np.uint32), 32 // bits
    parts = moved.reshape(*moved.shape[:-1], -1, count) << (bits * np.arange(count, dtype=np.uint32))
    whole = np.bitwise_or.reduce(parts, axis=-1)
    return np.ascontiguousarray(np.moveaxis(whole, -1, axis)).view(np.int32)


# -- unpacking: as the formats' descriptions say, to check the above ---------------------------------------------------


def dequantised(tensors: Tensors, name: str, method: str) -> Floats:
    """The weight `name` of a folder packed by `method`, "gptq" or "awq": (outputs, inputs)."""
    words = {kind: tensors[f"{name}.{kind}"] for kind in ("qweight", "qzeros")}
    scales = tensors[f"{name}.scales"].astype(np.float32)
    bits = 32 * words["qzeros"].shape[1] // scales.shape[1]
    if method == "gptq":
        levels, zeros = _unpacked(words["qweight"].T, bits).T, _unpacked(words["qzeros"], bits) + 1
        group = tensors[f"{name}.g_idx"]
    else:
        levels, zeros = (_in_order(_unpacked(words[kind], bits)) for kind in ("qweight", "qzeros"))
        group = np.arange(len(levels)) // GROUP
    return np.ascontiguousarray(((levels - zeros[group]) * scales[group]).T, np.float32)


def _unpacked(words: Ints, bits: int) -> Ints:
    """(rows, n * 32 / bits) out of (rows, n)"""
    parts = [words >> place & (2**bits - 1) for place in range(0, 32, bits)]
    return np.stack(parts, axis=-1).reshape(len(words), -1)


def _in_order(levels: Ints) -> Ints:
    back = np.argsort(AWQ_ORDER)
    return levels.reshape(len(levels), -1, 8)[..., back].reshape(levels.shape)
