"""The graphics cards of this machine and their memory, asked of their drivers: no library, and no context on the card.

NVIDIA's through `nvidia-smi`, which comes with every driver; AMD's through the files of the Linux kernel. Others are
not known here, such as Apple's and Intel's, which mostly share the main memory anyway.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

_AMD_CARDS = Path("/sys/class/drm")
_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
_TIMEOUT = 5.0  # seconds; the first call wakes a card that sleeps
_ACCELERATORS = ("cuda", "hip", "vulkan", "sycl", "cann", "musa")  # libraries of ggml that have memory of their own


@dataclass(frozen=True)
class Gpu:
    """One card; `total` and `free` are bytes of its own memory."""

    name: str
    total: int
    free: int


@dataclass
class Gpus:
    """The cards, asked anew when what is known is older than `patience` seconds: a question takes a tenth of one."""

    ask: Callable[[], tuple[Gpu, ...]] = field(default_factory=lambda: present)
    patience: float = 2.0
    _known: tuple[Gpu, ...] = ()
    _asked: float = float("-inf")

    def now(self) -> tuple[Gpu, ...]:
        if time.monotonic() - self._asked > self.patience:
            self._known, self._asked = self.ask(), time.monotonic()
        return self._known


def present() -> tuple[Gpu, ...]:
    """The cards in the order of their drivers; none where nobody tells of any."""
    return nvidia() or amd()


def nvidia(program: str = "nvidia-smi") -> tuple[Gpu, ...]:
    found = shutil.which(program)
    if found is None:
        return ()
    try:
        told = subprocess.run([found, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parsed(told)


def parsed(told: str) -> tuple[Gpu, ...]:
    """What `nvidia-smi` says, a card a line, in MiB. One whose memory is not told ("[N/A]") is left out."""
    rows = [[part.strip() for part in line.rsplit(",", 2)] for line in told.splitlines()]
    whole = [row for row in rows if len(row) == 3 and row[1].isdigit() and row[2].isdigit()]
    return tuple(Gpu(name, int(total) << 20, int(free) << 20) for name, total, free in whole)


def amd(cards: Path = _AMD_CARDS) -> tuple[Gpu, ...]:
    found: list[Gpu] = []
    for used in sorted(cards.glob("card*/device/mem_info_vram_used")):
        try:
            total = int((used.parent / "mem_info_vram_total").read_text())
            free = max(total - int(used.read_text()), 0)
        except (OSError, ValueError):
            continue
        found.append(Gpu(f"AMD GPU {len(found)}", total, free))
    return tuple(found)


def torch_build() -> str:
    """What the installed PyTorch was built for, as far as its version says: "cpu", "cu130", "rocm6.4", "" if that is
    left out. "cpu", too, where there is none."""
    try:
        return importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return "cpu"


def torch_uses_them() -> bool:
    """Whether it was built for graphics cards."""
    return torch_build() != "cpu"


def llamacpp_uses_them() -> bool:
    """Whether the installed llama-cpp-python was built for graphics cards that have a memory of their own."""
    spec = PathFinder.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return False
    libraries = Path(spec.origin).parent / "lib"
    return any(next(libraries.glob(f"*ggml-{name}*"), None) is not None for name in _ACCELERATORS)
