"""Corrections of autoawq 0.2.9, the last version (https://github.com/casper-hansen/AutoAWQ was archived in May 2025).

All of them are here; tests/engines/autoawq/test_build.py fails once one is no longer needed.

* `get_best_device`: without a GPU it requires intel_extension_for_pytorch, and refuses to load.
* `AwqConfig`: it ignores quant_config.json, and a version in capitals, or none, leaves it without a class.
* `load_checkpoint_and_dispatch`: it does not report a missing tensor; and of layers that are to stay in main memory it
  puts all weights on the GPU after all, because they are buffers.
* `flash_attn_with_kvcache`: fused attention has written the new token's key and value to its cache when it calls this,
  and passes them again, with a length that includes them: the token would attend to itself twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import find_tied_parameters
from safetensors import safe_open

from modules.core.events import Json
from modules.engines.autoawq.cpu_kernel import Kernels
from modules.engines.autoawq.package import attn, base, gemm

UNKNOWN_DEVICE = "cpu-naive"
"""A device that autoawq has no rule for: it then loads, and computes with the kernels it finds."""
_LAYERS_FRACTION = 0.5  # of a load, once all layers have been replaced and their weights can be read


@contextlib.contextmanager
def patched_loading(config: Mapping[str, Json], on_cpu: bool, progress: Callable[[float], None]) -> Iterator[None]:
    """Patch autoawq while a model is loaded. `progress` gets the loaded fraction, 0 to 1."""
    with contextlib.ExitStack() as restoring:

        def replace(name: str, value: object) -> None:
            restoring.callback(setattr, base, name, getattr(base, name))
            setattr(base, name, value)

        awq_config = base.AwqConfig(**config)
        replace("AwqConfig", SimpleNamespace(from_pretrained=lambda _path: awq_config))
        replace("load_checkpoint_and_dispatch", _checking(base.load_checkpoint_and_dispatch))
        replace("tqdm", lambda items, **_: _report_progress(items, progress))
        if on_cpu:
            replace("get_best_device", lambda: UNKNOWN_DEVICE)
        yield
    progress(1.0)


def use_cpu_kernels() -> None:
    """Have autoawq call our `Kernels`, for models after `cpu_kernel.repack_model`, for the rest of the process."""
    gemm.awq_ext = Kernels


def patch_fused_attention() -> None:
    """Have fused attention count the new token once, for the rest of the process."""
    attend: Callable[..., Any] = attn.flash_attn_with_kvcache
    if not isinstance(attend, _WithoutNewToken):
        attn.flash_attn_with_kvcache = _WithoutNewToken(attend)


class _WithoutNewToken:
    """`flash_attn_with_kvcache` without the key and value that the cache already holds."""

    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._attend(*args, **{**kwargs, "k": None, "v": None})


def _report_progress(items: Iterable[Any], progress: Callable[[float], None]) -> Iterator[Any]:
    """Replace tqdm's progress bar over the layers."""
    layers = list(items)
    for done, layer in enumerate(layers, 1):
        yield layer
        progress(_LAYERS_FRACTION * done / len(layers))


def _checking(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `load` to raise ValueError for missing tensors and to offload buffers too."""

    def load_checked(model: torch.nn.Module, checkpoint: str, **kwargs: Any) -> Any:
        if missing := sorted(_missing_tensors(model, tensor_names(Path(checkpoint)))):
            raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")
        return load(model, checkpoint=checkpoint, offload_buffers=True, **kwargs)

    return load_checked


def _missing_tensors(model: torch.nn.Module, present: set[str]) -> set[str]:
    """Return the tensors that the model needs and the files have under none of their tied names."""
    tied = [set(group) for group in find_tied_parameters(model)]
    available = present.union(*(group for group in tied if group & present))
    return set(model.state_dict()) - available


def tensor_names(weights: Path) -> set[str]:
    """Return the names of the tensors in a weight file, or in the files of an index."""
    if weights.suffix == ".json":
        return set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"])
    if weights.suffix == ".safetensors":
        with safe_open(weights, framework="pt") as file:
            return set(file.keys())
    return set(torch.load(weights, map_location="meta", weights_only=True))
