"""Detect how weights are quantized where no JSON file states it: from tensor names and shapes, else from file names.

Sources: the buffers of QuantLinear in AutoGPTQ, WQLinear_GEMM in AutoAWQ and the files of ExLlamaV2's converter. A
layer of `in` inputs and `out` outputs has scales of [in/group, out], and weights, packed into 32-bit words, of
[in*bits/32, out] (GPTQ) or [in, out*bits/32] (AWQ).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BITS = (2, 3, 4, 8)
_MIN_GROUP = 8
_METHOD = re.compile(r"(?<![a-z])(gptq|awq|exl2)(?![a-z])", re.IGNORECASE)
_BITS_IN_NAME = re.compile(r"(?<![0-9.])([2348])-?bits?(?![a-z])(?:[-_.](-1|[0-9]+)g(?![a-z]))?", re.IGNORECASE)
_AVERAGE_BITS_IN_NAME = re.compile(r"(?<![0-9.])([0-9](?:\.[0-9]+)?)-?bpw", re.IGNORECASE)

ShapeOf = Callable[[str], tuple[int, ...]]
"""Return the shape of the tensor of that name; () if there is none."""


@dataclass(frozen=True)
class Packing:
    """How the weights of a model are packed.

    `method` is "gptq", "awq" or "exl2"; empty if the weights are plain, as far as can be seen. `bits` per weight and
    weights per `group` (-1: all inputs of a layer) are 0 where they are unknown.
    """

    method: str = ""
    bits: float = 0
    group: int = 0


PLAIN = Packing()


def detect_packing(names: Iterable[str], shape_of: ShapeOf) -> Packing:
    """Return the packing of most layers among the tensors `names` of one file."""
    packings = Counter(_layer_packing(name, shape_of) for name in names if name.endswith((".qweight", ".q_weight")))
    packings.pop(PLAIN, None)
    return packings.most_common(1)[0][0] if packings else PLAIN


def _layer_packing(name: str, shape_of: ShapeOf) -> Packing:
    layer, _, kind = name.rpartition(".")
    if kind == "q_weight":
        return Packing("exl2") if shape_of(f"{layer}.q_scale") else PLAIN
    weight, scales, order = shape_of(name), shape_of(f"{layer}.scales"), shape_of(f"{layer}.g_idx")
    if len(weight) != 2 or len(scales) != 2 or 0 in (*weight, *scales, *order):
        return Packing("gptq" if order else "awq")
    (rows, columns), (groups, outputs) = weight, scales
    if order:
        return _packing("gptq", 32 * rows / order[0], order[0], groups)
    if columns == outputs:  # GPTQ from before there was a g_idx: only the zero points tell the bits
        bits = 32 * sum(shape_of(f"{layer}.qzeros")[1:]) / outputs
        return _packing("gptq", bits, int(32 * rows / (bits or 1)), groups)
    return _packing("awq", 32 * columns / outputs, rows, groups)


def _packing(method: str, bits: float, inputs: int, groups: int) -> Packing:
    return Packing(method, int(bits), _group_size(inputs, groups)) if bits in _BITS else Packing(method)


def _group_size(inputs: int, groups: int) -> int:
    """Return how many of `inputs` share a scale. If the last group is shorter, the size is a power of two."""
    if groups == 1:
        return -1
    size = inputs / groups
    size = size if size == int(size) else 2 ** math.ceil(math.log2(size))
    return int(size) if size >= _MIN_GROUP else 0


def packing_from_names(*names: str) -> Packing:
    """Return the packing that the names of a folder and its files state, such as "llama-7b-4bit-128g.pt"."""
    text = " ".join(names)
    method, bits, average = _METHOD.search(text), _BITS_IN_NAME.search(text), _AVERAGE_BITS_IN_NAME.search(text)
    if method is None and bits is None:
        return PLAIN
    method_name = method[1].lower() if method else "gptq"  # the only method when names began to state bits
    if bits is None:
        return Packing(method_name, float(average[1]) if average else 0)
    return Packing(method_name, int(bits[1]), int(bits[2] or 0))
