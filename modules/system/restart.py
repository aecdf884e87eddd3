"""Replace the server by a new process with the same command line: the way to restart from the page."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from modules.core.errors import CannotRestart, Words

POLL_SECONDS = 0.2
_SUCCESSOR = "TEXT_STUDIO_RESTARTED"
"""A variable of the environment that is set for the new process."""

_NOT_SERVER: Words = {
    "en": "it was not started as server.py. Restart it as you started it.",
    "zh": "它不是以 server.py 启动的，请用原来的方式重启。",
}
_WINDOWS: Words = {
    "en": "on Windows, the new process would lose its terminal. Press Ctrl-C there and start it again.",
    "zh": "在 Windows 上，新进程会脱离原来的终端。请在终端按 Ctrl-C 后重新启动。",
}
_MENU: Words = {
    "en": "--model-menu would wait for an answer in the terminal. Restart it there.",
    "zh": "--model-menu 会在终端等待选择，请在终端重启。",
}


class Restart:
    """The restart of this process: first requested, perhaps waited for, then done by the main thread.

    `process` identifies this process for pages that wait for the next one. Any thread may call.
    """

    def __init__(self) -> None:
        self.process = secrets.token_hex(8)
        self.arguments: tuple[str, ...] = ()
        self.requested = False
        self.is_successor = bool(os.environ.pop(_SUCCESSOR, ""))
        """Whether this process has taken the place of another one."""
        self._problem: Words | None = _NOT_SERVER
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._waiting: threading.Event | None = None  # set to give the waiting up

    def offer(self, program: Path, arguments: Sequence[str], stop: Callable[[], None]) -> None:
        """Allow restarts of a server that was started as `program` with `arguments`; `stop` has it end by itself."""
        self.arguments, self._stop = tuple(arguments), stop
        started = Path(sys.argv[0]).resolve() == program
        menu = any(argument.replace("_", "-").startswith("--model-menu") for argument in arguments)
        self._problem = _WINDOWS if os.name == "nt" else _MENU if menu else None if started else _NOT_SERVER

    @property
    def problem(self) -> Words | None:
        """Why this process cannot be replaced, as the end of a sentence; None if it can."""
        return self._problem

    @property
    def waiting(self) -> bool:
        return self._waiting is not None

    def request(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        """Restart as soon as `is_busy` returns False. Raises CannotRestart."""
        if self._problem is not None or self._stop is None:
            raise CannotRestart(self._problem or _NOT_SERVER)
        with self._lock:
            if self._waiting is not None:
                self._waiting.set()
            self._waiting = threading.Event()
            waiter = threading.Thread(target=self._wait, args=(is_busy, self._waiting), name="restart", daemon=True)
        waiter.start()

    def _wait(self, is_busy: Callable[[], bool], given_up: threading.Event) -> None:
        while is_busy():
            if given_up.wait(POLL_SECONDS):
                return
        with self._lock:
            if given_up.is_set() or self._stop is None:
                return
            self.requested = True
        self._stop()

    def cancel(self) -> None:
        """Give up waiting; a restart that has begun goes on."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.set()
                self._waiting = None

    def replace_process(self) -> NoReturn:
        """Start the new process in place of this one, with the same process id, terminal and folder."""
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os.environ[_SUCCESSOR] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
