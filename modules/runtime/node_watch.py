"""Watch the RPC nodes of a model's worker, which itself waits for a node for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from modules.core.errors import Words
from modules.core.rpc_errors import NodeError, NodeInUse, NodesLost, NodesSilent
from modules.core.worker_errors import WorkerDied
from modules.system import rpc_node
from modules.system.rpc_node import NodeFacts

CHECK_SECONDS = 2.0
STEP_SECONDS, LOAD_SECONDS, EVALUATION_SECONDS = 60, 300, 600
SILENCE_SECONDS: Mapping[str, int] = {
    **dict.fromkeys(("generate", "next"), STEP_SECONDS),
    "load": LOAD_SECONDS,
    **dict.fromkeys(("loglikelihoods", "apply_loras", "embed", "rank"), EVALUATION_SECONDS),
}
"""Seconds that each operation may compute without an event. A load reports each percent of what it sends through the
network; the last ones report nothing before they are done."""

Ask = Callable[[Sequence[str]], Mapping[str, NodeFacts | NodeError]]


class NodeWatch:
    """The nodes of one worker, as host:port. Any thread may call; `clock` returns seconds.

    Only operations that compute count: others are answered by a worker that waits for a node, too.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        ask: Ask = rpc_node.ask_all,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes = tuple(nodes)
        self._ask, self._clock = ask, clock
        self._heard_at = clock()
        self._silent_for = 0

    def note(self, operation: str) -> None:
        """Note that a call has begun while none was under way, or an event of one."""
        if operation in SILENCE_SECONDS:
            self._heard_at = self._clock()

    def is_silent(self, operations: Collection[str]) -> bool:
        """Whether the calls under way, by their operations, have waited for too long."""
        limits = [SILENCE_SECONDS[operation] for operation in operations if operation in SILENCE_SECONDS]
        if not limits or self._clock() - self._heard_at < min(limits):
            return False
        self._silent_for = min(limits)
        return True

    def explain(self, death: WorkerDied) -> WorkerDied:
        """Return the death of the worker with the nodes that have caused it, if any have.

        The other nodes are free at once when the worker has ended, so that they answer.
        """
        problems = {node: found for node, found in self._ask(self.nodes).items() if isinstance(found, NodeError)}
        gone = [node for node, problem in problems.items() if not isinstance(problem, NodeInUse)]
        names = ", ".join(gone or problems)
        facts: tuple[int, Words, str] = (death.exit_code, death.doing, death.words)
        if self._silent_for:
            return NodesSilent(*facts, nodes=names or ", ".join(self.nodes), seconds=self._silent_for)
        return NodesLost(*facts, nodes=names) if names else death


def start(
    watch: NodeWatch, running: Callable[[], bool], operations: Callable[[], Collection[str]], end: Callable[[], None]
) -> None:
    """Call `end` once when the nodes of a worker are silent; `operations` are those of its calls under way."""

    def look() -> None:
        while running():
            if watch.is_silent(operations()):
                end()
                return
            time.sleep(CHECK_SECONDS)

    threading.Thread(target=look, name="nodes", daemon=True).start()
