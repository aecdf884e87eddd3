"""The llama.cpp library of this process: start it, ask what it was compiled with, capture its log."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from pathlib import Path

import llama_cpp.llama_cpp as native

from modules.engines.llamacpp.amx_check import try_amx
from modules.engines.llamacpp.arguments import Build

_DEBUG_LEVEL, _ERROR_LEVEL = 1, 4  # of ggml_log_level
_AMX = b"AMX_INT8 = 1"


@cache
def initialize(numa: int = 0) -> None:
    """Initialize the backends once per process. `numa` is a ggml_numa_strategy, 0 for none."""
    native.llama_backend_init()
    if numa:
        native.llama_numa_init(numa)


@cache
def installed_build() -> Build:
    """Return what the installed library was compiled with, and whether it can repack weights: AMX kernels may crash."""
    may_use_amx = _AMX in native.llama_print_system_info()
    return Build(
        gpu_offload=bool(native.llama_supports_gpu_offload()),
        max_devices=int(native.llama_max_devices()),
        repacks=not may_use_amx or try_amx(Path(native.__file__).parent / "lib") != "fails",
    )


class NativeLog:
    """Forwards llama.cpp's log to stderr, where the parent process keeps it, and collects its errors.

    The library has one log callback per process: a new instance replaces the previous one.
    """

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._stderr = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        self.callback = native.llama_log_callback(self._receive)
        native.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _user: object) -> None:
        if level == _DEBUG_LEVEL:
            return
        with contextlib.suppress(OSError):
            self._stderr.write(text)
        if level == _ERROR_LEVEL:
            self._errors.append(text.decode("utf-8", "replace").strip())

    def __len__(self) -> int:
        """Return how many errors have been logged so far: a mark for `errors_since`."""
        return len(self._errors)

    def errors_since(self, mark: int) -> str:
        """Join the errors logged after `mark`, without repetitions; "" if there are none."""
        return " / ".join(dict.fromkeys(self._errors[mark:]))

    def last_errors(self, count: int = 3) -> str:
        """Join the last `count` errors, without repetitions; "" if there are none."""
        return self.errors_since(max(len(self._errors) - count, 0))
