"""`--rpc-server`: compute for another machine that runs llama.cpp, instead of serving a page."""

from __future__ import annotations

import os
import sys
from ipaddress import ip_address

from modules.config.flags import Flags
from modules.core.errors import PortTaken, Words
from modules.core.rpc_errors import NodeNotStarted
from modules.loaders.availability import overlay_of
from modules.loaders.registry import find_loader
from modules.runtime.worker_process import child_environment
from modules.setup import install
from modules.setup.overlay_installer import OverlayInstaller
from modules.system import cpu_memory
from modules.system.listener import listening_socket
from modules.system.rpc_node import split_address

_MODULE = "modules.engines.llamacpp.rpc_server"
_LOOPBACK, _ANY = "127.0.0.1", "0.0.0.0"

_READY: Words = {
    "en": "RPC node at {address}. On the other machine: --rpc {shown} --n-gpu-layers -1. Ctrl-C ends it.",
    "zh": "RPC 节点地址：{address}。在另一台机器上使用：--rpc {shown} --n-gpu-layers -1。按 Ctrl-C 结束。",
}
OPEN_WARNING: Words = {
    "en": "Warning: an RPC node has neither a password nor encryption. Whoever reaches {address} can use this "
    "machine's memory, read what is sent, and may be able to run code here. Use it in a trusted network only, or "
    "through an SSH tunnel (docs/rpc.md).",
    "zh": "警告：RPC 节点没有密码，也不加密。能访问 {address} 的任何人都可以占用本机内存、读取传输内容，"
    "甚至可能在本机运行代码。请仅在可信网络中使用，或通过 SSH 隧道连接（见 docs/rpc.md）。",
}


def node_address(value: str) -> str:
    """Return host:port for a value of `--rpc-server`; a port alone is one of this machine's loopback address."""
    host, _, port = value.rpartition(":")
    return f"{_LOOPBACK if host in ('', 'localhost') else host}:{port}"


def run(flags: Flags, language: str) -> None:
    """Replace this process by a node. Raises InstallFailed, LoaderUnavailable, Unsupported or NodeNotStarted."""
    address = node_address(flags.text("rpc_server"))
    host, port = split_address(address)
    install.wait_for_rpc(language, OverlayInstaller())
    try:
        listening_socket(host, port).close()
    except PortTaken as error:
        raise NodeNotStarted(address, getattr(error.__cause__, "strerror", "") or str(error)) from error
    shown = address if host != _ANY else f"IP:{port}"
    print(_READY[language].format(address=address, shown=shown), flush=True)
    if not ip_address(host).is_loopback:
        print(OPEN_WARNING[language].format(address=address), file=sys.stderr, flush=True)
    overlay = overlay_of(find_loader("llama.cpp"))
    threads = int(flags.load.get("threads", 0)) or cpu_memory.physical_cores()
    command = [sys.executable, "-m", _MODULE, address, str(threads), "cpu" if flags.load.get("cpu") else "gpu"]
    os.execve(sys.executable, command, child_environment(overlay.folder if overlay else None, {}))
