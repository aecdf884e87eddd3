"""Compile llama.cpp while the Python packages are being installed, which leaves all cores but one idle.

`start` runs `python -m modules.setup.early_build` as a process of its own. It holds the overlay's lock, as any
installation does. The server, started later, shows its progress and waits for it, or installs llama.cpp itself if the
process has failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from modules.core.paths import ROOT
from modules.loaders.overlay import Overlay
from modules.loaders.registry import prepared_overlay
from modules.setup.overlay_installer import OverlayInstaller
from modules.setup.pip import POLL_SECONDS


def start(python: Path) -> None:
    """Start the build with the interpreter of .venv, unless llama.cpp is installed.

    The build ends when this process does, even if this process has replaced itself by another program (exec).
    """
    if os.name != "posix" or prepared_overlay().is_installed:
        return
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # survives exec, so the pipe stays open as long as this process runs
    command = [str(python), "-m", "modules.setup.early_build"]
    devnull = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdin=reader, stdout=devnull, stderr=devnull, start_new_session=True):
        os.close(reader)  # the child forks and exits at once, so leaving the block does not block


def build(overlay: Overlay) -> None:
    """Install the overlay, until it is done, stdin ends or an interrupt comes.

    Failures are not reported: the process that waits for the overlay tries again and reports the cause.
    """
    installer = OverlayInstaller(interruptible=True)
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    threading.Thread(target=_set_when_stdin_ends, args=(stop,), daemon=True).start()
    if not overlay.in_environment:
        installer.start(overlay)
    while installer.status(overlay).in_progress and not stop.wait(POLL_SECONDS):
        pass
    installer.close()


def _set_when_stdin_ends(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.set()


def _main() -> NoReturn:
    if os.fork() == 0:
        build(prepared_overlay())
    os._exit(0)


if __name__ == "__main__":
    _main()
