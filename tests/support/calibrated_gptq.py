"""The GPTQ algorithm with act-order: round columns in order of importance and correct the remaining ones for the error.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization" (arXiv 2210.17323), algorithm 1. The importance of a
column is measured on the layer's inputs for a text, as computed by the previous layers after their quantization. The
text is Python's own documentation, which every interpreter has.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.quantized_packing import GROUP, Rounded, exact_scales

_TEXTS, _TEXT_TOKENS = 32, 256
_DAMPING = 0.1  # of the mean of the Hessian's diagonal; usually 0.01, but with thirty times as many tokens
_SHARED_INPUTS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)


def calibrated(source: Path, bits: int) -> dict[str, Rounded]:
    """Quantize all projections of the model in `source` symmetrically; return them by the name of the weight."""
    torch.set_num_threads(1)  # The work is many small steps: synchronizing threads made it eight times as slow.
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = (tokenizer(text).input_ids[:_TEXT_TOKENS] for _, text in sorted(topics.items()))
    tokens = torch.tensor(list(islice((ids for ids in texts if len(ids) == _TEXT_TOKENS), _TEXTS)))
    weights: dict[str, Rounded] = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(_LayerQuantizer(layer, f"model.layers.{number}", bits, weights), with_kwargs=True)
    with torch.no_grad():
        model.model(input_ids=tokens, use_cache=False)
    return weights


class _LayerQuantizer:
    """Forward hook of one layer: quantize its weights and compute its output again with the quantized weights."""

    def __init__(self, layer: Any, name: str, bits: int, weights: dict[str, Rounded]) -> None:
        self._name, self._bits, self._weights = name, bits, weights
        self._hessians: dict[str, Tensor] = {}
        self._hooks = [
            layer.get_submodule(f"{part}.{names[0]}").register_forward_pre_hook(partial(self._record, names[0]))
            for part, names in _SHARED_INPUTS
        ]

    def _record(self, name: str, _module: Any, args: Any) -> None:
        # Without the first token of a text, whose activations are so large that they would outweigh all others.
        inputs = args[0][:, 1:].reshape(-1, args[0].shape[-1])
        self._hessians[name] = inputs.T @ inputs

    def __call__(self, layer: Any, args: Any, kwargs: Any, _output: Any) -> Any:
        for hook in self._hooks:
            hook.remove()
        for part, names in _SHARED_INPUTS:
            modules = {f"{part}.{name}": layer.get_submodule(f"{part}.{name}") for name in names}
            weight = torch.cat([module.weight for module in modules.values()])
            rounded = iter(_split(_gptq(weight, self._hessians.pop(names[0]), self._bits), modules.values()))
            for name, module in modules.items():
                self._weights[f"{self._name}.{name}.weight"] = levels = next(rounded)
                module.weight.copy_(torch.from_numpy(levels.weight))
        return layer.forward(*args, **kwargs)


def _split(rounded: Rounded, modules: Any) -> Iterator[Rounded]:
    begin = 0
    for module in modules:
        rows = slice(begin, begin := begin + module.out_features)
        levels, scales, zeros = rounded.levels[rows], rounded.scales[rows], rounded.zeros[rows]
        yield Rounded(rounded.bits, levels, scales, zeros, rounded.group)


def _gptq(weight: Tensor, hessian: Tensor, bits: int) -> Rounded:
    order = torch.argsort(hessian.diagonal(), descending=True)
    rows, inverse = weight.T[order].contiguous(), _inverse(hessian[order][:, order])  # rows: (inputs, outputs)
    half, levels, scales = 2 ** (bits - 1), torch.empty_like(rows), []
    for begin in range(0, len(rows), GROUP):
        block = slice(begin, begin + GROUP)
        spread = rows[block].abs().amax(0) * 2 / (2**bits - 1)
        scales.append(torch.from_numpy(exact_scales(spread.numpy())))
        errors = _round(rows[block], scales[-1], inverse[block, block], levels[block], half)
        rows[begin + GROUP :] -= inverse[block, begin + GROUP :].T @ errors
    restored = torch.argsort(order)  # back to the order of the inputs
    unsigned = (levels[restored].T + half).to(torch.int32).numpy()
    zeros = np.full((len(unsigned), len(scales)), half, np.int32)
    return Rounded(bits, unsigned, torch.stack(scales, 1).numpy(), zeros, (restored // GROUP).to(torch.int32).numpy())


def _inverse(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse Hessian; its rows weight the correction of later columns."""
    damped = hessian + _DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _round(rows: Tensor, scale: Tensor, inverse: Tensor, levels: Tensor, half: int) -> Tensor:
    """Round `rows`, which form one group, into `levels`; return the errors that later groups are corrected for."""
    errors = torch.empty_like(rows)
    for row in range(len(rows)):
        levels[row] = torch.clamp(torch.round(rows[row] / scale), -half, half - 1)
        errors[row] = (rows[row] - levels[row] * scale) / inverse[row, row]
        rows[row:] -= inverse[row, row:, None] * errors[row]
    return errors
