"""How weights are quantised, where no JSON file says so: by the tensors' names and shapes, else by the files' names.

Source: the buffers of QuantLinear in AutoGPTQ, WQLinear_GEMM in AutoAWQ and the files of ExLlamaV2's converter. A layer
of `in` inputs and `out` outputs has scales of [in/group, out], and weights, packed into 32-bit words, of
[in*bits/32, out] (GPTQ) or [in, out*bits/32] (AWQ).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BITS = (2, 3, 4, 8)
_SMALLEST_GROUP = 8
_METHOD = re.compile(r"(?<![a-z])(gptq|awq|exl2)(?![a-z])", re.IGNORECASE)
_NAMED_BITS = re.compile(r"(?<![0-9.])([2348])-?bits?(?![a-z])(?:[-_.](-1|[0-9]+)g(?![a-z]))?", re.IGNORECASE)
_NAMED_AVERAGE = re.compile(r"(?<![0-9.])([0-9](?:\.[0-9]+)?)-?bpw", re.IGNORECASE)

Shape = Callable[[str], tuple[int, ...]]
"""The shape of the tensor of that name; () if there is none."""


@dataclass(frozen=True)
class Packing:
    """`method` is "gptq", "awq" or "exl2", "" if the weights are plain, as far as could be seen. `bits` for each weight
    and weights in a `group` (-1: all inputs of a layer are one) are 0 where that is unknown."""

    method: str = ""
    bits: float = 0
    group: int = 0


PLAIN = Packing()


def packing(names: Iterable[str], shape: Shape) -> Packing:
    """What the tensors of one file tell: what most of its layers are."""
    layers = Counter(_layer(name, shape) for name in names if name.endswith((".qweight", ".q_weight")))
    layers.pop(PLAIN, None)
    return layers.most_common(1)[0][0] if layers else PLAIN


def _layer(name: str, shape: Shape) -> Packing:
    layer, _, kind = name.rpartition(".")
    if kind == "q_weight":
        return Packing("exl2") if shape(f"{layer}.q_scale") else PLAIN
    weight, scales, order = shape(name), shape(f"{layer}.scales"), shape(f"{layer}.g_idx")
    if len(weight) != 2 or len(scales) != 2 or 0 in (*weight, *scales, *order):
        return Packing("gptq" if order else "awq")
    (rows, columns), (groups, outputs) = weight, scales
    if order:
        return _measured("gptq", 32 * rows / order[0], order[0], groups)
    if columns == outputs:  # from before there was a g_idx: only the zero points tell the bits
        bits = 32 * sum(shape(f"{layer}.qzeros")[1:]) / outputs
        return _measured("gptq", bits, int(32 * rows / (bits or 1)), groups)
    return _measured("awq", 32 * columns / outputs, rows, groups)


def _measured(method: str, bits: float, inputs: int, groups: int) -> Packing:
    return Packing(method, int(bits), _group(inputs, groups)) if bits in _BITS else Packing(method)


def _group(inputs: int, groups: int) -> int:
    """How many of `inputs` share a scale. The last group may be short; then a power of two is what was asked for."""
    if groups == 1:
        return -1
    size = inputs / groups
    size = size if size == int(size) else 2 ** math.ceil(math.log2(size))
    return int(size) if size >= _SMALLEST_GROUP else 0


def named(*names: str) -> Packing:
    """What the names of a folder and of the files in it tell, such as "llama-7b-4bit-128g.pt"."""
    text = " ".join(names)
    method, bits, average = _METHOD.search(text), _NAMED_BITS.search(text), _NAMED_AVERAGE.search(text)
    if method is None and bits is None:
        return PLAIN
    kind = method[1].lower() if method else "gptq"  # the only one in use when names began to say so
    if bits is None:
        return Packing(kind, float(average[1]) if average else 0)
    return Packing(kind, int(bits[1]), int(bits[2] or 0))
