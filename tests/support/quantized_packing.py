"""Round weights to levels, and pack and unpack the levels as the 32-bit words of GPTQ and AWQ.

GPTQ packs the rows of the transposed weight, eight of 4 bits or four of 8 bits into an int32, lowest bits first, and
stores zero points minus one; `g_idx` is the group of each input. AWQ packs eight columns, in the order in which its
kernels read them, and stores zero points unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.hf_folder import bfloat16

GROUP = 64  # not the usual 128, which does not divide the hidden size of 576
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Rounded:
    """A weight of shape (outputs, inputs) as levels from 0 to 2**bits - 1; `scales` and `zeros` are (outputs, groups).

    `group` is the group of each input; with act-order the inputs of a group are not adjacent.
    """

    bits: int
    levels: Ints
    scales: Floats
    zeros: Ints
    group: Ints

    @property
    def weight(self) -> Floats:
        """Dequantized weight of shape (outputs, inputs)."""
        return ((self.levels - self.zeros[:, self.group]) * self.scales[:, self.group]).astype(np.float32)


def rounded_to_nearest(weight: Floats, bits: int, symmetric: bool) -> Rounded:
    groups, highest = weight.reshape(len(weight), -1, GROUP), 2**bits - 1
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = exact_scales(np.abs(groups).max(-1) * 2 / highest if symmetric else (high - low) / highest)
    zeros = np.full(scales.shape, 2 ** (bits - 1)) if symmetric else np.clip(np.rint(-low / scales), 0, highest)
    levels = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, highest)
    in_order = np.arange(weight.shape[1], dtype=np.int32) // GROUP
    return Rounded(bits, levels.reshape(weight.shape).astype(np.int32), scales, zeros.astype(np.int32), in_order)


def exact_scales(scales: Floats) -> Floats:
    """Round scales to values that both bfloat16 and float16 represent exactly, so that every backend uses the same."""
    return floats(bfloat16(np.maximum(scales, 2**-14)))


def floats(bits: NDArray[np.uint16]) -> Floats:
    """Convert raw bfloat16 bits, a dtype that numpy lacks, to float32."""
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
    """Pack neighbors along `axis` into int32 words, the first in the lowest bits."""
    moved, count = np.moveaxis(levels, axis, -1).astype(np.uint32), 32 // bits
    parts = moved.reshape(*moved.shape[:-1], -1, count) << (bits * np.arange(count, dtype=np.uint32))
    words = np.bitwise_or.reduce(parts, axis=-1)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


# -- unpacking, written from the formats' descriptions as a check of the packing ---------------------------------------


def dequantized(tensors: Tensors, name: str, method: str) -> Floats:
    """Unpack the weight `name`, packed by `method` ("gptq" or "awq"), to shape (outputs, inputs)."""
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
    """Unpack words of shape (rows, n) to levels of shape (rows, n * 32 / bits)."""
    parts = [words >> shift & (2**bits - 1) for shift in range(0, 32, bits)]
    return np.stack(parts, axis=-1).reshape(len(words), -1)


def _in_order(levels: Ints) -> Ints:
    inverse = np.argsort(AWQ_ORDER)
    return levels.reshape(len(levels), -1, 8)[..., inverse].reshape(levels.shape)
