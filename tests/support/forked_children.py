"""Start workers, renderers and trainers as forks of a process that has already imported their modules.

Starting Python and importing them takes 65 ms of CPU time, and the unit tests start 700 of them; a fork takes 5 ms.
`python -m tests.support.forked_children PROGRAM MODULES...` is the process that is forked for PROGRAM. A fork becomes a
child of the process that asked for it, so that its exit status and the signal at its parent's death are those of a new
process. What a new process gets from its command line and environment, a fork gets afterwards.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from modules.core.paths import ROOT
from modules.system import child_process, limited_child

PROGRAMS: dict[str, tuple[str, ...]] = {
    "modules.worker": ("tests.support.echo",),
    "modules.system.limited_child": ("jinja2.sandbox",),
    "tests.support.echo_trainer": (),
}
"""Programs that are forked, and modules that they import later."""

_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine(), 0) if sys.platform == "linux" else 0
"""The number of the system call `clone`."""
_CLONE_PARENT = 0x8000
_REQUEST_BYTES = 100_000


class ForkedChildren:
    """Replaces `child_process.start`, and forks while `enabled`.

    The ids of the processes that are forked are added to `templates`.
    """

    def __init__(self, templates: set[int]) -> None:
        self.enabled = False
        self._templates = templates
        self._sockets: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._start = child_process.start
        if _CLONE:
            child_process.start = self.start

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a child process as `child_process.start` does."""
        program, arguments = _program(command)
        if not self.enabled or program not in PROGRAMS:
            return self._start(command, **options)
        with self._lock:
            if program not in self._sockets:
                self._sockets[program] = self._start_template(program)
            return _Fork(self._sockets[program], arguments, command, **options)

    def _start_template(self, program: str) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, program, *PROGRAMS[program]]
            template = self._start(command, cwd=ROOT, stdin=theirs, start_new_session=True)
        self._templates.add(template.pid)
        template.returncode = 0  # nobody waits for it: it ends with this process
        return ours


def _program(command: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the module that `command` runs, or "", and its arguments."""
    if command[:2] == [sys.executable, "-m"]:
        return command[2], command[3:]
    if command[:3] == [sys.executable, "-I", limited_child.__file__]:
        return limited_child.__name__, command[3:]
    return "", ()


class _Fork(subprocess.Popen[Any]):
    """A forked child process with the options that callers of `child_process.start` use."""

    def __init__(self, template: socket.socket, arguments: Sequence[str], command: Sequence[str], **options: Any):
        self._template, self._arguments = template, arguments
        super().__init__(command, **options)

    def _execute_child(self, *parameters: Any) -> None:
        """Replace the method of Python 3.11 that starts the program and closes the child's ends of the pipes."""
        command, cwd, environment, pipes = parameters[0], parameters[5], parameters[6], parameters[10:16]
        sys.audit("subprocess.Popen", command[0], command, cwd, environment)
        request = [self._arguments, str(cwd), dict(os.environ if environment is None else environment)]
        ends = [end if end >= 0 else standard for standard, end in enumerate((pipes[0], pipes[3], pipes[5]))]
        socket.send_fds(self._template, [json.dumps(request).encode()], ends)
        self.pid = int(self._template.recv(_REQUEST_BYTES))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _serve_forks(program: str, *modules: str) -> Callable[[], None]:
    """Fork for each request; in the forks, return what the program has to run."""
    main: Callable[..., None] = importlib.import_module(program).main
    for module in modules:
        importlib.import_module(module)
    paths, requests = list(sys.path), socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    gc.freeze()  # a collection in a fork would copy the pages of all objects
    while True:
        request, ends, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 3)
        if not request:
            os._exit(0)
        if pid := _fork_sibling():
            requests.send(str(pid).encode())
            for end in ends:
                os.close(end)
            continue
        requests.close()
        os.setsid()
        arguments, cwd, environment = json.loads(request)
        for standard, end in enumerate(ends):
            os.dup2(end, standard)
            os.close(end)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [paths[0], *own, *(path for path in paths[1:] if path not in own)]
        sys.argv[1:] = arguments
        if program == limited_child.__name__:
            return lambda: main(arguments[0], *map(int, arguments[1:]))
        return main


def _fork_sibling() -> int:
    """Do what os.fork does, except that the parent of this process becomes the parent of the new one."""
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = ctypes.PyDLL(None).syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return int(pid)


if __name__ == "__main__":
    _serve_forks(*sys.argv[1:])()
