"""Linear layers of a model on a CPU for oneDNN, which wants the weights in an order of its own.

Given them as they lie in the files, MKL and oneDNN rearrange them at every call, or read them slowly: in 32 bits, a
token took half as long again, a prompt 2.3 times as long, and four tokens at once twice as long as one. The rearranged
copy takes the place of the weights, so that a model needs no more memory than before (benchmarks/README.md).
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from modules.system.mapped_files import drop_mapped_pages

_ROWS = 8  # of the input, for which oneDNN chooses the order; others are computed with it as well


class OnednnLinear(torch.nn.Linear):
    """A linear layer computed by oneDNN, with its weights as they are."""

    def forward(self, input: Tensor) -> Tensor:
        return self._multiply(input, self.weight)

    def _multiply(self, input: Tensor, weight: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, self.bias, "none", [], "")
        return output


class PackedLinear(OnednnLinear):
    """A linear layer that has nothing but the rearranged copy of its weights, `packed_weight`."""

    packed_weight: Tensor

    @property
    def weight(self) -> torch.nn.Parameter:  # type: ignore[override]
        """The weights [out, in], copied into new memory at every access: a LoRA may need them."""
        return torch.nn.Parameter(self.packed_weight.to_dense(), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return self._multiply(input, self.packed_weight)


def pack_linear_layers(module: torch.nn.Module) -> None:
    """Make the linear layers of `module` packed ones, which serve inference alone.

    Layers that are quantized, offloaded, on other devices, or in a dtype that oneDNN cannot compute in, stay as they
    are. A layer that shares its weights with another module, such as the embeddings, keeps them.
    """
    dtypes = _packable_dtypes()
    users = Counter(id(own) for child in module.modules() for own in child.parameters(recurse=False))
    for layer in [child for child in module.modules() if type(child) is torch.nn.Linear]:
        weight = layer.weight
        if weight.dtype not in dtypes or weight.device.type != "cpu" or hasattr(layer, "_hf_hook"):
            continue
        if users[id(weight)] == 1:
            _pack(layer)
        elif weight.dtype == torch.float32:  # PyTorch uses oneDNN in 16 bits, but MKL in 32
            layer.__class__ = OnednnLinear


def _packable_dtypes() -> set[torch.dtype]:
    operators: Any = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    is_x86 = platform.machine() in ("x86_64", "AMD64")  # nothing was measured on other processors
    is_available: Any = torch.backends.mkldnn.is_available
    if not is_x86 or not is_available() or not all(hasattr(operators, name) for name in names):
        return set()
    return {torch.float32, *([torch.bfloat16] if operators._is_mkldnn_bf16_supported() else [])}


def _pack(layer: torch.nn.Linear) -> None:
    weight = layer.weight.detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
    drop_mapped_pages(weight.data_ptr(), weight.nbytes)
    del layer._parameters["weight"]
    layer.__class__ = PackedLinear
    layer.register_buffer("packed_weight", packed, persistent=False)
