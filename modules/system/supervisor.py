"""Run a command, and end it with all its descendants when stdin ends.

`python supervisor.py [--server SECONDS FOLDER] COMMAND...`

A killed process cannot end its children, but the pipe that it held closes. The supervisor leads the session in which
the command runs, so that descendants in process groups of their own, such as ninja's compilers, are found. It runs with
the standard library alone, without site-packages, and takes some 15 ms to start.

A server gets SIGTERM and so many SECONDS to end; other commands get SIGINT and two seconds. What a server leaves behind
when it ends by itself, such as processes that hold the memory of GPUs, is killed. Its FOLDER, which has its socket, is
deleted at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

EXIT_SECONDS = 2.0
KILL_SECONDS = 5.0
SERVER = "--server"


def main(arguments: Sequence[str]) -> int:
    """Run until the command ends and return its exit status; 128 + the signal's number if a signal has ended it."""
    is_server = arguments[0] == SERVER
    seconds, folder = (float(arguments[1]), arguments[2]) if is_server else (0.0, "")
    command = arguments[3:] if is_server else arguments
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
    if os.name == "posix":
        # `_end_session` means the command, which would inherit this if it were set before the start.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    ending = threading.Lock()
    threading.Thread(target=_end_when_stdin_ends, args=(child, ending, seconds, folder), daemon=True).start()
    status = child.wait()
    ending.acquire()  # for good: the ender exits for us once it has begun
    if is_server and os.name == "posix":
        kill_session(os.getsid(0))
    _delete(folder)
    return status if status >= 0 else 128 - status


def _end_when_stdin_ends(child: subprocess.Popen[bytes], ending: threading.Lock, seconds: float, folder: str) -> None:
    while os.read(0, 1):
        pass
    ending.acquire()
    if os.name == "posix":
        _end_session(child, seconds)
    else:
        child.kill()
    _delete(folder)
    os._exit(1)


def _end_session(child: subprocess.Popen[bytes], seconds: float) -> None:
    """End all other processes of this session: a server within `seconds`, a command that is none if they are 0.

    SIGINT comes first: on it, ninja ends its compilers, which are in process groups of their own, and removes their
    incomplete outputs. SIGTERM is for the server alone, which ends its own processes. Then whatever remains is killed.
    """
    with contextlib.suppress(ProcessLookupError):
        child.terminate() if seconds else os.killpg(0, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds or EXIT_SECONDS)
    child.kill()
    kill_session(os.getsid(0))


def kill_session(leader: int) -> None:
    """Kill all processes of a session but its leader, and wait until they are gone: those of GPUs take a moment.

    Python's trackers of shared memory end last and by themselves, once they have deleted what was left of it.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (pids := session_members(leader)) and time.monotonic() < deadline:
        _kill(pid for pid in pids if not _is_resource_tracker(pid))
        time.sleep(0.01)
    _kill(pids)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_resource_tracker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def session_members(leader: int) -> list[int]:
    """Return the running processes of a session but its leader; empty on systems without /proc."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(folder.name)
            if pid != leader and os.getsid(pid) == leader and not _has_ended(folder):
                pids.append(pid)
    return pids


def _has_ended(process: Path) -> bool:
    """Whether a process only waits for its parent to read its exit status."""
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"


def _delete(folder: str) -> None:
    """Delete a folder that has no folders in it; "" stands for none."""
    with contextlib.suppress(OSError):
        for path in Path(folder).iterdir() if folder else ():
            path.unlink()
        os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
