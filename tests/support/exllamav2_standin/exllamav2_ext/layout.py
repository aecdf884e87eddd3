"""How EXL2 and GPTQ keep a weight: cuda/q_matrix.cu and cuda/quant/qdq_*.cuh, before the shuffling for the kernels.

EXL2: the rows (inputs) are in the order of q_perm, in groups, each of its own number of bits. In every column the
levels of a group are one stream of bits, from the lowest of the first word on, 32 rows in as many words as bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Exl2:
    """`scale_max` is a 256th of what the file has, as the package hands it over."""

    weight: Tensor
    scale: Tensor
    scale_max: Tensor
    groups: Tensor
    perm: Tensor | None


def exl2_weight(packed: Exl2, rows: int) -> Tensor:
    """(inputs, outputs) in float16, rounded where the kernels round."""
    scales = _exl2_scales(packed.scale, packed.scale_max)
    words = packed.weight.long() & WORD
    parts, done = [], 0
    for group, (bits, first) in enumerate(packed.groups.view(-1, 2).tolist()):
        last = packed.groups[group * 2 + 3].item() if group * 2 + 3 < len(packed.groups) else len(words)
        levels = unpacked(words[first : int(last)], bits)[: rows - done]
        parts.append((levels - (1 << bits - 1)).half() * scales[group])
        done += len(levels)
    weight = torch.cat(parts)
    if packed.perm is None:
        return weight
    back = torch.empty_like(weight)
    back[packed.perm.long() & 0xFFFF] = weight
    return back


def _exl2_scales(words: Tensor, largest: Tensor) -> Tensor:
    """(groups, outputs): the square of 1 to 16, times the group's largest."""
    roots = nibbles(words) + 1
    return (roots * roots).half() * largest[:, None]


def unpacked(words: Tensor, bits: int) -> Tensor:
    """(rows, outputs) out of (words, outputs), each word given as the number from 0 on that it is."""
    per_block = 32 // math.gcd(32, bits)  # rows that end together with a word
    block = words.view(-1, per_block * bits // 32, words.shape[1])
    levels = []
    for place in range(per_block):
        word, shift = divmod(place * bits, 32)
        level = block[:, word] >> shift
        if shift + bits > 32:
            level = level | block[:, word + 1] << 32 - shift
        levels.append(level & (1 << bits) - 1)
    return torch.stack(levels, 1).flatten(0, 1)


def group_rows(groups: Tensor, words: int) -> list[int]:
    """How many rows each group has; `words` is how many q_weight has."""
    pairs = groups.view(-1, 2).tolist()
    ends = [first for _, first in pairs[1:]] + [words]
    return [(end - first) * 32 // bits for (bits, first), end in zip(pairs, ends, strict=True)]


def nibbles(words: Tensor) -> Tensor:
    """(rows, 8 n) out of (rows, n), the lowest first."""
    return torch.stack([(words >> 4 * place) & 15 for place in range(8)], -1).flatten(1)


def packed_nibbles(levels: Tensor) -> Tensor:
    """(rows, n) out of (rows, 8 n): the other way round."""
    eights = levels.long().view(len(levels), -1, 8)
    return signed(sum(eights[..., place] << 4 * place for place in range(8)))


def signed(words: Tensor | int) -> Tensor:
    """Words given as numbers from 0 on, as the tensors of the package keep them."""
    words = torch.as_tensor(words)
    return torch.where(words > 0x7FFFFFFF, words - (1 << 32), words).to(torch.int32)


# -- GPTQ --------------------------------------------------------------------------------------------------------------


def gptq_groupsize(rows: int, groups: int) -> int:
    """The least power of two that is enough: the extension takes no other sizes."""
    size = 1
    while size * groups < rows:
        size *= 2
    return size


def gptq_order(g_idx: Tensor) -> Tensor:
    """Which rows come one after the other when those of a group come together."""
    return torch.argsort(g_idx.long(), stable=True)


def gptq_weight(qweight: Tensor, qzeros: Tensor, scales: Tensor, group: Tensor) -> Tensor:
    """(inputs, outputs) in float16; a zero point is one more than the file has it."""
    levels = nibbles(qweight.T.contiguous()).T
    zeros = nibbles(qzeros) + 1
    return (levels - zeros[group]).half() * scales[group]
