"""Memory of RPC nodes, as they last said: a node that serves a model answers nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from modules.core.rpc_errors import NodeError
from modules.system import rpc_node
from modules.system.gpus import Gpu
from modules.system.rpc_node import DeviceMemory, NodeFacts

MAX_AGE = 15.0
"""Seconds after which a node is asked again."""
ANSWER_SECONDS = 1.0

Ask = Callable[[Sequence[str]], Mapping[str, NodeFacts | NodeError]]


class NodeMemory:
    """Asks nodes for their memory and remembers the answers. Any thread may call; `clock` returns seconds."""

    def __init__(self, ask: Ask | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._clock = ask or partial(rpc_node.ask_all, seconds=ANSWER_SECONDS), clock
        self._known: dict[str, tuple[float, tuple[DeviceMemory, ...]]] = {}
        self._lock = threading.Lock()

    def devices(self, nodes: Sequence[str], in_use: Collection[str]) -> list[Gpu]:
        """Return the devices of all nodes, in order. One of a node that cannot be asked has 0 bytes.

        Nodes that are `in_use` by models of this program are not asked.
        """
        with self._lock:
            now = self._clock()
            stale = [node for node in nodes if node not in in_use and self._asked_at(node) + MAX_AGE <= now]
            for node, answer in self._ask(stale).items() if stale else ():
                self._known[node] = (now, () if isinstance(answer, NodeError) else answer.devices)
            return [device for node in nodes for device in _named(node, self._known.get(node, (0.0, ()))[1])]

    def _asked_at(self, node: str) -> float:
        return self._known[node][0] if node in self._known else float("-inf")


def _named(node: str, devices: Sequence[DeviceMemory]) -> list[Gpu]:
    if len(devices) < 2:
        return [Gpu(node, device.total, device.free) for device in devices] or [Gpu(node, 0, 0)]
    return [Gpu(f"{node} #{number}", device.total, device.free) for number, device in enumerate(devices, 1)]
