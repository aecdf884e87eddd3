"""Child processes that end with their parent, however it ends.

A child that serves calls this from its own code (`end_with_parent`); a program that knows nothing of us, such as pip,
runs below a supervisor (`supervised`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from modules.system import supervisor

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a child process as `subprocess.Popen` does, from a thread that lives as long as this process.

    Linux sends the signal that a child asks for with PR_SET_PDEATHSIG when the thread that started it ends.
    """
    return _starter().submit(lambda: subprocess.Popen(command, **options)).result()


@functools.cache
def _starter() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "child-processes")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_starter.cache_clear)  # a fork has none of its parent's threads


def supervised(command: Sequence[str]) -> list[str]:
    """Return a command that runs `command`, and ends it with all its descendants when its stdin ends.

    Start it as the leader of a session, with a pipe as stdin. Its exit status is that of `command`.
    """
    return [sys.executable, "-I", "-S", str(Path(supervisor.__file__)), *command]


def supervised_server(command: Sequence[str], seconds: float, folder: Path) -> list[str]:
    """Return a command as `supervised` does, for a server: it gets SIGTERM and so many `seconds` to end.

    Its `folder`, with no folders in it, is deleted at the end, and what it leaves behind is killed.
    """
    return supervised([supervisor.SERVER, str(seconds), str(folder), *command])


def end_with_parent(pipe: int, closed: Callable[[], None] | None = None) -> None:
    """Let this process end when its parent does: `pipe` is a descriptor that reports a hang-up then.

    On Linux the kernel kills it, even while native code holds the GIL. Everywhere else, and if the parent has ended
    before the kernel was asked, or has only closed the pipe, a thread that does nothing else sees that. It calls
    `closed`, which must end this process, or ends it at once.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if hasattr(select, "poll"):
        threading.Thread(target=_end_at_hang_up, args=(pipe, closed or end), name="parent", daemon=True).start()


def _end_at_hang_up(pipe: int, closed: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(pipe, 0)  # hang-ups and errors are always reported; requests that wait in the pipe are not asked for
    poll.poll()
    closed()


def take_stdin() -> BinaryIO:
    """Return the pipe from the parent. Whatever else reads stdin, such as a library's child, gets nothing."""
    requests = os.fdopen(os.dup(0), "rb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return requests


def take_stdout() -> BinaryIO:
    """Return the pipe to the parent. From now on whatever a library prints goes to stderr."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return channel


def end() -> NoReturn:
    """End this process at once, and with it the children in its process group if it leads one."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
