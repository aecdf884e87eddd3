"""Our end of a worker process: starts it, sends it calls, hands its events to whoever made the call."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from modules.core.errors import Unloaded, Words, WorkerDied
from modules.core.events import ENDS, Event, Failed, Json, Result, from_line
from modules.core.paths import ROOT

TAIL_LINES = 12
LINE_BYTES = 1000
GRACE_SECONDS = 3.0

# Number graphics cards by their position on the bus, as `gpus` does: CUDA's own order puts the fastest first. A value
# that the user has set is kept.
ORDER = "PCI_BUS_ID"

DECIDED_BY_USER = (
    *("OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY"),  # the OpenMP standard
    *("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"),  # GCC's libgomp
    *("KMP_AFFINITY", "KMP_HW_SUBSET", "KMP_BLOCKTIME"),  # LLVM's and Intel's libomp
)
"""Variables that say where OpenMP's threads run or how they wait. Whoever sets one of them has decided both."""

WAITING = {"OMP_WAIT_POLICY": "passive"}
"""For a worker whose compute threads are not bound to cores: they sleep while they wait for each other. libgomp's own
default is a busy loop of some milliseconds, which may take the core that another of these threads needs."""

log = logging.getLogger("worker")

Deliver = Callable[[Event], None]

_DOING: dict[str, Words] = {
    "load": {"en": "loading", "zh": "加载"},
    "generate": {"en": "generating", "zh": "生成"},
    "apply_loras": {"en": "applying LoRAs", "zh": "应用 LoRA"},
    "": {"en": "idle", "zh": "空闲"},
}


class WorkerProcess:
    """One child and the calls it is at. Any thread may call; events are delivered on a thread of our own.

    `overlay` is a directory whose packages the child prefers to ours. `ended` is called once, when the child has
    ended by itself, with what there is to say about it. `binds_threads` says that its compute threads
    will be bound to cores; those of any other worker sleep while they wait for each other.
    """

    def __init__(
        self,
        overlay: Path | None = None,
        ended: Callable[[WorkerDied], None] | None = None,
        binds_threads: bool = False,
    ) -> None:
        self._numbers = itertools.count(1)
        self._calls: dict[int, tuple[str, Deliver]] = {}
        self._lock = threading.Lock()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ended = ended
        self._wanted_gone = False
        self.death: WorkerDied | Unloaded | None = None
        self._child = subprocess.Popen(
            [sys.executable, "-m", "modules.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,  # `-m` looks for modules here first, before all of PYTHONPATH
            env=_environment(overlay, binds_threads),
            start_new_session=True,  # Ctrl-C in the terminal is for the server; the child ends when its pipe does
        )
        self._listener = threading.Thread(target=self._keep_words, daemon=True)
        self._listener.start()
        threading.Thread(target=self._dispatch, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the child process still exists; False as soon as it has ended, for whatever reason."""
        return self._child.poll() is None

    def start(self, operation: str, deliver: Deliver, **args: Json) -> int:
        """Begin a call: `deliver` gets its events, the last of which is one of `ENDS`. The call's number."""
        with self._lock:
            call = next(self._numbers)
            death = self.death
            if death is None:
                self._calls[call] = (operation, deliver)
        if death is not None:
            deliver(Failed(death))
        else:
            self._write([call, operation, args])
        return call

    def cancel(self, call: int) -> None:
        """Forget a call, if it has not ended; the child is told to drop it."""
        with self._lock:
            known = self._calls.pop(call, None)
        if known is not None:
            self._write([call, "cancel", {}])

    def events(self, operation: str, **args: Json) -> Iterator[Event]:
        """The events of one call, as they come; closing this iterator cancels the call. Raises what Failed carries."""
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        call = self.start(operation, inbox.put, **args)
        try:
            while True:
                event = inbox.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, ENDS):
                    return
        finally:
            self.cancel(call)

    def call(self, operation: str, **args: Json) -> Json:
        """Make a call that is not a generation, wait for it and return its result. Raises what Failed carries."""
        for event in self.events(operation, **args):
            if isinstance(event, Result):
                return event.value
        raise AssertionError("a call ended without a result")

    def close(self) -> None:
        """End the child: by closing its pipe, and by force if that does not do within a few seconds.

        Calls under way end with Unloaded, and so does every later one.
        """
        self._wanted_gone = True
        with contextlib.suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        try:
            self._child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the child at once; otherwise like `close`."""
        self._wanted_gone = True
        self._child.kill()
        self._child.wait()

    def _write(self, request: list[Json]) -> None:
        # A child that is dying breaks the pipe; `_dispatch` tells everybody who waits.
        with contextlib.suppress(OSError, ValueError), self._lock:
            assert self._child.stdin is not None
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()

    def _dispatch(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            try:
                call, event = from_line(line)
            except (ValueError, KeyError, TypeError):  # cut short by its death, or not of our protocol
                log.error("unreadable: %r", line[:LINE_BYTES])
                self._child.kill()
                break
            with self._lock:
                known = self._calls.pop(call, None) if isinstance(event, ENDS) else self._calls.get(call)
            if known is not None:
                known[1](event)
        self._bury()

    def _bury(self) -> None:
        """The child has ended: whoever waits for it is told how, with its last words."""
        exit_code = self._child.wait()
        self._listener.join(timeout=1.0)
        with self._lock:
            orphans = list(self._calls.values())
            self._calls.clear()
            operations = {operation for operation, _ in orphans}
            doing = next((name for name in ("load", "apply_loras", "generate") if name in operations), "")
            died = WorkerDied(exit_code, _DOING[doing], "\n".join(self._tail))
            self.death = Unloaded() if self._wanted_gone else died
        for _, deliver in orphans:
            deliver(Failed(self.death))
        if self._ended is not None and isinstance(self.death, WorkerDied):
            self._ended(self.death)

    def _keep_words(self) -> None:
        assert self._child.stderr is not None
        # A progress bar that overwrites itself is one long line: of each piece, what was on the screen last.
        for raw in iter(partial(self._child.stderr.readline, LINE_BYTES), b""):
            line = raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
            log.debug("%s", line)
            if line:
                self._tail.append(line)


def _environment(overlay: Path | None, binds_threads: bool) -> dict[str, str]:
    """The child's: our modules are found from any directory, the overlay's packages and programs before all others."""
    decided = binds_threads or any(name in os.environ for name in DECIDED_BY_USER)
    waiting = {} if decided else WAITING
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    ours = {"PYTHONUNBUFFERED": "1"}
    if overlay is not None:
        paths.insert(0, str(overlay))
        programs = (str(overlay / "bin"), os.environ.get("PATH", os.defpath))  # PyTorch looks for ninja there only
        ours["PATH"] = os.pathsep.join(programs)
    ours["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {"CUDA_DEVICE_ORDER": ORDER} | waiting | os.environ | ours
