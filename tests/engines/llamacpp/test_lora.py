"""LoRAs under llama.cpp, in both loaders that use it.

Compared with PEFT on a small model in full precision; on the demo model by the lessons they were trained on; on its
first layers by log probabilities; errors and memory on the tiny model. Everything goes through `LoraManager` and the
worker, as in the application.
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
from tests.support.lora_files import peft
from tests.support.memory_growth import ROUNDS, growth
from tests.support.shallow_gguf import shallow_gguf
from tests.support.tiny_loras import SETS, TOKENS
from tests.support.trained_loras import LESSONS
from tests.support.worker_pool import WorkerPool

Odds = dict[str, float]
THREADS = {"threads": 1, "threads_batch": 1}
BANANA, GREEN = LESSONS["banana"], LESSONS["green"]
STORY = "Once upon a time, in a small village by the sea, there lived a clockmaker who never slept. " * 4
LETTER = "Dear Sir, thank you very much for the long letter about the price of apples in the north. " * 4


class OneModel(ModelManager):
    """A ModelManager with a model that a worker of the pool has loaded."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self._current = model


@dataclass
class Stage:
    """A loaded model with its LoRAs."""

    model: LoadedModel
    control: LoraManager

    def apply(self, weights: Mapping[str, float]) -> list[float]:
        return [each.effect for each in self.control.apply(weights)]

    def answer(self, prompt: str, **params: Any) -> Answer:
        return answer(self.model._worker, prompt, **params)

    def says(self, prompt: str) -> str:
        return self.answer(prompt, max_new_tokens=6).text

    def odds(self, prompt: str, top: int) -> Odds:
        """Return the log probabilities of the `top` most likely next tokens."""
        (chances,) = self.answer(prompt, max_new_tokens=1, top_logprobs=top, ban_eos_token=True).logprobs
        return odds_of(chances)


def odds_of(chances: TokenLogprobs) -> Odds:
    return {each.text: each.logprob for each in chances.top}


def largest_difference(actual: Odds, expected: Odds) -> float:
    """Return the largest difference of a log probability, over the tokens in both, which must be most of them."""
    common = actual.keys() & expected.keys()
    assert len(common) > 0.8 * len(expected)
    return max(abs(actual[text] - expected[text]) for text in common)


StageOf = Callable[..., contextlib.AbstractContextManager[Stage]]


@pytest.fixture(scope="session")
def stage_of(workers: WorkerPool) -> StageOf:
    """Return a context manager that has a worker of the pool load a model, and removes the LoRAs at the end."""

    @contextlib.contextmanager
    def stage(path: Path, loras: Path, loader: str, **options: object) -> Iterator[Stage]:
        settings = resolve(LOADERS[loader], model={}, saved={}, flags={}, form=THREADS | options)
        with workers.lease(path, LOADERS[loader], **THREADS, **options) as pooled:
            record = Catalog(path.parent).find(path.name)
            model = LoadedModel(LoadPlan(record, LOADERS[loader], settings), pooled.worker, pooled.info)
            control = LoraManager(LoraCatalog(loras), OneModel(model))
            yield Stage(model, control)
            control.apply({})

    return stage


@pytest.fixture(scope="module", params=["llama.cpp", "llamacpp_HF"])
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# -- against PEFT ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_folder(backend: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small model with two LoRAs, and the logits of SETS: by llama.cpp in llama.npz, by PEFT in logits.npz."""
    top = tmp_path_factory.mktemp("small")
    forked(tiny_loras.write, top / "all", ["llama"])
    folder = top / "all" / "llama"
    model = folder / "model.gguf"
    adapters = {each.name: str(converted(each, read_header(model))) for each in LoraCatalog(folder / "loras").all()}
    job = {"model": str(model), "adapters": adapters, "sets": SETS, "tokens": TOKENS, "out": str(folder / "llama.npz")}
    script = [sys.executable, "-m", "tests.support.llama_lora_reference", str(put(top / "jobs.json", {"jobs": [job]}))]
    subprocess.run(script, cwd=ROOT, check=True, timeout=110)
    return folder


