"""How many threads decode fastest on this machine, as the first load of a model has measured it.

The numbers that may be the best are few: the cores, the fast ones, all logical CPUs, or a core less, which leaves one
to everything else. Which of them it is depends on the memory and on hyperthreads, and cannot be told beforehand.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from modules.core.paths import ROOT
from modules.system import cpu_memory
from modules.system.atomic_write import replace_file

FILE = ROOT / "cache" / "threads.json"
MEASURED_SECONDS = 1.0
"""Time that a measurement takes at most. A model too slow for that is not measured; the next one is."""
LEAST_GAIN = 1.03
"""How much faster another number must be than the number of fast cores, so that noise changes nothing."""
LEAST_CORES_FOR_ONE_LESS = 4
_LARGEST_FILE = 100_000
_CPU_INFO = Path("/proc/cpuinfo")

Rates = Mapping[int, float]
"""Tokens per second by number of threads."""


def plausible_counts() -> list[int]:
    """Return the numbers of threads worth measuring, the number of fast cores first."""
    fast, physical, logical = cpu_memory.fast_cores(), cpu_memory.physical_cores(), cpu_memory.logical_cores()
    one_less = physical - 1 if physical >= LEAST_CORES_FOR_ONE_LESS else physical
    return list(dict.fromkeys((fast, physical, logical, one_less)))


def default_threads(file: Path = FILE) -> int:
    """Return the number of threads that decode if the user sets none: the fastest measured, or that of fast cores."""
    return fastest(remembered(file)) or cpu_memory.fast_cores()


def fastest(rates: Rates) -> int:
    """Return the fastest number of threads; the first one, unless another is clearly faster. 0 for no rates."""
    if not rates:
        return 0
    usual, best = next(iter(rates)), max(rates, key=lambda count: rates[count])
    return best if rates[best] >= LEAST_GAIN * rates[usual] else usual


def measure(
    counts: Sequence[int],
    use: Callable[[int], None],
    decode: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Return the rate of each of `counts`, measured in MEASURED_SECONDS; nothing if that is too short.

    `use` sets the number of threads, `decode` decodes a token. The first token after a change is not counted.
    """
    rates: dict[int, float] = {}
    began = clock()
    for number, count in enumerate(counts, 1):
        use(count)
        decode()
        first, tokens, end = clock(), 0, began + MEASURED_SECONDS * number / len(counts)
        if first >= end:
            return {}
        while not tokens or clock() < end:
            decode()
            tokens += 1
        rates[count] = tokens / (clock() - first)
    return rates


def remembered(file: Path = FILE) -> dict[int, float]:
    """Return the rates measured on this machine with the CPUs that this process may use now; nothing without any.

    A file that cannot be read counts as none.
    """
    rates = _read(file).get(_machine())
    if not isinstance(rates, dict) or list(rates) != list(map(str, plausible_counts())):
        return {}
    if not all(isinstance(rate, float) and rate > 0 for rate in rates.values()):
        return {}
    return {int(count): rate for count, rate in rates.items()}


def remember(rates: Rates, file: Path = FILE) -> None:
    """Store the rates of this machine. If that fails, they are measured again at the next load."""
    content = _read(file) | {_machine(): {str(count): rate for count, rate in rates.items()}}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(content, indent=1).encode())


def _read(file: Path) -> dict[str, object]:
    try:
        with file.open(encoding="utf-8") as opened:
            content = json.loads(opened.read(_LARGEST_FILE))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _machine() -> str:
    """Return what the rates depend on: the processor and the CPUs of it that may be used."""
    counts = (cpu_memory.fast_cores(), cpu_memory.physical_cores(), cpu_memory.logical_cores())
    return f"{_processor()}, {'/'.join(map(str, counts))}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
