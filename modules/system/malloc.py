"""Having the C library give memory back while many blocks of all sizes are made and dropped in turn.

glibc takes a large block from the system and gives it back, but learns to keep blocks of a size that was dropped once,
up to 32 MB. Quantising a model drops a dozen for each that stays, and those that stay keep the gaps from closing: with
135 million weights 300 to 600 MB were left over, more than twice what 4 bits take. The scores of eager attention leave
up to 250 MB, once more and once less.

It has its price: a long prompt in 32 bits takes a seventh longer. So nothing else has it.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_ALWAYS_BACK = 128 << 10
_KEPT = 4 << 20  # as much as most steps of computing need; of 32 MB, a prompt in 8 bits left 160 MB over


@contextlib.contextmanager
def tight() -> Iterator[None]:
    """Large blocks go back to the system at once; afterwards only the largest do, as computing is faster so."""
    setting = _mallopt()
    if setting is None:
        yield
        return
    setting(_MMAP, _ALWAYS_BACK)
    try:
        yield
    finally:
        setting(_MMAP, _KEPT)
        setting(_TRIM, 2 * _KEPT)


def _mallopt() -> Any:
    """None where the C library is another one."""
    return getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