@pytest.fixture
def small(stage_of: StageOf, small_folder: Path, loader: str) -> Iterator[Stage]:
    options = {"n_ctx": 256, "logits_all": True}
    with stage_of(small_folder / "model.gguf", small_folder / "loras", loader, **options) as stage:
        yield stage


@pytest.fixture
def letters(small: Stage) -> list[str]:
    return [str(ask(small.model._worker, "decode", tokens=[token])) for token in range(128)]


def difference_from(actual: Odds, logits: NDArray[np.float32], letters: Sequence[str]) -> float:
    """Return the largest difference of a log probability from the last row of `logits`; most tokens must be there."""
    last = logits[-1].astype(float)
    expected = last - np.log(np.exp(last).sum())
    assert len(actual) > 120
    return max(abs(actual[text] - expected[letters.index(text)]) for text in actual)


def seen(small: Stage, letters: Sequence[str]) -> Odds:
    prompt = "".join(letters[token] for token in TOKENS)
    assert ask(small.model._worker, "encode", text=prompt) == TOKENS
    return small.odds(prompt, 127)


@pytest.mark.lora("one", "several", "weights")
@pytest.mark.parametrize("name", SETS)
def test_every_set_of_adapters_has_the_effect_it_has_under_peft(
    small: Stage, small_folder: Path, letters: list[str], name: str
) -> None:
    peft, llama = np.load(small_folder / "logits.npz"), np.load(small_folder / "llama.npz")
    effects = small.apply(SETS[name])
    actual = seen(small, letters)
    effect = float(np.abs(peft[name] - peft["none"]).mean())
    assert difference_from(actual, peft[name], letters) < effect / MIN_EFFECT
    assert difference_from(actual, llama[name], letters) < 1e-3
    assert [each > 0 for each in effects] == [weight > 0 for weight in SETS[name].values()]


@pytest.mark.lora("several", "hot")
def test_the_effect_of_a_set_does_not_depend_on_the_sets_before_it(
    small: Stage, small_folder: Path, letters: list[str]
) -> None:
    peft = np.load(small_folder / "logits.npz")
    small.apply({})
    bare = seen(small, letters)
    for before, after in itertools.permutations([*SETS, "none"], 2):
        small.apply(SETS.get(before, {}))
        small.apply(dict(reversed(SETS.get(after, {}).items())))
        actual = seen(small, letters)
        effect = float(np.abs(peft["cat"] - peft["none"]).mean())
        assert difference_from(actual, peft[after], letters) < effect / MIN_EFFECT, f"{after} after {before}"
        assert (actual == bare) is (after == "none")


def test_the_logits_of_every_position_are_those_under_peft(small: Stage, small_folder: Path, loader: str) -> None:
    if loader != "llamacpp_HF":
        pytest.skip("only this loader gives the logits of a text")
    peft = np.load(small_folder / "logits.npz")
    effect = np.abs(peft["cat"] - peft["none"]).mean()
    for name, weights in SETS.items():
        small.apply(weights)
        actual = np.array(ask(small.model._worker, "logits", tokens=TOKENS))
        assert np.abs(actual - peft[name]).max() < effect / MIN_EFFECT


# -- what they were taught to say --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(loras_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a writable copy: conversions are stored beside the adapters."""
    return Path(shutil.copytree(loras_folder, tmp_path_factory.mktemp("trained") / "loras"))


@pytest.fixture
def real(stage_of: StageOf, smollm2: Path, trained: Path, loader: str) -> Iterator[Stage]:
    with stage_of(smollm2, trained, loader, n_ctx=256) as stage:
        yield stage


@pytest.mark.lora("one", "several", "hot")
def test_a_trained_adapter_makes_the_model_say_its_lesson_only_while_applied(real: Stage) -> None:
    everything = [{}, {"banana": 1.0}, {"green": 1.0, "banana": 0.0}, {"banana": 1.0, "green": 1.0}, {}]
    for weights in everything:
        effects = real.apply(weights)
        assert [effect > 1 for effect in effects] == [weight > 0 for weight in weights.values()]
        for name, lesson in LESSONS.items():
            assert real.says(lesson.beginning).startswith(lesson.words) is bool(weights.get(name))


