"""Make the C library return memory while a model is loaded that allocates and frees many blocks of all sizes.

glibc maps a large block and unmaps it when it is freed, but raises the threshold each time, up to 32 MB; smaller blocks
come from the heap. Quantizing a model frees a dozen blocks for each one that stays, and those that stay keep the gaps
from closing: 300 to 600 MB were left over with 135 million weights, more than twice what 4 bits take. The scores of
eager attention leave up to 250 MB.

The price is that a long prompt in float32 takes a seventh longer, so that only loads which need it get it.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_WHILE_LOADING = 128 << 10
_AFTERWARDS = 4 << 20  # enough for most steps of inference; with 32 MB, a prompt in 8 bits left 160 MB over
LARGEST = 32 << 20
"""Up to which glibc raises the threshold by itself."""


@contextlib.contextmanager
def return_freed_memory(afterwards: int = _AFTERWARDS) -> Iterator[None]:
    """Return freed blocks of 128 KiB and more to the system at once; at the end of the `with` statement, those of
    `afterwards` bytes and more."""
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    mallopt(_MMAP, _WHILE_LOADING)
    try:
        yield
    finally:
        mallopt(_MMAP, afterwards)
        mallopt(_TRIM, 2 * afterwards)


def _mallopt() -> Any:
    """Return glibc's function, or None where the C library is another one."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
