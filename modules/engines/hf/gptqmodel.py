"""Check and adapt the quantized layers of gptqmodel after loading.

In a model that computes in float32 on a CPU: gptqmodel's CPU kernels expect bfloat16. Given another dtype, they
dequantize a layer's weights for every token, at half a token per second. With the whole model in bfloat16,
log-probabilities are 0.35 away from those of the weights; with only the inputs and outputs of the kernels in bfloat16
they are a third as far, and decoding is as fast; prefill runs at 0.6 of the speed (SmolLM2-135M in 4 bits, gptqmodel
7.7.0, two cores). float16 would work too, except for models trained in bfloat16, whose values may exceed its range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_KERNEL_DTYPE = torch.bfloat16


def run_kernels_in_bfloat16(module: Any) -> None:
    """Convert the inputs of every quantized layer of `module` to the kernels' dtype, and the outputs to float32."""
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    for layer in module.modules():
        if isinstance(layer, BaseQuantLinear):
            layer.register_forward_pre_hook(_to_kernel_dtype)
            layer.register_forward_hook(_to_float32)


def disable_compilation() -> None:
    """Keep gptqmodel from compiling the code that unpacks a layer's weights, as it does on a CPU for 8 bits.

    It compiles that for every layer, which costs a third of a second and a megabyte each, and needs a C++ compiler.
    Decoding becomes no faster: of SmolLM2-135M, 24 tokens take 43 s of CPU time compiled and 40 s uncompiled, the
    first answer 98 s and 36 s (gptqmodel 7.7.0, PyTorch 2.13).
    """
    import torch._dynamo.config

    torch._dynamo.config.disable = True


def check_layers_on_gpus(module: Any) -> None:
    """Raise ValueError if a quantized layer of `module` is not on a GPU.

    Some kernels refuse that themselves. The others keep their weights in buffers, which accelerate leaves on the GPU
    whatever the limits are; moved away by `offload_buffers`, those of GPTQ are lost when gptqmodel converts them.
    """
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    layers = (name for name, layer in module.named_modules() if isinstance(layer, BaseQuantLinear))
    if name := first_layer_outside_gpus(getattr(module, "hf_device_map", {}), layers):
        raise ValueError(f"packed layers are outside the GPUs: {name}")


def first_layer_outside_gpus(device_map: Mapping[str, object], layers: Iterable[str]) -> str | None:
    """Return the first of `layers` that `device_map`, of module names to devices, assigns to the CPU or the disk."""
    offloaded = tuple(
        f"{part}." if part else "" for part, device in device_map.items() if str(device) in ("cpu", "disk")
    )
    return next((name for name in layers if f"{name}.".startswith(offloaded)), None)


def _to_kernel_dtype(_layer: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].to(_KERNEL_DTYPE), *args[1:])


def _to_float32(_layer: object, _args: object, out: Tensor) -> Tensor:
    return out.float()
