"""Monkey patches of torch that use the CPU where a CUDA device is requested.

The functions are replaced, not intercepted by a torch function mode: a mode applies to one thread only, and a worker
loads in one thread and generates in another. torch.cuda.is_available() still returns False.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Its import makes a table of torch's functions. exllamav2 imports it, but only after torch has been patched.
import torch._dynamo

CPU = torch.device("cpu")
GPU_MEMORY = 24 << 30
"""Bytes that each GPU reports, in total and as free."""

_TENSOR_FACTORIES = (
    *("empty", "zeros", "ones", "full", "tensor", "as_tensor", "arange", "linspace", "eye"),
    *("rand", "randn", "randint", "randperm", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like"),
    *("randn_like", "empty_strided"),
)
_TENSOR_METHODS = ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor")
_TorchDevice = torch.device


def gpu_count() -> int:
    """Return the number of GPUs to report; tests of splitting set more than one."""
    return int(os.environ.get("EXLLAMAV2_STANDIN_GPUS", "1"))


def redirect_cuda_to_cpu() -> None:
    torch.device = _RedirectedDevice  # type: ignore[misc, assignment]
    for name in _TENSOR_FACTORIES:
        setattr(torch, name, _with_redirected_device(getattr(torch, name)))
    for name in _TENSOR_METHODS:
        setattr(torch.Tensor, name, _with_redirected_device(getattr(torch.Tensor, name)))
    torch.Tensor.to = _redirected_to(torch.Tensor.to)  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    for name, value in _cuda().items():
        setattr(torch.cuda, name, value)


# -- devices -----------------------------------------------------------------------------------------------------------


def redirect(device: Any) -> Any:
    """Return the CPU if `device` is a CUDA device: its name, its number or a torch.device. Else return `device`."""
    if isinstance(device, bool) or device is None:
        return device
    if isinstance(device, int) or str(device).partition(":")[0] == "cuda":
        return CPU
    return device


class _DeviceType(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _TorchDevice)

    def __subclasscheck__(cls, other: type) -> bool:
        return other is cls or issubclass(other, _TorchDevice)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a real torch.device."""
        if args and isinstance(args[0], int):
            return CPU
        return redirect(_TorchDevice(*args, **kwargs))


class _RedirectedDevice(metaclass=_DeviceType):
    """Replaces torch.device, whose constructor raises an error for a number if there is no GPU."""


def _with_redirected_device(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_device(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None:
            kwargs["device"] = redirect(kwargs["device"])
        kwargs.pop("pin_memory", None)
        return function(*args, **kwargs)

    return with_device


def _redirected_to(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if "device" in kwargs:
            kwargs["device"] = redirect(kwargs["device"])
        if args and not isinstance(args[0], torch.dtype | torch.Tensor):
            args = (redirect(args[0]), *args[1:])
        result: torch.Tensor = function(self, *args, **kwargs)
        return result

    return to


# -- torch.cuda --------------------------------------------------------------------------------------------------------


class _Stream:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = CPU

    def synchronize(self) -> None: ...

    def wait_stream(self, other: _Stream) -> None: ...


@contextlib.contextmanager
def _null_context(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _do_nothing(*_: Any, **__: Any) -> None: ...


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _properties(*_: Any) -> types.SimpleNamespace:
    """Return the properties of a GPU that flash-attn supports."""
    return types.SimpleNamespace(name="stand-in", major=8, minor=0, total_memory=GPU_MEMORY)


def _cuda() -> dict[str, Any]:
    silent = ("set_stream", "set_device", "synchronize", "empty_cache", "reset_peak_memory_stats")
    return {
        "Stream": _Stream,
        "stream": _null_context,
        "device": _null_context,
        "current_stream": lambda *_: _Stream(),
        "device_count": gpu_count,
        "current_device": _zero,
        "get_device_properties": _properties,
        "get_device_name": lambda *_: "stand-in",
        "get_device_capability": lambda *_: (8, 0),
        "mem_get_info": lambda *_: (GPU_MEMORY, GPU_MEMORY),
        "memory_allocated": _zero,
        "max_memory_allocated": _zero,
        **dict.fromkeys(silent, _do_nothing),
    }
