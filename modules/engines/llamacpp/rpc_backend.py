"""llama.cpp's RPC backend in this process: connect to other machines, or serve another one.

The backend is a library of its own, which libllama's copy of ggml loads. Calls go to libllama's handle: the `libggml`
of llama-cpp-python's other bindings is a second copy, whose devices get no layers. Source: ggml-backend.h and
ggml-rpc.h of the llama.cpp in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from modules.system.rpc_node import split_address

_CPU, _GPU, _INTEGRATED_GPU = 0, 1, 2  # of ggml_backend_dev_type
_IDLE_SECONDS, _PROBE_SECONDS, _PROBES = 20, 5, 4
_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")


class RpcUnusable(Exception):
    """The backend cannot be loaded, or refuses a node."""


def load(library: Path) -> None:
    """Load the backend, once per process. Raises RpcUnusable."""
    if _registry() or _function("ggml_backend_load", ctypes.c_void_p, ctypes.c_char_p)(os.fsencode(library)):
        return
    raise RpcUnusable(f"{library} cannot be loaded")


def add_nodes(nodes: Sequence[str]) -> None:
    """Connect to the nodes, each given as host:port, and register their devices, in this order. Raises RpcUnusable.

    A node that does not answer blocks this for ever, and one that ends the connection aborts the process.
    """
    add_server = _exported("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
    register = _function("ggml_backend_register", None, ctypes.c_void_p)
    for node in nodes:
        backend = add_server(node.encode())
        if not backend:
            raise RpcUnusable(f"{node} has no devices")
        register(backend)


def serve(address: str, threads: int, cpu: bool) -> None:
    """Compute for one client after the other, for ever: on all GPUs, or on the CPU if there are none or `cpu` is set.

    Returns if the address cannot be listened on.
    """
    devices = _devices(cpu)
    start = _exported(
        "ggml_backend_rpc_start_server",
        None,
        *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)),
    )
    start(address.encode(), None, threads, len(devices), (ctypes.c_void_p * len(devices))(*devices))


def _devices(cpu: bool) -> list[int]:
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)()
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    by_kind: dict[int, list[int]] = {}
    for number in range(count):
        device = get(number)
        by_kind.setdefault(kind(device), []).append(device)
    gpus = by_kind.get(_GPU, []) or by_kind.get(_INTEGRATED_GPU, [])
    return by_kind.get(_CPU, [])[:1] if cpu or not gpus else gpus


# -- connections ------------------------------------------------------------------------------------------------------


def notice_lost_nodes(nodes: Sequence[str]) -> None:
    """Let the system end connections to machines that are no longer there, which llama.cpp would wait for for ever."""
    ports = {split_address(node)[1] for node in nodes}
    for connection in _sockets():
        with contextlib.suppress(OSError):
            if connection.getpeername()[1] in ports:
                _watch(connection)


def notice_lost_clients(port: int) -> bool:
    """Do the same for the clients of a node: its socket listening on `port` passes the setting on.

    Return False if there is no such socket yet.
    """
    for connection in _sockets():
        with contextlib.suppress(OSError):
            if connection.getsockname()[1] == port and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                _watch(connection)
                return True
    return False


def _sockets() -> Iterator[socket.socket]:
    """Yield copies of the open TCP sockets of this process, whose options are those of the originals."""
    folder = next((folder for folder in _DESCRIPTORS if os.path.isdir(folder)), "")
    for name in os.listdir(folder) if folder else ():
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.family == socket.AF_INET and copy.type == socket.SOCK_STREAM:
                    yield copy


def _watch(connection: socket.socket) -> None:
    """Have the system probe an idle connection, and give up one whose data is not acknowledged."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", _IDLE_SECONDS), ("TCP_KEEPINTVL", _PROBE_SECONDS), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = 1000 * (_IDLE_SECONDS + _PROBES * _PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


# -- functions of the library -----------------------------------------------------------------------------------------


def _registry() -> int | None:
    found: int | None = _function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"RPC")
    return found


def _exported(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function that only the backend's registry knows. Raises RpcUnusable."""
    get = _function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    address = get(_registry(), name.encode())
    if not address:
        raise RpcUnusable(f"the RPC backend has no {name}")
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml, of the copy that libllama uses, with its C types set."""
    function = getattr(native._lib, name)
    function.restype, function.argtypes = result, arguments
    return function
