"""The packed formats of EXL2 and GPTQ weights: cuda/q_matrix.cu and cuda/quant/qdq_*.cuh.

These are the formats in files, before the extension shuffles the words for its kernels. EXL2: the rows (inputs) are in
the order of q_perm, in groups that each have their own number of bits. In every column the levels of a group are a
stream of bits, beginning with the lowest bit of the first word; 32 rows take as many words as a level has bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Exl2:
    """The tensors of an EXL2 weight. The package has divided the `scale_max` of the file by 256."""

    weight: Tensor
    scale: Tensor
    scale_max: Tensor
    groups: Tensor
    perm: Tensor | None


def exl2_weight(packed: Exl2, rows: int) -> Tensor:
    """Return the weight, (inputs, outputs), in float16, rounded where the kernels round."""
    scales = _exl2_scales(packed.scale, packed.scale_max)
    words = packed.weight.long() & WORD
    blocks, rows_done = [], 0
    for group, (bits, first) in enumerate(packed.groups.view(-1, 2).tolist()):
        last = packed.groups[group * 2 + 3].item() if group * 2 + 3 < len(packed.groups) else len(words)
        levels = unpacked(words[first : int(last)], bits)[: rows - rows_done]
        blocks.append((levels - (1 << bits - 1)).half() * scales[group])
        rows_done += len(levels)
    weight = torch.cat(blocks)
    if packed.perm is None:
        return weight
    unpermuted = torch.empty_like(weight)
    unpermuted[packed.perm.long() & 0xFFFF] = weight
    return unpermuted


def _exl2_scales(words: Tensor, largest: Tensor) -> Tensor:
    """Return the scales, (groups, outputs): squares of numbers from 1 to 16, times the largest scale of the group."""
    roots = nibbles(words) + 1
    return (roots * roots).half() * largest[:, None]


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Unpack (words, outputs) to levels, (rows, outputs). The words are unsigned numbers."""
    per_block = 32 // math.gcd(32, bits)  # the fewest rows that end at the end of a word
    block = words.view(-1, per_block * bits // 32, words.shape[1])
    levels = []
    for row in range(per_block):
        word, shift = divmod(row * bits, 32)
        level = block[:, word] >> shift
        if shift + bits > 32:
            level = level | block[:, word + 1] << 32 - shift
        levels.append(level & (1 << bits) - 1)
    return torch.stack(levels, 1).flatten(0, 1)


def group_rows(groups: Tensor, words: int) -> list[int]:
    """Return the number of rows of each group; `words` is the number of rows of q_weight."""
    pairs = groups.view(-1, 2).tolist()
    ends = [first for _, first in pairs[1:]] + [words]
    return [(end - first) * 32 // bits for (bits, first), end in zip(pairs, ends, strict=True)]


def nibbles(words: Tensor) -> Tensor:
    """Unpack words, (rows, n), to nibbles, (rows, 8 n), the lowest first."""
    return torch.stack([(words >> 4 * index) & 15 for index in range(8)], -1).flatten(1)


def packed_nibbles(levels: Tensor) -> Tensor:
    """Pack nibbles, (rows, 8 n), to words, (rows, n)."""
    eights = levels.long().view(len(levels), -1, 8)
    return signed(sum(eights[..., index] << 4 * index for index in range(8)))


def signed(words: Tensor | int) -> Tensor:
    """Convert unsigned words to int32, the type of the package's tensors."""
    words = torch.as_tensor(words)
    return torch.where(words > 0x7FFFFFFF, words - (1 << 32), words).to(torch.int32)


# -- GPTQ --------------------------------------------------------------------------------------------------------------


def gptq_groupsize(rows: int, groups: int) -> int:
    """Return the smallest power of two that is large enough: the extension supports no other sizes."""
    size = 1
    while size * groups < rows:
        size *= 2
    return size


def gptq_order(g_idx: Tensor) -> Tensor:
    """Return the order of the rows in which the rows of each group are adjacent."""
    return torch.argsort(g_idx.long(), stable=True)


def gptq_weight(qweight: Tensor, qzeros: Tensor, scales: Tensor, group: Tensor) -> Tensor:
    """Return the weight, (inputs, outputs), in float16. A zero point is one more than the number in the file."""
    levels = nibbles(qweight.T.contiguous()).T
    zeros = nibbles(qzeros) + 1
    return (levels - zeros[group]).half() * scales[group]
