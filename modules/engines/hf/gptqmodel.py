"""Layers of gptqmodel's: what has to be seen to once they are loaded.

In a model that calculates in float32 on a CPU:
gptqmodel's kernels for a CPU want bfloat16: given anything else, they unpack a layer's weights for every token, at half
a token per second. All of the model in bfloat16 takes the logarithms of probabilities 0.35 away from what the weights
say; with only the kernels' inputs and outputs in it they are a third as far, and tokens come as fast: prompts are read
at 0.6 of the speed (SmolLM2-135M in 4 bits, gptqmodel 7.7.0, two cores). float16 would do as well, but for models made
in bfloat16, whose numbers may be beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def check_on_gpus(module: Any) -> None:
    """ValueError if a packed layer of `module` is not to stay on a GPU.

    Some kernels refuse that themselves. The others keep their weights in buffers, which accelerate leaves on the GPU
    whatever the limits are; moved away with `offload_buffers`, those of GPTQ are gone when gptqmodel converts them.
    """
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    layers = (name for name, layer in module.named_modules() if isinstance(layer, BaseQuantLinear))
    if name := first_outside(getattr(module, "hf_device_map", {}), layers):
        raise ValueError(f"packed layers are outside the GPUs: {name}")


def first_outside(places: Mapping[str, object], layers: Iterable[str]) -> str | None:
    """The first of the `layers` that lies in a part whose place is no GPU."""
    away = tuple(f"{part}." if part else "" for part, place in places.items() if str(place) in ("cpu", "disk"))
    return next((name for name in layers if f"{name}.".startswith(away)), None)


def _narrow(_layer: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(_KERNELS), *args[1:])


def _widen(_layer: object, _args: object, out: Tensor) -> Tensor:
    return out.float()