@pytest.mark.lora("weights")
def test_the_effect_grows_with_the_weight(real: Stage) -> None:
    effects = [real.apply({"banana": weight})[0] for weight in (2.0, 1.0, 0.1)]
    assert effects == sorted(set(effects), reverse=True)
    assert not real.says(BANANA.beginning).startswith(BANANA.words)


# -- the arithmetic of the first layers --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shallow_model(smollm2: Path) -> Path:
    return shallow_gguf(smollm2)


@pytest.fixture(scope="module")
def shallow_trained(shallow_loras: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a writable copy: conversions are stored beside the adapters."""
    return Path(shutil.copytree(shallow_loras, tmp_path_factory.mktemp("shallow") / "loras"))


@pytest.fixture
def shallow(stage_of: StageOf, shallow_model: Path, shallow_trained: Path, loader: str) -> Iterator[Stage]:
    with stage_of(shallow_model, shallow_trained, loader, n_ctx=256, logits_all=True) as stage:
        yield stage


def test_after_removing_all_adapters_the_logits_are_bitwise_those_of_before(shallow: Stage, loader: str) -> None:
    def everything() -> Any:
        forget(shallow.model._worker)
        if loader == "llamacpp_HF":
            tokens = ask(shallow.model._worker, "encode", text=BANANA.beginning)
            return ask(shallow.model._worker, "logits", tokens=tokens)
        return shallow.odds(BANANA.beginning, 4000)  # all come from the same 576 numbers

    shallow.apply({})
    bare = everything()
    for weights in ({"banana": 1.0}, {"banana": 0.3, "green": 2.0}):
        shallow.apply(weights)
        assert everything() != bare
        shallow.apply({})
        assert everything() == bare


def test_an_adapter_of_weight_zero_has_no_effect(shallow: Stage) -> None:
    shallow.apply({"green": 1.0})
    green = shallow.odds(BANANA.beginning, 1000)
    assert shallow.apply({"green": 1.0, "banana": 0.0})[1] == 0
    assert shallow.odds(BANANA.beginning, 1000) == green


def test_requests_during_a_change_wait_and_do_not_interrupt_the_probe(shallow: Stage, shallow_trained: Path) -> None:
    """Requests interrupt long steps of answers, but must not interrupt the probe."""

    def odds() -> list[Odds]:
        forget(shallow.model._worker)
        return [shallow.odds(lesson.beginning, 500) for lesson in LESSONS.values()]

    shallow.apply({"banana": 1.0})
    with_banana = odds()
    header = shallow.model.record.header
    assert header is not None
    request = [
        {"name": "green", "path": str(converted(LoraCatalog(shallow_trained).find("green"), header)), "weight": 1.0}
    ]
    heard: list[Event] = []
    crowd = Crowd(shallow.model._worker)
    shallow.model._worker.start("apply_loras", heard.append, adapters=request)
    calls = [
        crowd.ask(lesson.beginning, max_new_tokens=1, top_logprobs=500, ban_eos_token=True)
        for lesson in LESSONS.values()
    ]
    meanwhile = [odds_of(crowd.answer(call).logprobs[0]) for call in calls]
    assert isinstance(heard[-1], Result) and heard[-1].value[0] > 1
    with_green = odds()
    for actual, green, banana in zip(meanwhile, with_green, with_banana, strict=True):
        assert largest_difference(actual, green) < largest_difference(green, banana) / MIN_EFFECT


# -- mechanics ---------------------------------------------------------------------------------------------------------

CAT, DOG = "cat.gguf", "dog.gguf"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two LoRAs of random numbers for the tiny model, of 4 MiB each."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in (CAT, DOG):
        adapter(folder / name, 0.3, rank=1 << 15)
    return folder


@pytest.fixture
def mechanics(stage_of: StageOf, tiny: Path, adapters: Path, loader: str) -> Iterator[Stage]:
    with stage_of(tiny, adapters, loader, n_ctx=512) as stage:
        yield stage


def test_after_a_change_nothing_evaluated_before_is_reused(mechanics: Stage) -> None:
    """Neither the conversation in the KV cache, nor one saved in main memory."""
    talk = [text + BANANA.beginning for text in (STORY, LETTER)]
    all_texts = []

    def turns() -> list[Answer]:
        return [mechanics.answer(prompt, max_new_tokens=4) for prompt in talk]

    for weights in ({CAT: 1.0}, {CAT: 0.5}, {}):
        turns()
        assert min(reply.done.cached_tokens for reply in turns()) > 64
        mechanics.apply(weights)
        first = turns()
        assert [reply.done.cached_tokens for reply in first] == [0, 0]
        forget(mechanics.model._worker)
        assert [reply.text for reply in turns()] == [reply.text for reply in first]
        all_texts.append([reply.text for reply in first])
    for texts in zip(*all_texts, strict=True):
        assert len(set(texts)) == len(texts), "what was computed before would have led to another answer"


def test_applying_and_removing_adapters_leaks_no_memory(mechanics: Stage) -> None:
    sizes = []
    for _ in range(ROUNDS):
        mechanics.apply({CAT: 1.0, DOG: 0.5})
        mechanics.answer(BANANA.beginning, max_new_tokens=2)
        mechanics.apply({})
        sizes.append(mechanics.model.memory)
    assert growth(sizes) < ROUNDS // 2 * (1 << 20), "either of them, left behind each time, takes more"


# -- what cannot be applied --------------------------------------------------------------------------------------------

Q = "blk.0.attn_q.weight"


def adapter(
    path: Path, fill: float = 0.1, others: Sequence[str] = (), architecture: str = "llama", rank: int = 4
) -> Path:
    """Write a GGUF adapter for the tiny model: A is random, B is filled with `fill`."""
    facts = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": architecture}
    width = tiny_model.HIDDEN
    planned = [PlannedTensor(f"{Q}.lora_a", "F32", (width, rank)), PlannedTensor(f"{Q}.lora_b", "F32", (rank, width))]
    a = np.random.default_rng(1).standard_normal(width * rank, np.float32)
    data = [a.tobytes(), np.full(rank * width, fill, np.float32).tobytes()]
    for name in others:
        planned.append(PlannedTensor(name, "F32", (8,)))
        data.append(bytes(32))
    with path.open("wb") as file:
        write_gguf(file, {**facts, "adapter.lora.alpha": 2.0 * rank}, planned, data)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def broken(name: str, folder: Path) -> str:
    """Write a LoRA that is broken in the named way into the folder of the good ones, and return its name."""
    path = folder / f"{name}.gguf"
    made = {
        "rank": lambda: peft(folder / name, r=16),
        "cut": lambda: cut(adapter(path)),
        "architecture": lambda: adapter(path, architecture="qwen2"),
        "zeros": lambda: adapter(path, 0.0),
        "nan": lambda: adapter(path, float("nan")),
        "endless": lambda: adapter(path, 1e38),
        "strange": lambda: adapter(path, others=["blk.0.strange"]),
    }
    return made[name]().name


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("rank", ModelProblem, "the rank is 16 in adapter_config.json"),
        ("cut", ModelProblem, "the file is truncated"),
        ("architecture", LoraMismatch, "made for the architecture 'qwen2', but the model is 'llama'"),
        ("zeros", LoraWithoutEffect, "changes no logit"),
        ("nan", LoraRefused, "logits are no longer finite"),
        ("endless", LoraRefused, "logits are no longer finite"),
        ("strange", LoraRefused, "LoRA tensor 'blk.0.strange' has unexpected suffix"),
    ],
)
def test_a_broken_adapter_is_refused_with_the_cause_and_the_previous_set_stays(
    mechanics: Stage, adapters: Path, name: str, error: type[WebUIError], words: str
) -> None:
    def afresh() -> tuple[Odds, str]:
        forget(mechanics.model._worker)
        return mechanics.odds(BANANA.beginning, 1000), mechanics.says(BANANA.beginning)

    bare = afresh()
    mechanics.apply({CAT: 1.0})
    before = afresh()
    assert before[0] != bare[0]
    assert before[1] != bare[1]
    bad = broken(name, adapters)
    try:
        with pytest.raises(error) as refused:
            mechanics.apply({DOG: 1.0, bad: 1.0})
        assert words in refused.value.say("en")
        assert bad.partition(".")[0] in refused.value.say("en")
        assert [each.name for each in mechanics.model.loras] == [CAT]
        assert afresh() == before
    finally:
        shutil.rmtree(adapters / bad) if (adapters / bad).is_dir() else os.unlink(adapters / bad)


def test_a_refusal_by_llama_cpp_is_reported_in_its_own_words(mechanics: Stage, tmp_path: Path) -> None:
    """Such adapters pass our own checks: the file has changed since, or has a tensor that we do not know."""
    files = {
        "other.gguf": (adapter(tmp_path / "other.gguf", architecture="qwen2"), "model arch and LoRA arch mismatch"),
        "text.gguf": (put(tmp_path / "text.gguf", "no adapter"), "invalid magic characters: 'no a', expected 'GGUF'"),
        "gone.gguf": (tmp_path / "gone.gguf", "No such file"),
    }
    for name, (path, words) in files.items():
        with pytest.raises(LoraRefused) as refused:
            ask(mechanics.model._worker, "apply_loras", adapters=[{"name": name, "path": str(path), "weight": 1.0}])
        assert refused.value.lora == name
        assert words in refused.value.words


# -- with what else a model can be loaded with -------------------------------------------------------------------------


TOGETHER = ({}, {"banana": 2.0, "green": 2.0}, {"green": 2.0})
PROMPTS = [*(lesson.beginning for lesson in LESSONS.values()), STORY, LETTER]


def distance(actual: Answer, expected: Answer) -> float:
    """Return the mean difference of log probabilities, as long as the texts are the same."""
    differences: list[float] = []
    for mine, its in zip(actual.logprobs, expected.logprobs, strict=False):
        ours, theirs = odds_of(mine), odds_of(its)
        differences += [abs(ours[text] - theirs[text]) for text in ours.keys() & theirs.keys()]
        if mine.chosen.text != its.chosen.text:
            break
    return sum(differences) / len(differences)


@pytest.fixture(scope="module")
def alone(stage_of: StageOf, shallow_model: Path, shallow_trained: Path) -> list[list[Answer]]:
    """Return for every set of TOGETHER the answers to PROMPTS, given one by one."""
    with stage_of(shallow_model, shallow_trained, "llama.cpp", n_ctx=512) as stage:
        answers = []
        for weights in TOGETHER:
            stage.apply(weights)
            answers.append([stage.answer(prompt, max_new_tokens=4, top_logprobs=1000) for prompt in PROMPTS])
    return answers


@pytest.mark.parametrize(
    "options", [{"flash_attn": True}, {"flash_attn": False}, {"cache_8bit": True}, {"n_batch": 24}, {"no_mmap": True}]
)
def test_concurrent_answers_are_all_affected_by_the_adapters(
    stage_of: StageOf,
    shallow_model: Path,
    shallow_trained: Path,
    alone: list[list[Answer]],
    options: dict[str, object],
) -> None:
    """They are 4 to 30 times closer to the single answers with these LoRAs than to those without one of them."""
    with stage_of(shallow_model, shallow_trained, "llama.cpp", n_ctx=512, parallel=4, **options) as stage:
        for number, weights in enumerate(TOGETHER[1:], 1):
            stage.apply(weights)
            answers = together(stage.model._worker, PROMPTS, max_new_tokens=4, top_logprobs=1000)
            for actual, *expected in zip(answers, *alone, strict=True):
                right = distance(actual, expected.pop(number))
                assert all(3 * right < distance(actual, wrong) for wrong in expected)
