"""The number of files, sockets among them, that a process may have open."""

from __future__ import annotations

import contextlib
import sys


def allow_open_files(count: int) -> int:
    """Raise the limit of this process to `count` if it is lower, as far as the system allows; return the limit.

    Processes that it starts inherit the limit. On Windows there is none: 0.
    """
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return soft
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
