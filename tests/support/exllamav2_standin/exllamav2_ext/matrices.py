"""Quantized matrices: ext_qmatrix.cpp and cuda/q_matrix.cu. The stand-in dequantizes them when they are made."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .layout import Exl2, exl2_weight, gptq_groupsize, gptq_order, gptq_weight, group_rows

T = TypeVar("T")


class Handles(Generic[T]):
    """Objects by number: the package stores pointers from its extension as numbers. 0 is never used."""

    def __init__(self) -> None:
        self._objects: dict[int, T] = {}
        self._next = itertools.count(1)

    def add(self, item: T) -> int:
        handle = next(self._next)
        self._objects[handle] = item
        return handle

    def __getitem__(self, handle: int) -> T:
        return self._objects[handle]

    def free(self, handle: int) -> None:
        del self._objects[handle]


@dataclass(frozen=True)
class QMatrix:
    """A matrix that was quantized.

    `weight` is (inputs, outputs), with the float16 numbers that the kernels reconstruct, stored in float32: most CPUs
    multiply float16 twenty times more slowly.
    """

    weight: Tensor
    bias: Tensor | None

    def times(self, a: Tensor) -> Tensor:
        product = (a.view(-1, a.shape[-1]).float() @ self.weight).to(a.dtype)
        return product if self.bias is None else product + self.bias


MATRICES: Handles[QMatrix] = Handles()


def make_q_matrix(
    q_weight: Tensor,
    q_perm: Tensor,
    q_invperm: Tensor,
    q_scale: Tensor,
    q_scale_max: Tensor,
    q_groups: Tensor,
    q_group_map: Tensor,
    gptq_qzeros: Tensor,
    gptq_scales: Tensor,
    gptq_g_idx: Tensor,
    bias: Tensor,
    temp_dq: Tensor,
    max_dq_rows: int,
) -> int:
    """Make a GPTQ matrix if there are `gptq_qzeros`, else an EXL2 one. Missing tensors are on the device "meta"."""
    assert q_weight.dtype == torch.int32
    if gptq_qzeros.is_meta:
        assert (q_scale.dtype, q_scale_max.dtype, q_groups.dtype) == (torch.int32, torch.half, torch.short)
        rows = q_group_map.shape[0] // 2
        perm = None if q_perm.is_meta else q_perm
        weight = exl2_weight(Exl2(q_weight, q_scale, q_scale_max, q_groups, perm), rows)
    else:
        weight = _gptq(q_weight, q_perm, q_invperm, gptq_qzeros, gptq_scales, gptq_g_idx)
    assert bias.is_meta or bias.dtype == torch.half
    return MATRICES.add(QMatrix(weight.half().float(), None if bias.is_meta else bias))


def _gptq(q_weight: Tensor, q_perm: Tensor, q_invperm: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor) -> Tensor:
    """Dequantize a GPTQ weight. If there is a `g_idx`, write `q_perm` and `q_invperm`, as the extension does."""
    assert (qzeros.dtype, scales.dtype) == (torch.int32, torch.half)
    assert q_weight.shape[1] == qzeros.shape[1] * 8 == scales.shape[1], "only 4 bits are supported"
    rows = q_weight.shape[0] * 8
    size = gptq_groupsize(rows, len(qzeros))
    if g_idx.is_meta:
        return gptq_weight(q_weight, qzeros, scales, torch.arange(rows) // size)
    order = gptq_order(g_idx)
    q_perm.copy_(order)
    q_invperm.copy_(order.argsort())
    group = torch.empty(rows, dtype=torch.long)
    group[order] = torch.arange(rows) // size  # by position, whatever g_idx says: all groups have the same size
    return gptq_weight(q_weight, qzeros, scales, group)


def free_q_matrix(handle: int) -> None:
    MATRICES.free(handle)


def reconstruct(handle: int, output: Tensor) -> None:
    output.copy_(MATRICES[handle].weight)


def gemm_half_q_half(a: Tensor, b: int, c: Tensor, force_cuda: bool) -> None:
    c.copy_(MATRICES[b].times(a))


def make_group_map(q_groups: Tensor, num_qrows: int) -> Tensor:
    """Return for every row its group and the number of rows of the group from this one on."""
    pairs = []
    for group, rows in enumerate(group_rows(q_groups, num_qrows)):
        pairs += [(group, rows - i) for i in range(rows)]
    return torch.tensor(pairs, dtype=torch.short).flatten()
