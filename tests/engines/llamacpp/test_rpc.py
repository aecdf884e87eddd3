"""Two other machines, as processes of this one: the same text, and what is said when one of them dies."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modules.core.rpc_errors import NodeInUse, NodesLost
from modules.loaders.registry import LOADERS, Loader
from modules.runtime.node_watch import NodeWatch
from modules.runtime.worker_process import WorkerProcess
from modules.system import rpc_node
from tests.conftest import LLAMA, load
from tests.support.answers import answer, parameters
from tests.support.llama_library import reference_answers
from tests.support.rpc_nodes import Node, real_nodes, wait_until_free
from tests.support.shallow_gguf import shallow_gguf

OPTIONS = {"n_ctx": 512, "threads": 1, "threads_batch": 1, "flash_attn": False}
TOKENS = 40
PROMPT = "Once upon a time, in a small village by the sea,"


@pytest.fixture(scope="module")
def nodes(backend: None) -> Iterator[list[Node]]:
    with real_nodes(2) as nodes:
        yield nodes


def local_text(model: Path) -> str:
    """Return the answer without nodes, and without repacked weights, which nodes do not have."""
    request = {"path": str(model), "prompts": [PROMPT], "max_tokens": TOKENS, "n_ctx": 512, "threads": 1}
    return str(reference_answers({**request, "flash_attn": False, "repacks": False})[0]["text"])


def test_two_nodes_compute_the_same_text_and_the_death_of_one_is_named(nodes: list[Node], smollm2: Path) -> None:
    model, (first, second) = shallow_gguf(smollm2), nodes
    expected = local_text(model)
    addresses = f"{first.address}, {second.address}"
    with closing(WorkerProcess(nodes=NodeWatch([first.address, second.address]))) as worker:
        load(worker, model, LLAMA, **OPTIONS, rpc=addresses, n_gpu_layers=-1)
        assert answer(worker, PROMPT, max_new_tokens=TOKENS).text == expected
        with pytest.raises(NodeInUse):
            rpc_node.ask(first.address, 0.2)
        running = worker.events("generate", prompt=PROMPT, params=parameters(max_new_tokens=400, ban_eos_token=True))
        next(running)
        second.process.kill()
        with pytest.raises(NodesLost, match=second.address) as lost:
            list(running)
        assert first.address not in lost.value.nodes
        assert "Remote RPC server crashed" in lost.value.words
    wait_until_free(first, seconds=2)
    _check_llamacpp_hf(LOADERS["llamacpp_HF"], model, first, expected)


def _check_llamacpp_hf(loader: Loader, model: Path, node: Node, expected: str) -> None:
    """The node that is left serves the next client, of the other loader, and ends with Ctrl-C meanwhile."""
    with closing(WorkerProcess(nodes=NodeWatch([node.address]))) as worker:
        load(worker, model, loader, **OPTIONS, rpc=node.address, n_gpu_layers=-1)
        assert answer(worker, PROMPT, max_new_tokens=TOKENS).text == expected
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(2) == -signal.SIGINT
