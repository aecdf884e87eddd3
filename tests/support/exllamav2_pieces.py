"""Run single functions of the stand-in for exllamav2's extension: a script, because it changes torch in its process.

`python -m tests.support.exllamav2_pieces <out.npz>`, with the stand-in on PYTHONPATH, saves levels after packing and
unpacking, weights in GPTQ with act-order, keys and values after every cache, where strings match, and for each of DRAWS
how often which token is sampled.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

BITS = (2, 3, 4, 5, 6, 8)
ROWS, COLUMNS, GROUP = 128, 16, 32
LOGITS = [2.0, -1.0, 3.0, 0.5, 2.5, -2.0, 1.0, 0.0]
POINTS = 4000
_OFF = ("top_k", "top_p", "top_a", "min_p", "tfs", "typical", "mirostat", "mirostat_mu", "min_temp", "max_temp", "skew")
DEFAULTS: dict[str, Any] = dict.fromkeys([*_OFF, "smoothing_factor", "xtc_probability"], 0) | {
    "temperature": 1.0,
    "post_temperature": 1.0,
    "temp_exponent": 1.0,
    "xtc_threshold": 0.1,
}
DRAWS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "cold": {"temperature": 0.0},
    "temperature": {"temperature": 0.5},
    "temperature last": {"top_k": 3, "post_temperature": 2.0},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.8},
    "top_a": {"top_a": 0.5},
    "min_p": {"min_p": 0.3},
    "tfs": {"tfs": 0.9},
    "typical": {"typical": 0.6},
    "mirostat": {"mirostat": True, "mirostat_mu": 2.0},
    "dynatemp": {"min_temp": 0.5, "max_temp": 1.5, "temp_exponent": 0.8},
    "smoothing": {"smoothing_factor": 0.4},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.15},
    "skew": {"skew": 0.5},
}

SOUGHT = ("stop here", "END")
TEXTS = ("on we go", "we stop here now", "we stop he", "the EN", "the ENd", "END")


def levels(bits: int) -> Any:
    return np.random.default_rng(bits).integers(0, 1 << bits, (ROWS, COLUMNS))


def order() -> Any:
    """Return the group of each row as with act-order: of one size, but scattered."""
    return np.random.default_rng(1).permutation(np.arange(ROWS) // GROUP)


def main() -> None:
    found: dict[str, Any] = {}
    for bits in BITS:
        found[f"words {bits}"], found[f"levels {bits}"] = _packed(bits)
    found.update(_act_order())
    found.update(_cached())
    found["matches"] = np.array([_match(text) for text in TEXTS])
    for name, wishes in DRAWS.items():
        found[f"drawn {name}"] = _drawn(DEFAULTS | wishes)
    np.savez(sys.argv[1], **found)


def _packed(bits: int) -> tuple[Any, Any]:
    import exllamav2_ext as extension
    import torch
    from exllamav2_ext.layout import WORD, unpacked

    words = torch.zeros((ROWS * bits // 32, COLUMNS), dtype=torch.int32)
    extension.pack_columns(torch.tensor(levels(bits), dtype=torch.short), words, bits)
    return words.numpy(), unpacked(words.long() & WORD, bits).numpy()


def _act_order() -> dict[str, Any]:
    """Return a weight, and what the extension reconstructs from its packed words."""
    import exllamav2_ext as extension
    import torch
    from exllamav2_ext.layout import packed_nibbles

    four = torch.tensor(levels(4))
    zeros = torch.arange(ROWS // GROUP * COLUMNS).view(-1, COLUMNS) % 15
    scales = (torch.arange(zeros.numel()).view(zeros.shape) + 1).half() / 64
    perm, inverse = torch.empty(ROWS, dtype=torch.short), torch.empty(ROWS, dtype=torch.short)
    group, meta = torch.tensor(order(), dtype=torch.int32), torch.empty((1, 1), device="meta")
    words = packed_nibbles(four.T.contiguous()).T.contiguous(), packed_nibbles(zeros)
    nothing = [meta] * 4
    handle = extension.make_q_matrix(words[0], perm, inverse, *nothing, words[1], scales, group, meta, meta, 0)
    made = torch.empty((ROWS, COLUMNS), dtype=torch.half)
    extension.reconstruct(handle, made)
    wanted = (four - zeros[group.long()] - 1) * scales.float()[group.long()]
    return {"made": made.float().numpy(), "wanted": wanted.numpy(), "groups in a row": group[perm.long()].numpy()}


def _cached() -> dict[str, Any]:
    """Return keys and values of 64 tokens after every cache, and after pages in swapped order."""
    import exllamav2_ext as extension
    import torch

    meta = torch.empty((1, 1), device="meta")
    torch.manual_seed(3)
    halves = torch.randn((1, 64, 3, 64)).half()
    found = {"halves": halves.numpy()}
    eighths = torch.zeros(halves.shape, dtype=torch.uint8)
    extension.fp16_to_fp8(halves, eighths, 1, 0, 64)
    extension.fp8_to_fp16(eighths, back := torch.zeros_like(halves), 1, 0, 64)
    found["fp8"] = back.numpy()
    pages = (32, torch.tensor([0], dtype=torch.int32), torch.tensor([[1, 0]], dtype=torch.int32))
    for bits in (4, 6, 8):
        for name, page in ((f"Q{bits}", (0, meta, meta)), (f"Q{bits} in pages", pages)):
            wide = [8 if bits > 4 else 4, 4 if bits < 8 else 8]
            packed = [torch.zeros((*halves.shape[:3], 64 * each // 8), dtype=torch.uint8) for each in wide]
            scales = [torch.zeros((*halves.shape[:3], 2), dtype=torch.half) for _ in wide]
            arrays = [halves, packed[0], scales[0], halves, packed[1], scales[1]]
            extension.fp16_to_q_kv(*arrays, 1, 0, 64, *page, bits)
            out = [torch.zeros_like(halves) for _ in wide]
            whole = (page[0], page[1] + 64 if page[0] else meta, page[2])
            arrays = [packed[0], out[0], scales[0], packed[1], out[1], scales[1]]
            extension.q_to_fp16_kv(*arrays, 1, 0, 64, *whole, bits)
            found[name] = torch.stack(out).numpy()
    return found


def _match(text: str) -> int:
    import exllamav2_ext as extension

    words = [each.encode("utf-32-le") for each in SOUGHT]
    ends = np.cumsum([0, *(len(each) for each in words)]).astype(np.uint32)
    return extension.partial_strings_match(text.encode("utf-32-le"), ends.tobytes(), b"".join(words))


def _drawn(wishes: dict[str, Any]) -> Any:
    """Return how often each token is sampled, over POINTS random numbers between 0 and 1."""
    import exllamav2_ext as extension
    import torch

    logits, meta = torch.tensor(LOGITS).view(1, 1, -1), torch.empty((1, 1), device="meta")
    token, probability = torch.empty((1, 1), dtype=torch.long), torch.empty((1, 1))
    first = [wishes[name] for name in ("temperature", "top_k", "top_p", "top_a", "min_p", "tfs", "typical")]
    mu, post = [wishes["mirostat_mu"]], wishes["post_temperature"]
    rest = ("xtc_probability", "xtc_threshold", "min_temp", "max_temp", "temp_exponent", "smoothing_factor", "skew")
    last = [torch.ones(len(LOGITS), dtype=torch.bool), *(wishes[name] for name in rest)]
    counts = np.zeros(len(LOGITS))
    for point in (np.arange(POINTS) + 0.5) / POINTS:
        middle = [token, probability, meta, meta, meta, bool(wishes["mirostat"]), mu, 1.5, 0.1, post]
        extension.sample_basic(logits.clone(), *first, float(point), *middle, *last)
        counts[token.item()] += 1
    return counts / POINTS


if __name__ == "__main__":
    main()
