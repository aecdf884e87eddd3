"""Whether llama.cpp copies weights into the form that AMX multiplies, which takes memory; any process may ask."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from modules.engines.llamacpp.amx_check import LIBRARIES, try_amx
from modules.engines.llamacpp.arguments import OVERLAY
from modules.system import cpu_memory

_TRACE = b"amx repack tensor"
"""A message in libraries that were compiled with AMX."""


def uses_amx() -> bool:
    """Whether the installed build of llama.cpp multiplies with AMX on this machine. It may be installed at any time."""
    library = _library() if cpu_memory.has_amx() else None
    if library is None:
        return False
    try:
        status = library.stat()
        return _has_working_kernels(library, status.st_mtime_ns, status.st_size)
    except OSError:
        return False


def _library() -> Path | None:
    """Return libggml-cpu.so of the environment's llama_cpp, or else of the overlay's; None without one."""
    spec = importlib.util.find_spec("llama_cpp")
    packages = [*map(Path, (spec and spec.submodule_search_locations) or ()), OVERLAY / "llama_cpp"]
    files = (package / "lib" / LIBRARIES[-1] for package in packages)
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _has_working_kernels(library: Path, _changed: int, _size: int) -> bool:
    return _TRACE in library.read_bytes() and try_amx(library.parent) == "works"
