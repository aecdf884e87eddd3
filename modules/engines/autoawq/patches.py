"""What is not right for us in autoawq 0.2.9, the last one that there is (https://github.com/casper-hansen/AutoAWQ was
closed in May 2025), set right here and nowhere else. tests/engines/autoawq/test_autoawq.py tells when one is no longer
needed.

* `best_device`: without a GPU it wants intel_extension_for_pytorch, and refuses to load.
* `AwqConfig`: it passes over quant_config.json, and a version in capitals, or none, leaves it without a class.
* `load_checkpoint_and_dispatch`: it does not say which tensor is missing; and of layers that are to stay in main memory
  it puts all weights on the GPU after all, as they are buffers.
* `flash_attn_with_kvcache`: fused attention has put the new token's key and value into its cache when it calls this,
  and passes them once more, with a length that counts them already: the token would see itself twice.
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

NAIVE = "cpu-naive"
"""A device that autoawq has no opinion of: it then loads, and computes with whatever it finds."""
_REPLACED = 0.5  # of a load, when all layers are ready for their weights


@contextlib.contextmanager
def mended(config: Mapping[str, Json], on_cpu: bool, advance: Callable[[float], None]) -> Iterator[None]:
    """For as long as a model is loaded. `advance` is told the part that is done."""
    with contextlib.ExitStack() as undoing:

        def put(name: str, value: object) -> None:
            undoing.callback(setattr, base, name, getattr(base, name))
            setattr(base, name, value)

        made = base.AwqConfig(**config)
        put("AwqConfig", SimpleNamespace(from_pretrained=lambda _path: made))
        put("load_checkpoint_and_dispatch", _checked(base.load_checkpoint_and_dispatch))
        put("tqdm", lambda items, **_: _counted(items, advance))
        if on_cpu:
            put("get_best_device", lambda: NAIVE)
        yield
    advance(1.0)


def use_kernels_of_torch() -> None:
    """For layers that `autoawq_cpu.repack` has been at, until this process ends."""
    gemm.awq_ext = Kernels


def see_each_token_once() -> None:
    """In the attention of fused layers, until this process ends."""
    told: Callable[..., Any] = attn.flash_attn_with_kvcache
    if not isinstance(told, _Once):
        attn.flash_attn_with_kvcache = _Once(told)


class _Once:
    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def __call__(self, *args: Any, **words: Any) -> Any:
        return self._attend(*args, **{**words, "k": None, "v": None})


def _counted(items: Iterable[Any], advance: Callable[[float], None]) -> Iterator[Any]:
    """In the place of a bar."""
    every = list(items)
    for done, item in enumerate(every, 1):
        yield item
        advance(_REPLACED * done / len(every))


def _checked(load: Callable[..., Any]) -> Callable[..., Any]:
    def checked(model: torch.nn.Module, checkpoint: str, **words: Any) -> Any:
        if missing := sorted(_missing(model, names(Path(checkpoint)))):
            raise ValueError(f"missing tensor '{missing[0]}' and {len(missing) - 1} more")
        return load(model, checkpoint=checkpoint, offload_buffers=True, **words)

    return checked


def _missing(model: torch.nn.Module, there: set[str]) -> set[str]:
    """What the model needs and has no other name for."""
    tied = [set(group) for group in find_tied_parameters(model)]
    had = there.union(*(group for group in tied if group & there))
    return set(model.state_dict()) - had


def names(weights: Path) -> set[str]:
    """Those of the tensors in a file, or in the files of an index."""
    if weights.suffix == ".json":
        return set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"])
    if weights.suffix == ".safetensors":
        with safe_open(weights, framework="pt") as file:
            return set(file.keys())
    return set(torch.load(weights, map_location="meta", weights_only=True))
