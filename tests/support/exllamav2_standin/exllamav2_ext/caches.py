"""Quantized keys and values: ext_cache.cpp, cuda/cache.cu and cuda/cache_q.cuh, with the same bits as there.

8 bits ("FP8"): the upper byte of each float16. Q4 to Q8: of every 64 neighbors the even ones and the odd ones are each
transformed by a Hadamard matrix of size 32, then every 32 neighbors share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 512
"""Q_CACHE_BLOCKSIZE_Q: ranges that are quantized begin and end at multiples of it."""
BITS = {4: (4, 4), 6: (8, 4), 8: (8, 8)}
"""The bits of keys and of values, by the bits of the cache."""


# -- FP8 ---------------------------------------------------------------------------------------------------------------


def fp16_to_fp8(source: Tensor, target: Tensor, batch_size: int, offset: int, width: int) -> None:
    tokens = slice(offset, offset + width)
    target[:batch_size, tokens] = ((source[:batch_size, tokens].view(torch.int16) >> 8) & 255).to(torch.uint8)


def fp8_to_fp16(source: Tensor, target: Tensor, batch_size: int, offset: int, width: int) -> None:
    tokens = slice(offset, offset + width)
    target[:batch_size, tokens] = (source[:batch_size, tokens].to(torch.int16) << 8).view(torch.half)


# -- Q4, Q6, Q8 --------------------------------------------------------------------------------------------------------


def fp16_to_q_kv(
    k_in: Tensor,
    k_out: Tensor,
    k_scales: Tensor,
    v_in: Tensor,
    v_out: Tensor,
    v_scales: Tensor,
    batch_size: int,
    offset: int,
    width: int,
    page_size: int,
    cache_seqlens: Tensor,
    block_table: Tensor,
    wbits: int,
) -> None:
    """Quantize `width` tokens: with pages, the new ones of each sequence; without, those from `offset` on."""
    if page_size:
        ranges = list(_new_in_pages(k_in, width, page_size, cache_seqlens, block_table))
    else:
        ranges = list(_in_rows(k_in, batch_size, offset, width))
    for bits, source, target, scales in zip(
        BITS[wbits], (k_in, v_in), (k_out, v_out), (k_scales, v_scales), strict=True
    ):
        for begin, end in ranges:
            _quantize(source, target, scales, begin, end, bits)


def q_to_fp16_kv(
    k_in: Tensor,
    k_out: Tensor,
    k_scales: Tensor,
    v_in: Tensor,
    v_out: Tensor,
    v_scales: Tensor,
    batch_size: int,
    offset: int,
    width: int,
    page_size: int,
    cache_seqlens: Tensor,
    block_table: Tensor,
    wbits: int,
) -> None:
    """Dequantize `width` tokens from `offset` on, or, with pages, all tokens of the sequences."""
    if page_size:
        ranges = list(_old_in_pages(k_out, page_size, cache_seqlens, block_table))
    else:
        ranges = list(_in_rows(k_out, batch_size, offset, width))
    for bits, source, target, scales in zip(
        BITS[wbits], (k_in, v_in), (k_out, v_out), (k_scales, v_scales), strict=True
    ):
        for begin, end in ranges:
            _dequantize(source, target, scales, begin, end, bits)


def _in_rows(halves: Tensor, batch_size: int, offset: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the range of elements of each row, as indexes into the flattened tensor."""
    dim = halves.shape[2] * halves.shape[3]
    while offset * dim % BLOCK:
        offset -= 1
    while width * dim % BLOCK:
        width += 1
    for row in range(batch_size):
        begin = (row * halves.shape[1] + offset) * dim
        yield begin, min(begin + width * dim, halves.numel())


def _new_in_pages(
    halves: Tensor, width: int, page_size: int, seqlens: Tensor, table: Tensor
) -> Iterator[tuple[int, int]]:
    dim = halves.shape[2] * halves.shape[3]
    for length, pages in zip(seqlens.tolist(), table.tolist(), strict=True):
        for index, page in enumerate(pages):
            begin, end = length - page_size * index, length - page_size * index + width
            while begin * dim % BLOCK:
                begin -= 1
            while end * dim % BLOCK:
                end += 1
            begin, end = max(begin, 0), min(end, page_size)
            if begin < end:
                yield (page * page_size + begin) * dim, (page * page_size + end) * dim


def _old_in_pages(halves: Tensor, page_size: int, seqlens: Tensor, table: Tensor) -> Iterator[tuple[int, int]]:
    dim = halves.shape[2] * halves.shape[3]
    for length, pages in zip(seqlens.tolist(), table.tolist(), strict=True):
        for index, page in enumerate(pages):
            end = min(page_size, length - page_size * index) if length else 0
            while end * dim % BLOCK:
                end += 1
            if end > 0:
                yield page * page_size * dim, (page * page_size + end) * dim


def _quantize(source: Tensor, target: Tensor, scales: Tensor, begin: int, end: int, bits: int) -> None:
    transformed = _hadamard(source.view(-1)[begin:end]).view(-1, 32)
    largest = transformed.abs().amax(-1, keepdim=True)
    half = 1 << bits - 1
    relative = torch.nan_to_num((transformed / largest).float())  # 0 / 0 if all are 0; the kernels use 0
    levels = (relative * half + half).half().float().round().clamp(0, 2 * half - 1).to(torch.uint8).flatten()
    packed = levels if bits == 8 else levels[::2] | levels[1::2] << 4
    target.view(-1)[begin * bits // 8 : end * bits // 8] = packed
    scales.view(-1)[begin // 32 : end // 32] = (largest * (1 / half)).flatten()


def _dequantize(source: Tensor, target: Tensor, scales: Tensor, begin: int, end: int, bits: int) -> None:
    packed = source.view(-1)[begin * bits // 8 : end * bits // 8]
    levels = packed if bits == 8 else torch.stack((packed & 15, packed >> 4), -1).flatten()
    steps = (levels.to(torch.int16) - (1 << bits - 1)).half().view(-1, 32)
    scaled = steps * scales.view(-1)[begin // 32 : end // 32, None]
    target.view(-1)[begin:end] = _hadamard(scaled.flatten()) * (1 / 32)


def _hadamard(halves: Tensor) -> Tensor:
    """Return the Hadamard transform, unscaled, rounded at each of its five steps."""
    lanes = halves.reshape(-1, 32, 2)
    for step in (1, 2, 4, 8, 16):
        pairs = lanes.view(-1, 16 // step, 2, step, 2)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        lanes = torch.stack((first + second, first - second), 2).view(-1, 32, 2)
    return lanes.flatten()


def matrix_fp16_to_q4(source: Tensor, target: Tensor, scales: Tensor) -> None:
    _quantize(source, target, scales, 0, source.numel(), 4)


def matrix_q4_to_fp16(source: Tensor, scales: Tensor, target: Tensor) -> None:
    _dequantize(source, target, scales, 0, target.numel(), 4)


# -- pages -------------------------------------------------------------------------------------------------------------


def cache_rotate(cache: Tensor, order: Tensor, temp: Tensor) -> None:
    """Copy each page of `order` to the one before it, and the first to the last."""
    pages = order.long()
    cache[pages] = cache[pages.roll(-1)]


def count_match(a: Tensor, b: Tensor, max_a: int) -> int:
    """Return the length of the common prefix of `a` and `b`, at most `max_a`."""
    length = min(max_a, b.shape[1])
    differ = (a.view(-1)[:length] != b.view(-1)[:length]).nonzero()
    return int(differ[0]) if len(differ) else length
