"""Real RPC nodes on this machine, each a process of its own with one thread."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from modules.core.paths import ROOT
from modules.core.rpc_errors import NodeError
from modules.loaders.availability import overlay_of
from modules.loaders.registry import find_loader
from modules.runtime.worker_process import PASSIVE_WAITING, child_environment
from modules.system import rpc_node
from tests.support.fake_node import closed_port


@dataclass
class Node:
    address: str
    process: subprocess.Popen[bytes]

    def is_free(self) -> bool:
        with contextlib.suppress(NodeError):
            return bool(rpc_node.ask(self.address, 0.3).devices)
        return False


def wait_until_free(node: Node, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not node.is_free():
        assert node.process.poll() is None and time.monotonic() < deadline, "the node does not answer"
        time.sleep(0.05)


@contextlib.contextmanager
def real_nodes(count: int) -> Iterator[list[Node]]:
    overlay = overlay_of(find_loader("llama.cpp"))
    environment = child_environment(overlay.folder if overlay else None, PASSIVE_WAITING)
    nodes = []
    for _ in range(count):
        address = closed_port()
        command = [sys.executable, "-m", "modules.engines.llamacpp.rpc_server", address, "1", "cpu"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        nodes.append(Node(address, process))
    try:
        for node in nodes:
            wait_until_free(node)
        yield nodes
    finally:
        for node in nodes:
            node.process.kill()
            node.process.wait()
