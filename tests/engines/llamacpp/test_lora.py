"""LoRAs with llama.cpp, in both loaders that use it.

A small model in full precision is compared with PEFT, the demo model must repeat the lessons that the LoRAs were
trained on, its first layers are compared by log probabilities, and errors and memory are tested on the tiny model. All
requests go through `LoraManager` and the worker, as in the application.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.catalog.catalog import Catalog
from modules.core.errors import ModelProblem, WebUIError
from modules.core.events import Event, Result, TokenLogprobs
from modules.core.lora_errors import LoraMismatch, LoraRefused, LoraWithoutEffect
from modules.core.paths import ROOT
from modules.formats.gguf_header import read_header
from modules.formats.gguf_writer import PlannedTensor, write_gguf
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.lora.catalog import LoraCatalog
from modules.lora.gguf_conversion import converted
from modules.lora.manager import LoraManager
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.lora.test_tensor_names import MIN_EFFECT
from tests.support import tiny_loras, tiny_model
from tests.support.answers import Answer, Crowd, answer, ask, forget, together
from tests.support.checkpoint_files import put
from tests.support.forked import forked
from tests.support.log_likelihoods import evaluate, expected_logprobs
from tests.support.lora_files import peft
from tests.support.memory_growth import ROUNDS, SETTLING_ROUNDS, growth
from tests.support.shallow_gguf import shallow_gguf
from tests.support.tiny_loras import SETS, TOKENS
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import WorkerPool

Logprobs = dict[str, float]
THREADS = {"threads": 1, "threads_batch": 1}
BANANA, GREEN = LESSONS["banana"], LESSONS["green"]
STORY = "Once upon a time, in a small village by the sea, there lived a clockmaker who never slept. " * 4
LETTER = "Dear Sir, thank you very much for the long letter about the price of apples in the north. " * 4


class SingleModelManager(ModelManager):
    """A ModelManager whose model was loaded by a worker of the pool."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self._model = model

    @property
    def current(self) -> LoadedModel:
        return self._model


@dataclass
class LoraModel:
    """A loaded model with its LoRAs."""

    model: LoadedModel
    manager: LoraManager

    def apply(self, weights: Mapping[str, float]) -> list[float]:
        return [lora.effect for lora in self.manager.apply(weights)]

    def answer(self, prompt: str, **params: Any) -> Answer:
        return answer(self.model._worker, prompt, **params)

    def says(self, prompt: str) -> str:
        return self.answer(prompt, max_new_tokens=6).text

    def logprobs(self, prompt: str, top: int) -> Logprobs:
        """Return the log probabilities of the `top` most likely next tokens."""
        (token,) = self.answer(prompt, max_new_tokens=1, top_logprobs=top, ban_eos_token=True).logprobs
        return logprobs_of(token)


def logprobs_of(token: TokenLogprobs) -> Logprobs:
    return {candidate.text: candidate.logprob for candidate in token.top}


def largest_difference(actual: Logprobs, expected: Logprobs) -> float:
    """Return the largest difference of a log probability over the common tokens, which must be most tokens."""
    common = actual.keys() & expected.keys()
    assert len(common) > 0.8 * len(expected)
    return max(abs(actual[text] - expected[text]) for text in common)


LoadModel = Callable[..., contextlib.AbstractContextManager[LoraModel]]


@pytest.fixture(scope="session")
def load_model(workers: WorkerPool) -> LoadModel:
    """Return a context manager that loads a model in a worker of the pool, and removes the LoRAs at the end."""

    @contextlib.contextmanager
    def lora_model(path: Path, loras: Path, loader: str, **options: object) -> Iterator[LoraModel]:
        settings = resolve(LOADERS[loader], model={}, saved={}, flags={}, form=THREADS | options)
        with workers.lease(path, LOADERS[loader], **THREADS, **options) as pooled:
            record = Catalog(path.parent).find(path.name)
            model = LoadedModel(LoadPlan(record, LOADERS[loader], settings), pooled.worker, pooled.info)
            manager = LoraManager(LoraCatalog(loras), SingleModelManager(model))
            yield LoraModel(model, manager)
            manager.apply({})

    return lora_model


