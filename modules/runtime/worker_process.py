"""Start a worker process, send it calls and deliver its events to the callers."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from modules.core import quick_json, request_route, server_errors  # noqa: F401 (so that those of workers are known when they arrive)
from modules.core.errors import Words
from modules.core.events import ENDS, Begun, Done, Event, Failed, Json, Result, ServerState, from_line
from modules.core.paths import ROOT
from modules.core.worker_errors import Unloaded, WorkerDied, WorkerStuck
from modules.engines.time_limit import is_expiry
from modules.options.option import shortened
from modules.runtime import node_watch
from modules.runtime.address_concealer import AddressConcealer
from modules.runtime.node_watch import NodeWatch
from modules.system import child_process, cpu_memory
from modules.system.cancellation import Cancelled, on_cancel
from modules.system.pipe_writer import PipeWriter

TAIL_LINES = 12
LINE_BYTES = 1000
GRACE_SECONDS = 3.0
SERVER_GRACE_SECONDS = 16.0
"""Longest wait for the end of a server that the worker has started, which holds the worker's stderr open."""
_OUT_OF_TIME = getattr(signal, "SIGALRM", 0)  # by which a worker ends that exceeds `engines.time_limit`

# Number GPUs by their position on the bus, as `gpus` does: CUDA's own order puts the fastest first. A value that the
# user has set is kept.
CUDA_ORDER = "PCI_BUS_ID"

DECIDED_BY_USER = (
    *("OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY"),  # the OpenMP standard
    *("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT"),  # GCC's libgomp
    *("KMP_AFFINITY", "KMP_HW_SUBSET", "KMP_BLOCKTIME"),  # LLVM's and Intel's libomp
)
"""Variables that set where OpenMP's threads run or how they wait. A user who sets any of them decides both."""

NO_BACKTRACE = {"GGML_NO_BACKTRACE": "1"}
"""Without it ggml prints a hundred lines of a debugger when it aborts, after the line that says why."""

PASSIVE_WAITING = {"OMP_WAIT_POLICY": "passive"}
"""For workers whose compute threads are not bound to cores: threads sleep while they wait for each other.

The default of libgomp is a busy loop of some milliseconds, which may occupy the core that another thread needs.
"""

SHORT_WAITING = {"GOMP_SPINCOUNT": "3000"}
"""A busy loop of some microseconds before threads sleep.

For training, which computes alone for hours: on two cores it trains 1.10 times as fast as with PASSIVE_WAITING
(`benchmarks/training.py speed`). And for threads of llama.cpp that cannot be bound to cores, as in a container with a
quota: with PASSIVE_WAITING they reach half of the speed (`benchmarks/README.md`).
"""

ANSWER_WAITING = {"GOMP_SPINCOUNT": "8000"}
"""A longer busy loop, for answers by PyTorch, whose threads wait for each other some hundred times a token.

Where threads wake slowly, as in a virtual machine, an answer has 1.3 times the speed that it has with SHORT_WAITING.
Beside a program that always occupies a core it has 0.7 times that speed, and beside one that does so for 40 % of the
time the same (`benchmarks/README.md`).
"""

COMPUTING = frozenset({"generate", "next", "loglikelihoods", "embed", "rank", "apply_loras"})
"""Operations that occupy the compute threads of a loaded model."""

log = logging.getLogger("worker")

Deliver = Callable[[Event], None]
_UNKNOWN = Begun(0)

_ACTIVITIES: dict[str, Words] = {
    "load": {"en": "loading", "zh": "加载"},
    "apply_loras": {"en": "applying LoRAs", "zh": "应用 LoRA"},
    "generate": {"en": "generating", "zh": "生成"},
    "next": {"en": "generating", "zh": "生成"},
    "loglikelihoods": {"en": "evaluating a text", "zh": "评估文本"},
    "": {"en": "idle", "zh": "空闲"},
}


