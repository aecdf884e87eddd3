"""The graphics cards of this machine and their memory, asked of their drivers: no library, and no context on the card.

NVIDIA's through `nvidia-smi`, which comes with every driver; AMD's through the files of the Linux kernel. Others are
not known here, such as Apple's and Intel's, which mostly share the main memory anyway.
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

_AMD_CARDS = Path("/sys/class/drm")
_QUERY = ("--query-gpu=uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_TIMEOUT = 5.0  # seconds; the first call wakes a card that sleeps
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_NONE = "-1"  # "" would be none to CUDA, but all to HIP
_BUILT_FOR = re.compile(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]*)", re.MULTILINE)
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
    """Those that CUDA shows to this program, in the order of their places on the bus: workers are told to take that
    order, too (`process`)."""
    found = shutil.which(program)
    if found is None:
        return ()
    try:
        told = subprocess.run([found, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parsed(told, os.environ.get(_VISIBLE[0]))


def parsed(told: str, visible: str | None = None) -> tuple[Gpu, ...]:
    """What `nvidia-smi` says, a card a line, in MiB. One whose memory is not told ("[N/A]") is left out; and so is what
    `visible`, a value of CUDA_VISIBLE_DEVICES, does not name."""
    rows = [row for row in map(_row, told.splitlines()) if len(row) == 4]
    places = range(len(rows)) if visible is None else _shown(visible, [uuid for uuid, *_ in rows])
    whole = [rows[place][1:] for place in places if rows[place][2].isdigit() and rows[place][3].isdigit()]
    return tuple(Gpu(name, int(total) << 20, int(free) << 20) for name, total, free in whole)


def _row(line: str) -> list[str]:
    """A name may hold commas, the other fields hold none."""
    uuid, _, rest = line.partition(",")
    return [part.strip() for part in (uuid, *rest.rsplit(",", 2))]


def _shown(visible: str, uuids: Sequence[str]) -> list[int]:
    """Places of the cards, as CUDA reads it: numbers, or how the cards' own names begin. What is no card, or might be
    several, ends the list; one that is named twice leaves nothing of it."""
    shown: list[int] = []
    for entry in (part.strip() for part in visible.split(",")):
        by_name = entry.startswith("GPU-")
        named = [each for each, uuid in enumerate(uuids) if (uuid.startswith(entry) if by_name else str(each) == entry)]
        if len(named) != 1:
            break
        shown += named
    return shown if len(set(shown)) == len(shown) else []


def hide() -> None:
    """Let whatever this process imports from now on find no card."""
    os.environ.update(dict.fromkeys(_VISIBLE, _NONE))


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


def of_torch() -> tuple[Gpu, ...]:
    """The cards of the kind that PyTorch was built for."""
    kind, _ = torch_build()
    return amd() if kind == "hip" else nvidia() if kind else ()


def torch_build() -> tuple[str, str]:
    """What the installed PyTorch was built for: "cuda" or "hip", and of which version, such as "13.0"; two empty words
    for the processor alone, or if there is none. PyTorch's own version would not do: the builds for Windows that PyPI
    has do not say "+cpu"."""
    spec = PathFinder.find_spec("torch")
    if spec is None or spec.origin is None:
        return "", ""
    try:
        told = _BUILT_FOR.search((Path(spec.origin).parent / "version.py").read_text(encoding="utf-8"))
    except OSError:
        return "", ""
    return (told[1], told[2]) if told else ("", "")


def llamacpp_uses_them(overlay: Path | None = None) -> bool:
    """Whether the llama-cpp-python in the folder `overlay`, or in the main environment, was built for graphics cards
    that have a memory of their own."""
    if overlay is not None and not overlay.is_dir():
        return False  # Python would remember that there is no such folder, and never find what is put there later
    spec = PathFinder.find_spec("llama_cpp", None if overlay is None else [str(overlay)])
    if spec is None or spec.origin is None:
        return False
    libraries = Path(spec.origin).parent / "lib"
    return any(next(libraries.glob(f"*ggml-{name}*"), None) is not None for name in _ACCELERATORS)
