"""Having the C library give memory back while many blocks of all sizes are made and dropped in turn.

glibc takes a large block from the system and gives it back, but learns to keep blocks of a size that was dropped once,
up to 32 MB. Quantising a model drops a dozen for each that stays, and those that stay keep the gaps from closing: with
135 million weights 300 to 600 MB were left over, more than twice what 4 bits take.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_ALWAYS_BACK = 128 << 10
_LEARNT = 32 << 20  # what glibc goes up to by itself, and twice of it for the end of the heap


@contextlib.contextmanager
def tight() -> Iterator[None]:
    """Large blocks go back to the system at once; afterwards they are kept again, which computing is faster with."""
    setting = _mallopt()
    if setting is None:
        yield
        return
    setting(_MMAP, _ALWAYS_BACK)
    try:
        yield
    finally:
        setting(_MMAP, _LEARNT)
        setting(_TRIM, 2 * _LEARNT)


def _mallopt() -> Any:
    """None where the C library is another one."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
