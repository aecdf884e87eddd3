"""Abilities of every loader that declares them, tested in the same way; the loaders' table is generated from this.

The model is SmolLM2, in the format of the loader. Details are tested in the loader's own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Waiting
from modules.loaders.registry import LOADERS, Loader
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Crowd, answer, forget, together
from tests.support.exl2_folder import exl2_folder
from tests.support.exllamav2_worker import flash_worker
from tests.support.quantized_folders import quantized_folder
from tests.support.worker_pool import WorkerPool, worker_with

FRANCE, COUNTING = "The capital of France is", "one two three four five six"
TOKENS = 5


@dataclass(frozen=True)
class Shown:
    """`make` returns the model, made from the tests' GGUF file or folder in bfloat16."""

    make: Callable[[Path, Path], Path]
    where: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)
    together: bool = True


EXLLAMAV2 = {"max_seq_len": 1024, "cfg_cache": True}
LOADED = {
    "Transformers": Shown(lambda gguf, folder: folder),
    "llama.cpp": Shown(lambda gguf, folder: gguf, options={"n_ctx": 512}),
    "llamacpp_HF": Shown(lambda gguf, folder: gguf, options={"n_ctx": 512, "cfg_cache": True}, together=False),
    "AutoGPTQ": Shown(lambda gguf, folder: quantized_folder(folder, "gptq")),
    "AutoAWQ": Shown(lambda gguf, folder: quantized_folder(folder, "awq")),
    "ExLlamav2": Shown(lambda gguf, folder: exl2_folder(folder), "stand-in", EXLLAMAV2),
    "ExLlamav2_HF": Shown(lambda gguf, folder: exl2_folder(folder), "stand-in", EXLLAMAV2, together=False),
}
WHERE = [
    pytest.param(name, marks=pytest.mark.works(shown.where, "streaming", loader=name)) for name, shown in LOADED.items()
]
TOGETHER = [name for name, shown in LOADED.items() if shown.together]
ONE_BY_ONE = [name for name, shown in LOADED.items() if not shown.together]
GUIDED = [name for name in LOADED if "cfg" in LOADERS[name].abilities]


@pytest.fixture(scope="module")
def loaded(workers: WorkerPool, loader: str, smollm2: Path, smollm2_folder: Path) -> Iterator[WorkerProcess]:
    row, shown = LOADERS[loader], LOADED[loader]
    start = flash_worker if shown.where == "stand-in" else worker_with(overlay_folder(row))
    with workers.lease(shown.make(smollm2, smollm2_folder), row, start, **shown.options) as pooled:
        yield pooled.worker


def overlay_folder(loader: Loader) -> Path | None:
    return None if loader.overlay is None else loader.overlay.folder


@pytest.fixture
def engine(loaded: WorkerProcess) -> WorkerProcess:
    """The worker of this loader, with an empty cache."""
    forget(loaded)
    return loaded


@pytest.mark.parametrize("loader", WHERE, scope="module")
def test_the_answer_is_right_and_comes_in_pieces(engine: WorkerProcess) -> None:
    reply = answer(engine, FRANCE, max_new_tokens=TOKENS)
    assert "Paris" in reply.text
    assert 2 <= len(reply.pieces) <= reply.done.completion_tokens <= TOKENS


@pytest.mark.works("samplers")
@pytest.mark.parametrize("loader", LOADED, scope="module")
def test_sampling_follows_the_parameters(engine: WorkerProcess) -> None:
    def drawn(**params: Any) -> str:
        forget(engine)  # in 16 bits it matters how many tokens are evaluated at once
        return answer(engine, "Once upon a time", max_new_tokens=TOKENS, **params).text

    greedy, wild = drawn(), {"temperature": 1.5, "min_p": 0.0}
    assert drawn(seed=1, top_k=1, **wild) == greedy
    seeds = [drawn(seed=seed, **wild) for seed in (1, 2, 3)]
    assert len({greedy, *seeds}) > 2, "three seeds and no luck"
    assert drawn(seed=3, **wild) == seeds[-1]


@pytest.mark.works("concurrent")
@pytest.mark.parametrize("loader", TOGETHER, scope="module")
def test_two_concurrent_answers_are_those_given_alone(engine: WorkerProcess) -> None:
    alone = [answer(engine, prompt, max_new_tokens=TOKENS).text for prompt in (FRANCE, COUNTING)]
    forget(engine)
    replies = together(engine, [FRANCE, COUNTING], max_new_tokens=TOKENS)
    assert not [event for reply in replies for event in reply.events if isinstance(event, Waiting)]
    assert [reply.text for reply in replies] == alone


@pytest.mark.parametrize("loader", ONE_BY_ONE, scope="module")
def test_a_second_request_learns_that_it_waits(engine: WorkerProcess) -> None:
    crowd = Crowd(engine)
    calls = [crowd.ask(prompt, max_new_tokens=TOKENS) for prompt in (FRANCE, COUNTING)]
    first, second = (crowd.wait(call) for call in calls)
    assert [isinstance(event, Waiting) for event in (first[0], second[0])] == [False, True]


@pytest.mark.works("cfg")
@pytest.mark.parametrize("loader", GUIDED, scope="module")
def test_guidance_leads_away_from_the_negative_prompt(engine: WorkerProcess) -> None:
    plain = answer(engine, FRANCE, max_new_tokens=TOKENS).text
    itself = answer(engine, FRANCE, max_new_tokens=TOKENS, guidance_scale=1.5, negative_prompt=FRANCE)
    assert itself.text == plain, "away from itself"
    led = answer(
        engine, FRANCE, max_new_tokens=TOKENS, guidance_scale=2.5, negative_prompt="The capital of Italy is Rome"
    )
    assert led.text != plain