class WorkerProcess:
    """A child process and the calls it is running. Any thread may call; one thread of ours delivers all events.

    The child prefers the packages in the directory `overlay` to those of the main environment. `ended` is called once
    if the child ends by itself. `waiting` says how its compute threads wait for each other, as in `child_environment`;
    it is empty if they will be bound to cores. `nodes` are other machines that it computes on: the child is
    killed when they are silent. `conceal` changes the errors before anybody gets them. `is_server_reachable` is false
    while the server on which the model runs does not answer.
    """

    def __init__(
        self,
        overlay: Path | None = None,
        ended: Callable[[WorkerDied], None] | None = None,
        waiting: Mapping[str, str] = PASSIVE_WAITING,
        nodes: NodeWatch | None = None,
        conceal: AddressConcealer | None = None,
    ) -> None:
        self._numbers = itertools.count(1)
        self._calls: dict[int, tuple[str, Deliver]] = {}
        self._begun: dict[int, Begun] = {}
        self._grammars: dict[int, str] = {}  # of calls under way, the beginnings
        self._lock = threading.Lock()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._ended = ended
        self._nodes, self._conceal = nodes, conceal
        self._closing = False
        self._at_end: list[Callable[[], None]] = []
        self._has_expired = False  # by its stderr, where there is no SIGALRM
        self._watchers: list[Callable[[], None]] = []
        self._computing: set[int] = set()  # calls of COMPUTING operations
        self.death: WorkerDied | Unloaded | None = None
        self.is_server_reachable = True
        self._child = child_process.start(
            [sys.executable, "-m", "modules.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,  # searched for modules before PYTHONPATH, because of `-m`
            env=child_environment(overlay, waiting),
            start_new_session=True,  # Ctrl-C in the terminal reaches the server only; the child ends with its pipe
        )
        assert self._child.stdin is not None
        self._requests = PipeWriter(self._child.stdin)  # a busy child may take a while to read them
        self._stderr_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr_reader.start()
        threading.Thread(target=self._dispatch, daemon=True).start()
        if nodes is not None:
            node_watch.start(nodes, lambda: self.running, self._operations, self._child.kill)

    def _operations(self) -> list[str]:
        return [operation for operation, _ in list(self._calls.values())]

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the child process still exists."""
        return self._child.poll() is None

    def call_at_end(self, action: Callable[[], None]) -> None:
        """Have `action` called in another thread when the child has ended, for whatever reason; at once if it has."""
        with self._lock:
            if self.death is None:
                self._at_end.append(action)
                return
        action()

    def watch(self, action: Callable[[], None]) -> None:
        """Have `action` called whenever the child is about to compute or has stopped, in the thread that notices."""
        self._watchers.append(action)

    @property
    def is_computing(self) -> bool:
        """Whether a call of COMPUTING is under way."""
        return bool(self._computing)

    def _notify(self, was_computing: bool) -> None:
        if was_computing != self.is_computing:
            for action in self._watchers:
                action()

    def count_calls(self, operation: str) -> int:
        """Return how many calls of an operation are under way."""
        return self._operations().count(operation)

    def start(self, operation: str, deliver: Deliver, **args: Json) -> int:
        """Start a call and return its number. `deliver` gets its events, the last of which is one of `ENDS`."""
        with self._lock:
            call = next(self._numbers)
            death, was_computing = self.death, self.is_computing
            if death is None:
                self._computing.update({call} if operation in COMPUTING else ())
                if self._nodes is not None and not self._calls:
                    self._nodes.note(operation)
                self._calls[call] = (operation, deliver)
                params = args.get("params", {})
                if grammar := params.get("answer_grammar") or params.get("grammar_string"):
                    self._grammars[call] = shortened(str(grammar))
        if death is not None:
            deliver(Failed(death))
        else:
            self._notify(was_computing)
            self._write([call, operation, args])
        return call

    def cancel(self, call: int) -> Done:
        """Drop a call here and in the child, unless it has ended. Return an end with what is known of its prompt."""
        with self._lock:
            was_computing = self.is_computing
            begun = self._begun.get(call, _UNKNOWN)
            running = self._forget(call)
        if running is not None:
            self._write([call, "cancel", {}])
            self._notify(was_computing)
        return Done("cancelled", prompt_tokens=begun.prompt_tokens, shortened=begun.shortened, seed=begun.seed)

    def _forget(self, call: int) -> tuple[str, Deliver] | None:
        """Return the operation and the receiver of a call under way, which is no more. To be called with the lock."""
        self._begun.pop(call, None)
        self._grammars.pop(call, None)
        self._computing.discard(call)
        return self._calls.pop(call, None)

    def events(self, operation: str, **args: Json) -> Generator[Event, None, None]:
        """Make a call and yield its events; closing the iterator cancels it. Raises the error of a Failed event."""
        return self._events_in(queue.SimpleQueue(), operation, args)

    def _events_in(
        self, inbox: queue.SimpleQueue[Event | None], operation: str, args: Mapping[str, Json]
    ) -> Generator[Event, None, None]:
        """Do as `events`. None in the inbox means that the work that calls was cancelled."""
        call = self.start(operation, inbox.put, **args)
        try:
            while (event := inbox.get()) is not None:
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, ENDS):
                    return
            raise Cancelled
        finally:
            self.cancel(call)

    def call(self, operation: str, **args: Json) -> Json:
        """Make a call that is not a generation, and return its result. Raises the error of a Failed event.

        Cancelling the work that calls ends it, too: see `system.cancellation`.
        """
        inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with on_cancel(lambda: inbox.put(None)):
            for event in self._events_in(inbox, operation, args):
                if isinstance(event, Result):
                    return event.value
        raise AssertionError("a call ended without a result")

    def close(self) -> None:
        """End the child by closing its pipe; kill it if it has not ended after a few seconds.

        Running and later calls end with Unloaded.
        """
        self._closing = True
        self._requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the child and wait until a server that it has started has ended, too.

        Running and later calls end with Unloaded.
        """
        self._closing = True
        self._child.kill()
        self._child.wait()
        self._stderr_reader.join(SERVER_GRACE_SECONDS)

    def _write(self, request: list[Json]) -> None:
        self._requests.send(quick_json.encode(request) + b"\n")

    def _dispatch(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            try:
                events = from_line(line)
            except (ValueError, KeyError, TypeError):  # truncated by its death, or not of our protocol
                log.error("unreadable: %r", line[:LINE_BYTES])
                self._child.kill()
                break
            for deliver, event in self._receivers(events):
                deliver(event)
        self._report_death()

    def _receivers(self, events: Sequence[tuple[int, Event | ServerState]]) -> list[tuple[Deliver, Event]]:
        """Return the events of calls under way with their receivers, and forget the calls that they end."""
        received = []
        with self._lock:
            was_computing = self.is_computing
            for call, event in events:
                if isinstance(event, ServerState):
                    self.is_server_reachable = event.is_reachable
                    continue
                if self._conceal is not None and isinstance(event, Failed):
                    event = Failed(self._conceal(event.error))
                running = self._calls.get(call)
                if running is not None and isinstance(event, Begun):
                    self._begun[call] = event
                elif running is not None:
                    received.append((running[1], event))
                    if self._nodes is not None:
                        self._nodes.note(running[0])
                if isinstance(event, ENDS):
                    self._forget(call)
        self._notify(was_computing)
        return received

    def _report_death(self) -> None:
        """End all calls with the cause of death: the exit code and the last lines of stderr."""
        exit_code = self._child.wait()
        self._requests.close()
        self._stderr_reader.join(timeout=1.0)
        operations = set(self._operations())
        activity = next((name for name in _ACTIVITIES if name in operations), "")
        died = self._death_of(exit_code, _ACTIVITIES[activity])  # asks nodes, which may take a while
        died = died if self._conceal is None else self._conceal(died)
        with self._lock:
            orphans = list(self._calls.values())
            self._calls.clear()
            self._begun.clear()
            self._computing.clear()
            self.death = Unloaded() if self._closing else died
        for _, deliver in orphans:
            deliver(Failed(self.death))
        if self._ended is not None and isinstance(self.death, WorkerDied):
            self._ended(self.death)
        for action in self._at_end:
            action()

    def _death_of(self, exit_code: int, activity: Words) -> WorkerDied:
        tail = "\n".join(self._tail)
        if exit_code == -_OUT_OF_TIME if _OUT_OF_TIME else self._has_expired and exit_code == 1:
            return WorkerStuck(exit_code, activity, tail, next(iter(self._grammars.values()), ""))
        died = WorkerDied(exit_code, activity, tail)
        return died if self._nodes is None or self._closing else self._nodes.explain(died)

    def _read_stderr(self) -> None:
        assert self._child.stderr is not None
        # A progress bar that overwrites itself is one long line; keep what was on the screen last of each part.
        for raw in iter(partial(self._child.stderr.readline, LINE_BYTES), b""):
            line = raw.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
            log.debug("%s", line)
            self._has_expired |= is_expiry(line)
            if line:
                self._tail.append(line)


def child_environment(overlay: Path | None, waiting: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: with our modules, and the overlay's packages and programs before all others.

    `waiting` are variables for OpenMP, which are left out if the user has set any of DECIDED_BY_USER.
    """
    if any(name in os.environ for name in DECIDED_BY_USER):
        waiting = {}
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    changes = {"PYTHONUNBUFFERED": "1", request_route.VARIABLE: request_route.program()}
    if overlay is not None:
        paths.insert(0, str(overlay))
        programs = (str(overlay / "bin"), os.environ.get("PATH", os.defpath))  # PyTorch looks for ninja in PATH only
        changes["PATH"] = os.pathsep.join(programs)
    changes["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # PyTorch does not know of quotas, and would have most of its threads wait.
    threads = {"OMP_NUM_THREADS": str(cpu_memory.physical_cores())} if cpu_memory.has_quota() else {}
    return {"CUDA_DEVICE_ORDER": CUDA_ORDER} | threads | NO_BACKTRACE | dict(waiting) | os.environ | changes
