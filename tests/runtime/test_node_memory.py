"""The memory of RPC nodes: as last asked, and never while a model uses them."""

from __future__ import annotations

from collections.abc import Sequence

from modules.core.rpc_errors import NodeError, NodeInUse
from modules.runtime.node_memory import MAX_AGE, NodeMemory
from modules.system.gpus import Gpu
from modules.system.rpc_node import DeviceMemory, NodeFacts

ONE = NodeFacts("7.0.0", (DeviceMemory(3, 4),))
TWO = NodeFacts("7.0.0", (DeviceMemory(1, 2), DeviceMemory(5, 6)))


def test_a_node_is_asked_again_after_a_while_but_never_while_it_is_in_use() -> None:
    now, asked = 0.0, list[str]()
    answers: dict[str, NodeFacts | NodeError] = {"a:1": ONE, "b:1": TWO}

    def ask(nodes: Sequence[str]) -> dict[str, NodeFacts | NodeError]:
        asked.extend(nodes)
        return {node: answers[node] for node in nodes}

    memory = NodeMemory(ask, lambda: now)
    devices = [Gpu("a:1", 4, 3), Gpu("b:1 #1", 2, 1), Gpu("b:1 #2", 6, 5)]
    assert memory.devices(["a:1", "b:1"], in_use=()) == devices
    assert memory.devices(["a:1", "b:1"], in_use=()) == devices and asked == ["a:1", "b:1"], "the answers are fresh"
    now, answers["a:1"] = MAX_AGE, NodeInUse("a:1")
    assert memory.devices(["b:1", "a:1"], in_use={"a:1"}) == [*devices[1:], devices[0]]
    assert asked == ["a:1", "b:1", "b:1"]
    assert memory.devices(["a:1"], in_use=()) == [Gpu("a:1", 0, 0)], "unknown: somebody else uses it"
