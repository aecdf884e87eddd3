"""The one place where torch is changed: whoever asks for a CUDA device gets the CPU.

The functions are replaced, not intercepted by a torch function mode: a mode holds for one thread only, and a worker
loads in one and generates in another. torch.cuda.is_available() goes on saying no.
"""

from __future__ import annotations

import contextlib
import functools
import os
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo  # it makes a table of torch's functions when it is imported, and exllamav2 will: so let it, first

CPU = torch.device("cpu")
GIGABYTES = 24 << 30
"""What each card says that it has."""

_MAKERS = (
    *("empty", "zeros", "ones", "full", "tensor", "as_tensor", "arange", "linspace", "eye"),
    *("rand", "randn", "randint", "randperm", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like"),
    *("randn_like", "empty_strided"),
)
_METHODS = ("new_empty", "new_zeros", "new_ones", "new_full", "new_tensor")
_Device = torch.device


def cards() -> int:
    """How many there seem to be; a test of splitting may ask for more than one."""
    return int(os.environ.get("EXLLAMAV2_STANDIN_CARDS", "1"))


def land_on_the_cpu() -> None:
    torch.device = _AnyDevice  # type: ignore[misc, assignment]
    for name in _MAKERS:
        setattr(torch, name, _landing(getattr(torch, name)))
    for name in _METHODS:
        setattr(torch.Tensor, name, _landing(getattr(torch.Tensor, name)))
    torch.Tensor.to = _to(torch.Tensor.to)  # type: ignore[method-assign, assignment]
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    for name, value in _cuda().items():
        setattr(torch.cuda, name, value)


# -- devices -----------------------------------------------------------------------------------------------------------


def landed(device: Any) -> Any:
    """`device`, unless it is of CUDA: by its name, by its number, or a torch.device."""
    if isinstance(device, bool) or device is None:
        return device
    if isinstance(device, int) or str(device).partition(":")[0] == "cuda":
        return CPU
    return device


class _Whether(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Device)

    def __subclasscheck__(cls, other: type) -> bool:
        return other is cls or issubclass(other, _Device)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """A real torch.device: there is no other kind."""
        if args and isinstance(args[0], int):
            return CPU
        return landed(_Device(*args, **kwargs))


class _AnyDevice(metaclass=_Whether):
    """torch.device; torch cannot even name one by its number where there is none."""


def _landing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_device(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None:
            kwargs["device"] = landed(kwargs["device"])
        kwargs.pop("pin_memory", None)
        return function(*args, **kwargs)

    return with_device


def _to(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if "device" in kwargs:
            kwargs["device"] = landed(kwargs["device"])
        if args and not isinstance(args[0], torch.dtype | torch.Tensor):
            args = (landed(args[0]), *args[1:])
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
def _within(*_: Any, **__: Any) -> Iterator[None]:
    yield


def _nothing(*_: Any, **__: Any) -> None: ...


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _properties(*_: Any) -> types.SimpleNamespace:
    """Of a card that flash-attn would run on."""
    return types.SimpleNamespace(name="stand-in", major=8, minor=0, total_memory=GIGABYTES)


def _cuda() -> dict[str, Any]:
    silent = ("set_stream", "set_device", "synchronize", "empty_cache", "reset_peak_memory_stats")
    return {
        "Stream": _Stream,
        "stream": _within,
        "device": _within,
        "current_stream": lambda *_: _Stream(),
        "device_count": cards,
        "current_device": _zero,
        "get_device_properties": _properties,
        "get_device_name": lambda *_: "stand-in",
        "get_device_capability": lambda *_: (8, 0),
        "mem_get_info": lambda *_: (GIGABYTES, GIGABYTES),
        "memory_allocated": _zero,
        "max_memory_allocated": _zero,
        **dict.fromkeys(silent, _nothing),
    }
