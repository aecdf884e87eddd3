"""GPTQ proper, with act-order: each column is rounded in turn, the most used first, and those to come make up for it.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization" (arXiv 2210.17323), algorithm 1. A layer's inputs on
a text, by those of its layers before that are quantised already, tell how much each column matters. The text is
Python's own documentation, which every interpreter has.
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

from tests.support.quantised_packing import GROUP, Rounded, fine_scales

_TEXTS, _LENGTH = 32, 256  # so many, of so many tokens each
_DAMPING = 0.1  # of the mean of the Hessian's diagonal: usual is 0.01, but for thirty times as many tokens
_SAME_INPUT = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)


def calibrated(source: Path, bits: int) -> dict[str, Rounded]:
    """Every projection of the model in `source`, symmetric, by the name of its weight."""
    torch.set_num_threads(1)  # of many small steps: threads that wait for each other made it take eight times as long
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    read = (tokenizer(text).input_ids[:_LENGTH] for _, text in sorted(topics.items()))
    tokens = torch.tensor(list(islice((each for each in read if len(each) == _LENGTH), _TEXTS)))
    found: dict[str, Rounded] = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(_Quantising(layer, f"model.layers.{number}", bits, found), with_kwargs=True)
    with torch.no_grad():
        model.model(input_ids=tokens, use_cache=False)
    return found


class _Quantising:
    """Of one layer of the model. Called when it has computed: it then does so again, on its weights as rounded."""

    def __init__(self, layer: Any, name: str, bits: int, found: dict[str, Rounded]) -> None:
        self._name, self._bits, self._found = name, bits, found
        self._hessians: dict[str, Tensor] = {}
        self._watched = [
            layer.get_submodule(f"{part}.{names[0]}").register_forward_pre_hook(partial(self._note, names[0]))
            for part, names in _SAME_INPUT
        ]

    def _note(self, name: str, _module: Any, args: Any) -> None:
        # But for the first token of a text, whose numbers are so large that they would outweigh all others.
        inputs = args[0][:, 1:].reshape(-1, args[0].shape[-1])
        self._hessians[name] = inputs.T @ inputs

    def __call__(self, layer: Any, args: Any, kwargs: Any, _output: Any) -> Any:
        for watched in self._watched:
            watched.remove()
        for part, names in _SAME_INPUT:
            modules = {f"{part}.{name}": layer.get_submodule(f"{part}.{name}") for name in names}
            weight = torch.cat([module.weight for module in modules.values()])
            rounded = iter(_split(_gptq(weight, self._hessians.pop(names[0]), self._bits), modules.values()))
            for name, module in modules.items():
                self._found[f"{self._name}.{name}.weight"] = each = next(rounded)
                module.weight.copy_(torch.from_numpy(each.weight))
        return layer.forward(*args, **kwargs)


def _split(rounded: Rounded, modules: Any) -> Iterator[Rounded]:
    begin = 0
    for module in modules:
        rows = slice(begin, begin := begin + module.out_features)
        levels, scales, zeros = rounded.levels[rows], rounded.scales[rows], rounded.zeros[rows]
        yield Rounded(rounded.bits, levels, scales, zeros, rounded.group)


def _gptq(weight: Tensor, hessian: Tensor, bits: int) -> Rounded:
    order = torch.argsort(hessian.diagonal(), descending=True)
    left, inverse = weight.T[order].contiguous(), _inverse(hessian[order][:, order])  # (inputs, outputs)
    half, levels, scales = 2 ** (bits - 1), torch.empty_like(left), []
    for begin in range(0, len(left), GROUP):
        block = slice(begin, begin + GROUP)
        spread = left[block].abs().amax(0) * 2 / (2**bits - 1)
        scales.append(torch.from_numpy(fine_scales(spread.numpy())))
        errors = _round(left[block], scales[-1], inverse[block, block], levels[block], half)
        left[begin + GROUP :] -= inverse[block, begin + GROUP :].T @ errors
    back = torch.argsort(order)
    whole = (levels[back].T + half).to(torch.int32).numpy()
    zeros = np.full((len(whole), len(scales)), half, np.int32)
    return Rounded(bits, whole, torch.stack(scales, 1).numpy(), zeros, (back // GROUP).to(torch.int32).numpy())


def _inverse(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of its inverse, whose rows say how later columns make up for an error."""
    damped = hessian + _DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _round(left: Tensor, scale: Tensor, inverse: Tensor, levels: Tensor, half: int) -> Tensor:
    """Round the rows of `left`, all of one group, into `levels`; the errors that other groups are to make up for."""
    errors = torch.empty_like(left)
    for row in range(len(left)):
        levels[row] = torch.clamp(torch.round(left[row] / scale), -half, half - 1)
        errors[row] = (left[row] - levels[row] * scale) / inverse[row, row]
        left[row:] -= inverse[row, row:, None] * errors[row]
    return errors
