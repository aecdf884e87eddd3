"""Compile llama.cpp beside the installation of the Python packages, which leaves all cores but one idle.

`begin` starts a process of its own: `python -m modules.setup.early_build`. It takes the lock of the overlay, as any
installation does; the server that is started meanwhile shows its progress and goes on waiting for it, or installs
llama.cpp itself if the process has failed.
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
from modules.loaders.registry import LLAMACPP
from modules.setup.overlay_installer import Overlays
from modules.setup.pip import LOOK_SECONDS


def begin(python: Path) -> None:
    """Start the build with the interpreter of .venv, unless llama.cpp is there. It ends when this process does, also if
    that has become another program by then."""
    if os.name != "posix" or LLAMACPP.whole:
        return
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # by the program that this process becomes: open as long as it runs
    command = [str(python), "-m", "modules.setup.early_build"]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdin=reader, stdout=nothing, stderr=nothing, start_new_session=True):
        os.close(reader)  # the build goes on in a fork, so that nobody needs to wait for its end


def build(overlay: Overlay) -> None:
    """Install the overlay, until stdin ends or an interrupt comes. Without a word: who waits for it tries again if it
    has failed, and so can tell the cause."""
    overlays = Overlays(yields=True)
    ended = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    if not overlay.in_environment:
        overlays.begin(overlay)
    while overlays.view(overlay).moving and not ended.wait(LOOK_SECONDS):
        pass
    overlays.close()


def _wait_for_parent(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    ended.set()


def _main() -> NoReturn:
    if os.fork() == 0:
        build(LLAMACPP)
    os._exit(0)


if __name__ == "__main__":
    _main()
