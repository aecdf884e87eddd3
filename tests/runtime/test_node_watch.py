"""The RPC nodes of a worker: those that are gone are named, and a worker that waits for one for ever is ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from modules.core.errors import LANGUAGES, both
from modules.core.rpc_errors import NodeError, NodeInUse, NodesLost, NodesSilent, NodeUnreachable
from modules.core.worker_errors import WorkerDied
from modules.runtime import node_watch
from modules.runtime.node_watch import EVALUATION_SECONDS, STEP_SECONDS, NodeWatch
from modules.runtime.worker_process import WorkerProcess, child_environment
from modules.system.rpc_node import NodeFacts
from tests.conftest import ECHO, load
from tests.support.fake_node import closed_port, fake_node

GOOD = NodeFacts("7.0.0", ())
DEATH = WorkerDied(-6, both("generating"), "Remote RPC server crashed")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(*answers: NodeFacts | NodeError, clock: Clock | None = None) -> NodeWatch:
    def ask(nodes: Sequence[str]) -> dict[str, NodeFacts | NodeError]:
        return dict(zip(nodes, answers, strict=True))

    return NodeWatch([f"node{number}:1" for number in range(len(answers))], ask, clock or Clock())


def test_a_death_names_the_nodes_that_no_longer_answer() -> None:
    lost = watch(GOOD, NodeUnreachable("node1:1", "refused"), NodeInUse("node2:1")).explain(DEATH)
    assert isinstance(lost, NodesLost) and lost.nodes == "node1:1", "one that is busy may just be slow to notice"
    assert all("node1:1" in lost.say(language) and "node0" not in lost.say(language) for language in LANGUAGES)
    frozen = watch(GOOD, NodeInUse("node1:1")).explain(DEATH)
    assert isinstance(frozen, NodesLost) and frozen.nodes == "node1:1"
    assert watch(GOOD, GOOD).explain(DEATH) is DEATH, "the nodes have nothing to do with it"


def test_silence_is_that_of_the_calls_that_compute() -> None:
    clock = Clock()
    silent = watch(GOOD, NodeInUse("node1:1"), clock=clock)
    silent.note("generate")
    clock.now += STEP_SECONDS - 1
    silent.note("count")  # answered by a worker whose step waits for a node, too
    assert not silent.is_silent(["generate"])
    clock.now += 1
    assert not silent.is_silent([]) and not silent.is_silent(["count"]) and not silent.is_silent(["loglikelihoods"])
    assert silent.is_silent(["count", "generate"])
    ended = silent.explain(DEATH)
    assert isinstance(ended, NodesSilent) and (ended.nodes, ended.seconds) == ("node1:1", STEP_SECONDS)
    silent.note("generate")
    assert not silent.is_silent(["generate"]), "an event of a call is a sign of life"
    clock.now += EVALUATION_SECONDS
    assert silent.is_silent(["loglikelihoods"])


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(node_watch, "CHECK_SECONDS", 0.01)
    yield


def test_a_worker_is_ended_when_no_event_comes_and_its_death_names_the_node(quick_checks: None) -> None:
    clock = Clock()
    with fake_node() as good:
        gone = closed_port()
        nodes = NodeWatch([good.address, gone], clock=clock)
        with closing(WorkerProcess(nodes=nodes)) as worker:
            load(worker, Path("anything"), ECHO)
            answer = worker.events("generate", prompt="hello slow world", params={})
            next(answer)
            os.kill(worker.pid, signal.SIGSTOP)  # as a step does not end that waits for a node
            while worker.running:
                clock.now += STEP_SECONDS
                time.sleep(0.02)
            with pytest.raises(NodesSilent, match=gone):
                list(answer)
            assert isinstance(worker.death, NodesSilent) and not worker.running


def test_an_abort_of_ggml_keeps_its_sentence_among_the_last_lines() -> None:
    assert child_environment(None, {})["GGML_NO_BACKTRACE"] == "1"
