"""Tests of the abilities that loaders declare, the same for all loaders; the table of loaders is generated from them.

The model is SmolLM2, in the format of the loader. Details are tested in the loader's own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Waiting
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Crowd, answer, forget, together
from tests.support.exl2_folder import exl2_folder
from tests.support.exllamav2_worker import flash_worker
from tests.support.quantized_folders import quantized_folder
from tests.support.worker_pool import WorkerPool, worker_with

FRANCE, COUNTING = "The capital of France is", "one two three four five six"
TOKENS = 5


@dataclass(frozen=True)
class Setup:
    """How a loader is tested. `make` returns the model, made from the demo model's GGUF file or bfloat16 folder."""

    make: Callable[[Path, Path], Path]
    where: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)
    concurrent: bool = True


EXLLAMAV2 = {"max_seq_len": 1024, "cfg_cache": True}
SETUPS = {
    "Transformers": Setup(lambda gguf, folder: folder),
    "llama.cpp": Setup(lambda gguf, folder: gguf, options={"n_ctx": 512}),
    "llamacpp_HF": Setup(lambda gguf, folder: gguf, options={"n_ctx": 512, "cfg_cache": True}, concurrent=False),
    "AutoGPTQ": Setup(lambda gguf, folder: quantized_folder(folder, "gptq")),
    "AutoAWQ": Setup(lambda gguf, folder: quantized_folder(folder, "awq")),
    "ExLlamav2": Setup(lambda gguf, folder: exl2_folder(folder), "stand-in", EXLLAMAV2),
    "ExLlamav2_HF": Setup(lambda gguf, folder: exl2_folder(folder), "stand-in", EXLLAMAV2, concurrent=False),
}
STREAMING = [
    pytest.param(name, marks=pytest.mark.works(setup.where, "streaming", loader=name)) for name, setup in SETUPS.items()
]
CONCURRENT = [name for name, setup in SETUPS.items() if setup.concurrent]
SEQUENTIAL = [name for name, setup in SETUPS.items() if not setup.concurrent]
GUIDED = [name for name in SETUPS if "cfg" in LOADERS[name].abilities]


@pytest.fixture(scope="module")
def loaded(workers: WorkerPool, loader: str, smollm2: Path, smollm2_folder: Path) -> Iterator[WorkerProcess]:
    setup, overlay = SETUPS[loader], LOADERS[loader].overlay
    start = flash_worker if setup.where == "stand-in" else worker_with(overlay and overlay.folder)
    with workers.lease(setup.make(smollm2, smollm2_folder), LOADERS[loader], start, **setup.options) as pooled:
        yield pooled.worker


@pytest.fixture
def engine(loaded: WorkerProcess) -> WorkerProcess:
    """The worker of this loader, with an empty cache."""
    forget(loaded)
    return loaded


@pytest.mark.parametrize("loader", STREAMING, scope="module")
def test_the_answer_is_right_and_is_streamed(engine: WorkerProcess) -> None:
    reply = answer(engine, FRANCE, max_new_tokens=TOKENS)
    assert "Paris" in reply.text
    assert 2 <= len(reply.pieces) <= reply.done.completion_tokens <= TOKENS


@pytest.mark.works("samplers")
@pytest.mark.parametrize("loader", SETUPS, scope="module")
def test_sampling_depends_on_the_parameters(engine: WorkerProcess) -> None:
    def sample(**params: Any) -> str:
        forget(engine)  # in 16 bits it matters how many tokens are evaluated at once
        return answer(engine, "Once upon a time", max_new_tokens=TOKENS, **params).text

    greedy, random = sample(), {"temperature": 1.5, "min_p": 0.0}
    assert sample(seed=1, top_k=1, **random) == greedy
    texts = [sample(seed=seed, **random) for seed in (1, 2, 3)]
    assert len({greedy, *texts}) > 2, "at least two of three seeds give other answers"
    assert sample(seed=3, **random) == texts[-1]


@pytest.mark.works("concurrent")
@pytest.mark.parametrize("loader", CONCURRENT, scope="module")
def test_concurrent_answers_are_those_to_single_requests(engine: WorkerProcess) -> None:
    single = [answer(engine, prompt, max_new_tokens=TOKENS).text for prompt in (FRANCE, COUNTING)]
    forget(engine)
    replies = together(engine, [FRANCE, COUNTING], max_new_tokens=TOKENS)
    assert not [event for reply in replies for event in reply.events if isinstance(event, Waiting)]
    assert [reply.text for reply in replies] == single


@pytest.mark.parametrize("loader", SEQUENTIAL, scope="module")
def test_a_second_request_is_told_that_it_waits(engine: WorkerProcess) -> None:
    crowd = Crowd(engine)
    calls = [crowd.ask(prompt, max_new_tokens=TOKENS) for prompt in (FRANCE, COUNTING)]
    first, second = (crowd.wait(call) for call in calls)
    assert [isinstance(event, Waiting) for event in (first[0], second[0])] == [False, True]


@pytest.mark.works("cfg")
@pytest.mark.parametrize("loader", GUIDED, scope="module")
def test_guidance_leads_away_from_the_negative_prompt(engine: WorkerProcess) -> None:
    plain = answer(engine, FRANCE, max_new_tokens=TOKENS).text
    unguided = answer(engine, FRANCE, max_new_tokens=TOKENS, guidance_scale=1.5, negative_prompt=FRANCE)
    assert unguided.text == plain
    guided = answer(
        engine, FRANCE, max_new_tokens=TOKENS, guidance_scale=2.5, negative_prompt="The capital of Italy is Rome"
    )
    assert guided.text != plain
