"""Detect GPUs and their memory through their drivers, without a library and without a context on the GPU.

NVIDIA GPUs through `nvidia-smi`, which comes with every driver; AMD GPUs through files of the Linux kernel. Others are
not detected, such as Apple's and Intel's, which mostly share the main memory anyway.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

_AMD_DEVICES = Path("/sys/class/drm")
_QUERY = ("--query-gpu=uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_TIMEOUT = 5.0  # seconds; the first query wakes a sleeping GPU
_VISIBLE_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_NO_DEVICE = "-1"  # an empty value hides all GPUs from CUDA, but none from HIP
_TORCH_BUILD = re.compile(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]*)", re.MULTILINE)
_GGML_BACKENDS = ("cuda", "hip", "vulkan", "sycl", "cann", "musa")  # those whose devices have memory of their own


@dataclass(frozen=True)
class Gpu:
    """One GPU; `total` and `free` are bytes of its own memory."""

    name: str
    total: int
    free: int


@dataclass
class GpuMonitor:
    """Cache the detected GPUs for `max_age` seconds: a query takes a tenth of a second."""

    detect: Callable[[], tuple[Gpu, ...]] = field(default_factory=lambda: detect_gpus)
    max_age: float = 2.0
    _gpus: tuple[Gpu, ...] = ()
    _detected_at: float = float("-inf")

    def current(self) -> tuple[Gpu, ...]:
        if time.monotonic() - self._detected_at > self.max_age:
            self._gpus, self._detected_at = self.detect(), time.monotonic()
        return self._gpus


def detect_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs in the order of their driver."""
    return nvidia_gpus() or amd_gpus()


def nvidia_gpus(program: str = "nvidia-smi") -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA shows to this process, in PCI bus order.

    Workers are started with the same order (`worker_process`).
    """
    executable = shutil.which(program)
    if executable is None:
        return ()
    try:
        ran = subprocess.run([executable, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(ran.stdout, os.environ.get(_VISIBLE_DEVICES[0]))


def parse_nvidia_smi(output: str, visible_devices: str | None = None) -> tuple[Gpu, ...]:
    """Return the GPUs in the output of `nvidia-smi`, one a line, with memory in MiB.

    GPUs without memory figures ("[N/A]") are left out; so are those that `visible_devices`, a value of
    CUDA_VISIBLE_DEVICES, does not name.
    """
    rows = [row for row in map(_split_row, output.splitlines()) if len(row) == 4]
    shown = range(len(rows)) if visible_devices is None else _visible_indices(visible_devices, [row[0] for row in rows])
    complete = [rows[index][1:] for index in shown if rows[index][2].isdigit() and rows[index][3].isdigit()]
    return tuple(Gpu(name, int(total) << 20, int(free) << 20) for name, total, free in complete)


def _split_row(line: str) -> list[str]:
    """Split a line into its four fields. Only the name, the second one, may contain commas."""
    uuid, _, rest = line.partition(",")
    return [part.strip() for part in (uuid, *rest.rsplit(",", 2))]


def _visible_indices(visible_devices: str, uuids: Sequence[str]) -> list[int]:
    """Return the indices of the visible GPUs by CUDA's rules.

    An entry is an index or the beginning of a UUID. One that matches no GPU, or several, ends the list; a GPU that is
    named twice hides all of them.
    """
    shown: list[int] = []
    for entry in (part.strip() for part in visible_devices.split(",")):
        by_uuid = entry.startswith("GPU-")
        matches = [
            index for index, uuid in enumerate(uuids) if (uuid.startswith(entry) if by_uuid else str(index) == entry)
        ]
        if len(matches) != 1:
            break
        shown += matches
    return shown if len(set(shown)) == len(shown) else []


def hide_gpus() -> None:
    """Hide all GPUs from libraries that this process imports from now on."""
    os.environ.update(dict.fromkeys(_VISIBLE_DEVICES, _NO_DEVICE))


def amd_gpus(devices: Path = _AMD_DEVICES) -> tuple[Gpu, ...]:
    gpus: list[Gpu] = []
    for used in sorted(devices.glob("card*/device/mem_info_vram_used")):
        try:
            total = int((used.parent / "mem_info_vram_total").read_text())
            free = max(total - int(used.read_text()), 0)
        except (OSError, ValueError):
            continue
        gpus.append(Gpu(f"AMD GPU {len(gpus)}", total, free))
    return tuple(gpus)


def torch_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs of the vendor that PyTorch was built for."""
    backend, _ = torch_build()
    return amd_gpus() if backend == "hip" else nvidia_gpus() if backend else ()


def torch_build() -> tuple[str, str]:
    """Return the backend that the installed PyTorch was built for, and its version, such as ("cuda", "13.0").

    The backend is "cuda" or "hip"; both are empty for a build for the CPU, or without PyTorch. PyTorch's own version
    does not tell: the builds for Windows on PyPI lack "+cpu".
    """
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return "", ""
    try:
        build = _TORCH_BUILD.search((Path(spec.origin).parent / "version.py").read_text(encoding="utf-8"))
    except OSError:
        return "", ""
    return (build[1], build[2]) if build else ("", "")


def llamacpp_has_gpu_backend(overlay: Path | None = None) -> bool:
    """Return whether llama-cpp-python was built for GPUs that have memory of their own.

    It is looked for in the folder `overlay`, or in the main environment.
    """
    if overlay is not None and not overlay.is_dir():
        return False  # Python would cache that the folder is missing, and not find what is installed there later
    spec = PathFinder.find_spec("llama_cpp", None if overlay is None else [str(overlay)])
    if spec is None or spec.origin is None:
        return False
    libraries = Path(spec.origin).parent / "lib"
    return any(next(libraries.glob(f"*ggml-{backend}*"), None) is not None for backend in _GGML_BACKENDS)
