"""The loader vLLM with the real vLLM on the CPU: answers, grammar, a LoRA, log-likelihoods, and its end.

One server is started for all tests, which takes half a minute of two cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.lora_errors import LoraRefused
from modules.core.paths import ROOT
from modules.core.worker_errors import LoadFailed
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from modules.system.supervisor import session_members
from tests.conftest import TRANSFORMERS
from tests.support.answers import answer
from tests.support.log_likelihoods import evaluate
from tests.support.trained_loras import LESSONS, trained_loras
from tests.support.worker_pool import WorkerPool
from tests.system.test_child_process import ends_within

ROW = LOADERS["vLLM"]
FRANCE = "The capital of France is"
TEXT = ROOT / "training" / "datasets" / "alice-in-wonderland.txt"


def load(worker: WorkerProcess, model: Path, python: str, **form: object) -> dict[str, object]:
    program = str(Path(python).parent / "vllm")
    form = {"max_model_len": 1024, "kv_cache_gib": 0.25, "enforce_eager": True, "vllm_program": program} | form
    options = option_values(resolve(ROW, model={}, saved={}, flags={}, form=form))
    info: dict[str, object] = worker.call("load", engine=ROW.engine, path=str(model), options=options)
    return info


def sessions(worker: WorkerProcess) -> list[int]:
    """Return all processes of the servers that a worker has started."""
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    every = [path.read_text().split() for path in Path(f"/proc/{worker.pid}/task").glob("*/children")]
    supervisors = {int(pid) for pids in (children, *every) for pid in pids}
    return [pid for leader in supervisors for pid in (leader, *session_members(leader))]


@pytest.fixture(scope="module")
def served(vllm_python: str, smollm2_folder: Path) -> Iterator[tuple[WorkerProcess, dict[str, object]]]:
    worker = WorkerProcess()
    try:
        yield worker, load(worker, smollm2_folder, vllm_python, enable_lora=True)
    finally:
        processes = sessions(worker)
        worker.close()
        assert len(processes) >= 4 and ends_within(1, *processes), "unloading leaves no process of vLLM"


def test_it_answers_and_says_what_it_can(served: tuple[WorkerProcess, dict[str, object]]) -> None:
    worker, info = served
    assert info["context_length"] == 1024 and info["server"] == "vllm" and "im_start" in str(info["chat_template"])
    assert isinstance(info["memory"], int) and info["memory"] > 10**9
    greedy = answer(worker, FRANCE)
    assert greedy.text.startswith(" Paris") and greedy.done.prompt_tokens == 5
    assert answer(worker, FRANCE).text == greedy.text


def test_a_grammar_decides_the_answer(served: tuple[WorkerProcess, dict[str, object]]) -> None:
    worker, _ = served
    assert answer(worker, FRANCE, grammar_string='root ::= " London" | " Berlin"').text in (" London", " Berlin")


def test_a_lora_is_applied_while_the_model_is_loaded(
    served: tuple[WorkerProcess, dict[str, object]], smollm2_folder: Path
) -> None:
    worker, _ = served
    lesson, folder = LESSONS["banana"], trained_loras(smollm2_folder) / "banana"
    before = answer(worker, lesson.beginning).text
    (effect,) = worker.call("apply_loras", adapters=[{"name": "banana", "path": str(folder), "weight": 1.0}])
    assert effect > 1 and answer(worker, lesson.beginning).text.startswith(lesson.words)
    with pytest.raises(LoraRefused):
        worker.call("apply_loras", adapters=[{"name": "none", "path": "/no/such/folder", "weight": 1.0}])
    assert answer(worker, lesson.beginning).text.startswith(lesson.words)
    assert worker.call("apply_loras", adapters=[]) == [] and answer(worker, lesson.beginning).text == before


def test_the_perplexity_is_that_of_transformers(
    served: tuple[WorkerProcess, dict[str, object]], workers: WorkerPool, smollm2_folder: Path
) -> None:
    worker, _ = served
    tokens = worker.call("encode", text=TEXT.read_text(encoding="utf-8")[2000:6000], add_special=False)[:600]
    with workers.lease(smollm2_folder, TRANSFORMERS) as transformers:
        expected = evaluate(transformers.worker, tokens).logprobs
    perplexity = [math.exp(-sum(values) / len(values)) for values in (evaluate(worker, tokens).logprobs, expected)]
    assert perplexity[0] == pytest.approx(perplexity[1], rel=0.01)


@pytest.mark.usefixtures("backend")
def test_a_refusal_of_vllm_names_its_reason(vllm_python: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of", "architectures": ["UnheardOf"]}')
    worker = WorkerProcess()
    with pytest.raises(LoadFailed, match="unheard_of"):
        load(worker, tmp_path, vllm_python)
    worker.close()