@pytest.fixture(scope="module", params=["llama.cpp", "llamacpp_HF"])
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- comparison with PEFT ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_folder(backend: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small model with two LoRAs, and the logits of SETS: by llama.cpp in llama.npz, by PEFT in logits.npz."""
    parent = tmp_path_factory.mktemp("small")
    forked(tiny_loras.write, parent / "all", ["llama"])
    folder = parent / "all" / "llama"
    model = folder / "model.gguf"
    adapters = {lora.name: str(converted(lora, read_header(model))) for lora in LoraCatalog(folder / "loras").all()}
    job = {"model": str(model), "adapters": adapters, "sets": SETS, "tokens": TOKENS, "out": str(folder / "llama.npz")}
    script = [
        sys.executable,
        "-m",
        "tests.support.llama_lora_reference",
        str(put(parent / "jobs.json", {"jobs": [job]})),
    ]
    subprocess.run(script, cwd=ROOT, check=True, timeout=110)
    return folder


@pytest.fixture
def small(load_model: LoadModel, small_folder: Path, loader: str) -> Iterator[LoraModel]:
    options = {"n_ctx": 256, "logits_all": True}
    with load_model(small_folder / "model.gguf", small_folder / "loras", loader, **options) as lora_model:
        yield lora_model


@pytest.fixture
def token_texts(small: LoraModel) -> list[str]:
    return [str(ask(small.model._worker, "decode", tokens=[token])) for token in range(128)]


def difference_from(actual: Logprobs, logits: NDArray[np.float32], token_texts: Sequence[str]) -> float:
    """Return the largest difference from the log probabilities of the last row of `logits`, over most tokens."""
    last = logits[-1].astype(float)
    expected = last - np.log(np.exp(last).sum())
    assert len(actual) > 120
    return max(abs(actual[text] - expected[token_texts.index(text)]) for text in actual)


def final_logprobs(small: LoraModel, token_texts: Sequence[str]) -> Logprobs:
    prompt = "".join(token_texts[token] for token in TOKENS)
    assert ask(small.model._worker, "encode", text=prompt) == TOKENS
    return small.logprobs(prompt, 127)


@pytest.mark.lora("one", "several", "weights")
@pytest.mark.parametrize("name", SETS)
def test_every_set_of_adapters_has_the_effect_it_has_under_peft(
    small: LoraModel, small_folder: Path, token_texts: list[str], name: str
) -> None:
    peft, llama = np.load(small_folder / "logits.npz"), np.load(small_folder / "llama.npz")
    effects = small.apply(SETS[name])
    actual = final_logprobs(small, token_texts)
    effect = float(np.abs(peft[name] - peft["none"]).mean())
    assert difference_from(actual, peft[name], token_texts) < effect / MIN_EFFECT
    assert difference_from(actual, llama[name], token_texts) < 1e-3
    assert [measured > 0 for measured in effects] == [weight > 0 for weight in SETS[name].values()]


@pytest.mark.lora("several", "hot")
def test_the_effect_of_a_set_does_not_depend_on_the_sets_before_it(
    small: LoraModel, small_folder: Path, token_texts: list[str]
) -> None:
    peft = np.load(small_folder / "logits.npz")
    small.apply({})
    bare = final_logprobs(small, token_texts)
    for before, after in itertools.permutations([*SETS, "none"], 2):
        small.apply(SETS.get(before, {}))
        small.apply(dict(reversed(SETS.get(after, {}).items())))
        actual = final_logprobs(small, token_texts)
        effect = float(np.abs(peft["cat"] - peft["none"]).mean())
        assert difference_from(actual, peft[after], token_texts) < effect / MIN_EFFECT, f"{after} after {before}"
        assert (actual == bare) is (after == "none")


def test_the_logits_of_every_position_are_those_under_peft(small: LoraModel, small_folder: Path, loader: str) -> None:
    if loader != "llamacpp_HF":
        pytest.skip("only llamacpp_HF has the logits operation")
    peft = np.load(small_folder / "logits.npz")
    effect = np.abs(peft["cat"] - peft["none"]).mean()
    for name, weights in SETS.items():
        small.apply(weights)
        actual = np.array(ask(small.model._worker, "logits", tokens=TOKENS))
        assert np.abs(actual - peft[name]).max() < effect / MIN_EFFECT


def test_log_likelihoods_are_those_under_peft(small: LoraModel, small_folder: Path) -> None:
    peft = np.load(small_folder / "logits.npz")
    effect = np.abs(peft["cat"] - peft["none"]).mean()
    for name, weights in SETS.items():
        small.apply(weights)
        actual = np.array(evaluate(small.model._worker, TOKENS).logprobs)
        assert np.abs(actual - expected_logprobs(peft[name], TOKENS)).max() < effect / MIN_EFFECT


# -- trained LoRAs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(loras_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a writable copy: conversions are stored beside the adapters."""
    return Path(shutil.copytree(loras_folder, tmp_path_factory.mktemp("trained") / "loras"))


@pytest.fixture
def real(load_model: LoadModel, smollm2: Path, trained: Path, loader: str) -> Iterator[LoraModel]:
    with load_model(smollm2, trained, loader, n_ctx=256) as lora_model:
        yield lora_model


@pytest.mark.lora("one", "several", "hot")
def test_a_trained_adapter_makes_the_model_say_its_lesson_only_while_applied(real: LoraModel) -> None:
    sets = [{}, {"banana": 1.0}, {"green": 1.0, "banana": 0.0}, {"banana": 1.0, "green": 1.0}, {}]
    for weights in sets:
        effects = real.apply(weights)
        assert [effect > 1 for effect in effects] == [weight > 0 for weight in weights.values()]
        for name, lesson in LESSONS.items():
            assert real.says(lesson.beginning).startswith(lesson.words) is bool(weights.get(name))


@pytest.mark.lora("weights")
def test_the_effect_grows_with_the_weight(real: LoraModel) -> None:
    effects = [real.apply({"banana": weight})[0] for weight in (2.0, 1.0, 0.1)]
    assert effects == sorted(set(effects), reverse=True)
    assert not real.says(BANANA.beginning).startswith(BANANA.words)


# -- log probabilities of the first layers -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shallow_model(smollm2: Path) -> Path:
    return shallow_gguf(smollm2)


@pytest.fixture(scope="module")
def shallow_trained(shallow_loras: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a writable copy: conversions are stored beside the adapters."""
    return Path(shutil.copytree(shallow_loras, tmp_path_factory.mktemp("shallow") / "loras"))


@pytest.fixture
def shallow(load_model: LoadModel, shallow_model: Path, shallow_trained: Path, loader: str) -> Iterator[LoraModel]:
    with load_model(shallow_model, shallow_trained, loader, n_ctx=256, logits_all=True) as lora_model:
        yield lora_model


def test_after_removing_all_adapters_the_logits_are_bitwise_those_of_before(shallow: LoraModel, loader: str) -> None:
    def all_logprobs() -> Any:
        forget(shallow.model._worker)
        if loader == "llamacpp_HF":
            tokens = ask(shallow.model._worker, "encode", text=BANANA.beginning)
            return ask(shallow.model._worker, "logits", tokens=tokens)
        return shallow.logprobs(BANANA.beginning, 4000)  # all are computed from the same 576 numbers

    shallow.apply({})
    bare = all_logprobs()
    for weights in ({"banana": 1.0}, {"banana": 0.3, "green": 2.0}):
        shallow.apply(weights)
        assert all_logprobs() != bare
        shallow.apply({})
        assert all_logprobs() == bare


def test_an_adapter_of_weight_zero_has_no_effect(shallow: LoraModel) -> None:
    shallow.apply({"green": 1.0})
    green = shallow.logprobs(BANANA.beginning, 1000)
    assert shallow.apply({"green": 1.0, "banana": 0.0})[1] == 0
    assert shallow.logprobs(BANANA.beginning, 1000) == green


def test_requests_during_a_change_wait_without_interrupting_the_probe(
    shallow: LoraModel, shallow_trained: Path
) -> None:
    """Requests may interrupt a long prefill, but not the probe that measures the effect of a LoRA."""

    def lesson_logprobs() -> list[Logprobs]:
        forget(shallow.model._worker)
        return [shallow.logprobs(lesson.beginning, 500) for lesson in LESSONS.values()]

    shallow.apply({"banana": 1.0})
    with_banana = lesson_logprobs()
    header = shallow.model.record.header
    assert header is not None
    request = [
        {"name": "green", "path": str(converted(LoraCatalog(shallow_trained).find("green"), header)), "weight": 1.0}
    ]
    events: list[Event] = []
    crowd = Crowd(shallow.model._worker)
    shallow.model._worker.start("apply_loras", events.append, adapters=request)
    calls = [
        crowd.ask(lesson.beginning, max_new_tokens=1, top_logprobs=500, ban_eos_token=True)
        for lesson in LESSONS.values()
    ]
    during_change = [logprobs_of(crowd.answer(call).logprobs[0]) for call in calls]
    assert isinstance(events[-1], Result) and events[-1].value[0] > 1
    with_green = lesson_logprobs()
    for actual, green, banana in zip(during_change, with_green, with_banana, strict=True):
        assert largest_difference(actual, green) < largest_difference(green, banana) / MIN_EFFECT


# -- cache and memory --------------------------------------------------------------------------------------------------

CAT, DOG = "cat.gguf", "dog.gguf"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two LoRAs of random numbers for the tiny model, of 4 MiB each."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in (CAT, DOG):
        adapter(folder / name, 0.3, rank=1 << 15)
    return folder


@pytest.fixture
def tiny_loaded(load_model: LoadModel, tiny: Path, adapters: Path, loader: str) -> Iterator[LoraModel]:
    with load_model(tiny, adapters, loader, n_ctx=512) as lora_model:
        yield lora_model


def test_after_a_change_no_evaluated_tokens_are_reused(tiny_loaded: LoraModel) -> None:
    """This is true of the conversation in the KV cache and of one saved in main memory."""
    prompts = [text + BANANA.beginning for text in (STORY, LETTER)]
    all_texts = []

    def turns() -> list[Answer]:
        return [tiny_loaded.answer(prompt, max_new_tokens=4) for prompt in prompts]

    for weights in ({CAT: 1.0}, {CAT: 0.5}, {}):
        turns()
        assert min(reply.done.cached_tokens for reply in turns()) > 64
        tiny_loaded.apply(weights)
        first = turns()
        assert [reply.done.cached_tokens for reply in first] == [0, 0]
        forget(tiny_loaded.model._worker)
        assert [reply.text for reply in turns()] == [reply.text for reply in first]
        all_texts.append([reply.text for reply in first])
    for texts in zip(*all_texts, strict=True):
        assert len(set(texts)) == len(texts), "the sets lead to different answers"


def test_applying_and_removing_adapters_leaks_no_memory(tiny_loaded: LoraModel) -> None:
    sizes = []
    for _ in range(SETTLING_ROUNDS + ROUNDS):
        tiny_loaded.apply({CAT: 1.0, DOG: 0.5})
        tiny_loaded.answer(BANANA.beginning, max_new_tokens=2)
        tiny_loaded.apply({})
        sizes.append(tiny_loaded.model.memory)
    assert growth(sizes[SETTLING_ROUNDS:]) < ROUNDS // 2 * (1 << 20), (
        "a leak of either adapter in each round would take more"
    )


# -- adapters that cannot be applied -----------------------------------------------------------------------------------

Q = "blk.0.attn_q.weight"


def adapter(
    path: Path, fill: float = 0.1, extra_tensors: Sequence[str] = (), architecture: str = "llama", rank: int = 4
) -> Path:
    """Write a GGUF adapter for the tiny model: A is random, B is filled with `fill`."""
    metadata = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": architecture}
    width = tiny_model.HIDDEN
    planned = [PlannedTensor(f"{Q}.lora_a", "F32", (width, rank)), PlannedTensor(f"{Q}.lora_b", "F32", (rank, width))]
    a = np.random.default_rng(1).standard_normal(width * rank, np.float32)
    data = [a.tobytes(), np.full(rank * width, fill, np.float32).tobytes()]
    for name in extra_tensors:
        planned.append(PlannedTensor(name, "F32", (8,)))
        data.append(bytes(32))
    with path.open("wb") as file:
        write_gguf(file, {**metadata, "adapter.lora.alpha": 2.0 * rank}, planned, data)
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def broken(name: str, folder: Path) -> str:
    """Write a LoRA with the named defect into the folder of the intact ones, and return its name."""
    path = folder / f"{name}.gguf"
    makers = {
        "rank": lambda: peft(folder / name, r=16),
        "truncated": lambda: truncate(adapter(path)),
        "architecture": lambda: adapter(path, architecture="qwen2"),
        "zeros": lambda: adapter(path, 0.0),
        "nan": lambda: adapter(path, float("nan")),
        "overflow": lambda: adapter(path, 1e38),
        "unknown tensor": lambda: adapter(path, extra_tensors=["blk.0.strange"]),
    }
    return makers[name]().name


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("rank", ModelProblem, "the rank is 16 in adapter_config.json"),
        ("truncated", ModelProblem, "the file is truncated"),
        ("architecture", LoraMismatch, "made for the architecture 'qwen2', but the model is 'llama'"),
        ("zeros", LoraWithoutEffect, "changes no logit"),
        ("nan", LoraRefused, "logits are no longer finite"),
        ("overflow", LoraRefused, "logits are no longer finite"),
        ("unknown tensor", LoraRefused, "LoRA tensor 'blk.0.strange' has unexpected suffix"),
    ],
)
def test_a_broken_adapter_is_refused_with_the_cause_and_the_previous_set_stays(
    tiny_loaded: LoraModel, adapters: Path, name: str, error: type[WebUIError], message: str
) -> None:
    def current_answers() -> tuple[Logprobs, str]:
        forget(tiny_loaded.model._worker)
        return tiny_loaded.logprobs(BANANA.beginning, 1000), tiny_loaded.says(BANANA.beginning)

    bare = current_answers()
    tiny_loaded.apply({CAT: 1.0})
    before = current_answers()
    assert before[0] != bare[0]
    assert before[1] != bare[1]
    bad = broken(name, adapters)
    try:
        with pytest.raises(error) as refused:
            tiny_loaded.apply({DOG: 1.0, bad: 1.0})
        assert message in refused.value.say("en")
        assert bad.partition(".")[0] in refused.value.say("en")
        assert [lora.name for lora in tiny_loaded.model.loras] == [CAT]
        assert current_answers() == before
    finally:
        shutil.rmtree(adapters / bad) if (adapters / bad).is_dir() else os.unlink(adapters / bad)


def test_a_refusal_by_llama_cpp_is_reported_with_its_message(tiny_loaded: LoraModel, tmp_path: Path) -> None:
    """Such adapters pass our own checks, because the file changes afterwards or has a tensor that we do not know."""
    files = {
        "other.gguf": (adapter(tmp_path / "other.gguf", architecture="qwen2"), "model arch and LoRA arch mismatch"),
        "text.gguf": (put(tmp_path / "text.gguf", "no adapter"), "invalid magic characters: 'no a', expected 'GGUF'"),
        "gone.gguf": (tmp_path / "gone.gguf", "No such file"),
    }
    for name, (path, message) in files.items():
        with pytest.raises(LoraRefused) as refused:
            ask(
                tiny_loaded.model._worker,
                "apply_loras",
                adapters=[{"name": name, "path": str(path), "weight": 1.0}],
            )
        assert refused.value.lora == name
        assert message in refused.value.words


# -- other load options ------------------------------------------------------------------------------------------------


ADAPTER_SETS = ({}, {"banana": 2.0, "green": 2.0}, {"green": 2.0})
PROMPTS = [*(lesson.beginning for lesson in LESSONS.values()), STORY, LETTER]


def distance(actual: Answer, expected: Answer) -> float:
    """Return the mean difference of log probabilities up to the first different token."""
    differences: list[float] = []
    for actual_token, expected_token in zip(actual.logprobs, expected.logprobs, strict=False):
        ours, theirs = logprobs_of(actual_token), logprobs_of(expected_token)
        differences += [abs(ours[text] - theirs[text]) for text in ours.keys() & theirs.keys()]
        if actual_token.chosen.text != expected_token.chosen.text:
            break
    return sum(differences) / len(differences)


@pytest.fixture(scope="module")
def single_answers(load_model: LoadModel, shallow_model: Path, shallow_trained: Path) -> list[list[Answer]]:
    """Return for every set of ADAPTER_SETS the answers to PROMPTS, which are sent one by one."""
    with load_model(shallow_model, shallow_trained, "llama.cpp", n_ctx=512) as lora_model:
        answers = []
        for weights in ADAPTER_SETS:
            lora_model.apply(weights)
            answers.append([lora_model.answer(prompt, max_new_tokens=4, top_logprobs=1000) for prompt in PROMPTS])
    return answers


@pytest.mark.parametrize(
    "options", [{"flash_attn": True}, {"flash_attn": False}, {"cache_8bit": True}, {"n_batch": 24}, {"no_mmap": True}]
)
def test_concurrent_answers_are_all_affected_by_the_adapters(
    load_model: LoadModel,
    shallow_model: Path,
    shallow_trained: Path,
    single_answers: list[list[Answer]],
    options: dict[str, object],
) -> None:
    """Measured, they are 4 to 30 times closer to single answers with these LoRAs than to those with another set."""
    with load_model(shallow_model, shallow_trained, "llama.cpp", n_ctx=512, parallel=4, **options) as lora_model:
        for number, weights in enumerate(ADAPTER_SETS[1:], 1):
            lora_model.apply(weights)
            answers = together(lora_model.model._worker, PROMPTS, max_new_tokens=4, top_logprobs=1000)
            for actual, *expected in zip(answers, *single_answers, strict=True):
                correct = distance(actual, expected.pop(number))
                assert all(3 * correct < distance(actual, other_set) for other_set in expected)
