"""Call single functions of the stand-in for exllamav2's extension: a script, because the stand-in patches torch.

`python -m tests.support.exllamav2_functions <out.npz>`, with the stand-in on PYTHONPATH, saves levels after packing and
unpacking, GPTQ weights with act-order, keys and values from every kind of cache, where stop strings match, and how
often each token is sampled with the settings of SAMPLER_SETTINGS.
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
SAMPLER_SETTINGS: dict[str, dict[str, Any]] = {
    "neutral": {},
    "temperature 0": {"temperature": 0.0},
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

STOPS = ("stop here", "END")
TEXTS = ("on we go", "we stop here now", "we stop he", "the EN", "the ENd", "END")


def levels(bits: int) -> Any:
    """Return random quantization levels, (ROWS, COLUMNS)."""
    return np.random.default_rng(bits).integers(0, 1 << bits, (ROWS, COLUMNS))


def row_groups() -> Any:
    """Return the group of each row as with act-order: the groups have the same size, but their rows are scattered."""
    return np.random.default_rng(1).permutation(np.arange(ROWS) // GROUP)


def main() -> None:
    results: dict[str, Any] = {}
    for bits in BITS:
        results[f"words {bits}"], results[f"levels {bits}"] = _pack_and_unpack(bits)
    results.update(_act_order())
    results.update(_caches())
    results["matches"] = np.array([_match(text) for text in TEXTS])
    for name, settings in SAMPLER_SETTINGS.items():
        results[f"sampled {name}"] = _sampled_shares(DEFAULTS | settings)
    np.savez(sys.argv[1], **results)


def _pack_and_unpack(bits: int) -> tuple[Any, Any]:
    import exllamav2_ext as extension
    import torch
    from exllamav2_ext.layout import WORD, unpacked

    words = torch.zeros((ROWS * bits // 32, COLUMNS), dtype=torch.int32)
    extension.pack_columns(torch.tensor(levels(bits), dtype=torch.short), words, bits)
    return words.numpy(), unpacked(words.long() & WORD, bits).numpy()


def _act_order() -> dict[str, Any]:
    """Return a weight in floats, and the one that the extension reconstructs from its packed form."""
    import exllamav2_ext as extension
    import torch
    from exllamav2_ext.layout import packed_nibbles

    nibbles = torch.tensor(levels(4))
    zeros = torch.arange(ROWS // GROUP * COLUMNS).view(-1, COLUMNS) % 15
    scales = (torch.arange(zeros.numel()).view(zeros.shape) + 1).half() / 64
    perm, inverse = torch.empty(ROWS, dtype=torch.short), torch.empty(ROWS, dtype=torch.short)
    group, meta = torch.tensor(row_groups(), dtype=torch.int32), torch.empty((1, 1), device="meta")
    words = packed_nibbles(nibbles.T.contiguous()).T.contiguous(), packed_nibbles(zeros)
    absent = [meta] * 4
    handle = extension.make_q_matrix(words[0], perm, inverse, *absent, words[1], scales, group, meta, meta, 0)
    reconstructed = torch.empty((ROWS, COLUMNS), dtype=torch.half)
    extension.reconstruct(handle, reconstructed)
    expected = (nibbles - zeros[group.long()] - 1) * scales.float()[group.long()]
    return {
        "reconstructed": reconstructed.float().numpy(),
        "expected": expected.numpy(),
        "permuted groups": group[perm.long()].numpy(),
    }


def _caches() -> dict[str, Any]:
    """Return keys and values of 64 tokens from every kind of cache, and from pages in swapped order."""
    import exllamav2_ext as extension
    import torch

    meta = torch.empty((1, 1), device="meta")
    torch.manual_seed(3)
    halves = torch.randn((1, 64, 3, 64)).half()
    results = {"original": halves.numpy()}
    fp8 = torch.zeros(halves.shape, dtype=torch.uint8)
    extension.fp16_to_fp8(halves, fp8, 1, 0, 64)
    extension.fp8_to_fp16(fp8, restored := torch.zeros_like(halves), 1, 0, 64)
    results["fp8"] = restored.numpy()
    pages = (32, torch.tensor([0], dtype=torch.int32), torch.tensor([[1, 0]], dtype=torch.int32))
    for bits in (4, 6, 8):
        for name, page in ((f"Q{bits}", (0, meta, meta)), (f"Q{bits} in pages", pages)):
            widths = [8 if bits > 4 else 4, 4 if bits < 8 else 8]
            packed = [torch.zeros((*halves.shape[:3], 64 * width // 8), dtype=torch.uint8) for width in widths]
            scales = [torch.zeros((*halves.shape[:3], 2), dtype=torch.half) for _ in widths]
            arrays = [halves, packed[0], scales[0], halves, packed[1], scales[1]]
            extension.fp16_to_q_kv(*arrays, 1, 0, 64, *page, bits)
            out = [torch.zeros_like(halves) for _ in widths]
            filled = (page[0], page[1] + 64 if page[0] else meta, page[2])
            arrays = [packed[0], out[0], scales[0], packed[1], out[1], scales[1]]
            extension.q_to_fp16_kv(*arrays, 1, 0, 64, *filled, bits)
            results[name] = torch.stack(out).numpy()
    return results


def _match(text: str) -> int:
    import exllamav2_ext as extension

    stops = [stop.encode("utf-32-le") for stop in STOPS]
    bounds = np.cumsum([0, *(len(stop) for stop in stops)]).astype(np.uint32)
    return extension.partial_strings_match(text.encode("utf-32-le"), bounds.tobytes(), b"".join(stops))


def _sampled_shares(settings: dict[str, Any]) -> Any:
    """Return the share of each token in the samples with POINTS evenly spaced numbers between 0 and 1."""
    import exllamav2_ext as extension
    import torch

    logits, meta = torch.tensor(LOGITS).view(1, 1, -1), torch.empty((1, 1), device="meta")
    token, probability = torch.empty((1, 1), dtype=torch.long), torch.empty((1, 1))
    first = [settings[name] for name in ("temperature", "top_k", "top_p", "top_a", "min_p", "tfs", "typical")]
    mu, post = [settings["mirostat_mu"]], settings["post_temperature"]
    names = ("xtc_probability", "xtc_threshold", "min_temp", "max_temp", "temp_exponent", "smoothing_factor", "skew")
    last = [torch.ones(len(LOGITS), dtype=torch.bool), *(settings[name] for name in names)]
    counts = np.zeros(len(LOGITS))
    for point in (np.arange(POINTS) + 0.5) / POINTS:
        middle = [token, probability, meta, meta, meta, bool(settings["mirostat"]), mu, 1.5, 0.1, post]
        extension.sample_basic(logits.clone(), *first, float(point), *middle, *last)
        counts[token.item()] += 1
    return counts / POINTS


if __name__ == "__main__":
    main()
