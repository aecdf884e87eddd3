"""Layers of gptqmodel's in a model that calculates in float32 on a CPU.

gptqmodel's kernels for a CPU want bfloat16: given anything else, they unpack a layer's weights for every token, at half
a token per second. All of the model in bfloat16 takes the logarithms of probabilities 0.35 away from what the weights
say; with only the kernels' inputs and outputs in it they are a third as far, and tokens come as fast: prompts are read
at 0.6 of the speed (SmolLM2-135M in 4 bits, gptqmodel 7.7.0, two cores). float16 would do as well, but for models made
in bfloat16, whose numbers may be beyond it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_KERNELS = torch.bfloat16


def in_their_numbers(module: Any) -> None:
    """Have each packed layer of `module` take and give what the rest of it calculates in."""
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    for layer in module.modules():
        if isinstance(layer, BaseQuantLinear):
            layer.register_forward_pre_hook(_narrow)
            layer.register_forward_hook(_widen)


def _narrow(_layer: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(_KERNELS), *args[1:])


def _widen(_layer: object, _args: object, out: Tensor) -> Tensor:
    return out.float()
