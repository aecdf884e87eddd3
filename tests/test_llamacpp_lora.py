"""LoRAs under llama.cpp, through both loaders that use it: against PEFT on a tiny model in full precision, and, on the
real one, by what they were taught to say. All goes the way of a user's wish, through `LoraControl` and the worker."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.catalog import Catalog
from modules.errors import ModelProblem, WebUIError
from modules.events import Event, Result
from modules.gguf import read_header
from modules.gguf_writer import Planned, write
from modules.loaders import LOADERS, settle
from modules.lora_control import LoraControl
from modules.lora_errors import LoraMismatch, LoraRefused, LoraWithoutEffect
from modules.lora_gguf import converted
from modules.loras import Loras
from modules.models import LoadedModel, Models
from modules.process import ROOT
from tests.answers import Answer, Crowd, answer, ask, forget, together
from tests.checkpoint_files import put
from tests.memory_growth import ROUNDS, growth
from tests.test_lora_names import PRECISE
from tests.tiny_loras import SETS, TOKENS
from tests.trained_loras import LESSONS

Odds = dict[str, float]
THREADS = {"threads": 1, "threads_batch": 1}
BANANA, GREEN = LESSONS["banana"], LESSONS["green"]
STORY = "Once upon a time, in a small village by the sea, there lived a clockmaker who never slept. " * 4
LETTER = "Dear Sir, thank you very much for the long letter about the price of apples in the north. " * 4


@dataclass
class Stage:
    """A model that is loaded, with the LoRAs for it."""

    model: LoadedModel
    control: LoraControl

    def apply(self, weights: Mapping[str, float]) -> list[float]:
        return [each.effect for each in self.control.apply(weights)]

    def answer(self, prompt: str, **wishes: Any) -> Answer:
        return answer(self.model._worker, prompt, **wishes)

    def says(self, prompt: str) -> str:
        return self.answer(prompt, max_new_tokens=6).text

    def odds(self, prompt: str, top: int) -> Odds:
        """The log-probabilities of the `top` likeliest tokens to come next."""
        (chances,) = self.answer(prompt, max_new_tokens=1, top_logprobs=top, ban_eos_token=True).chances
        return {each.text: each.logprob for each in chances.top}


@pytest.fixture(scope="module", params=["llama.cpp", "llamacpp_HF"])
def loader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def staged(path: Path, loras: Path, loader: str, **options: object) -> Iterator[Stage]:
    models = Models()
    settings = settle(LOADERS[loader], model={}, saved={}, flags={}, form=THREADS | options)
    try:
        model = models.begin(Catalog(path.parent).find(path.name), LOADERS[loader], settings).result(60)
        yield Stage(model, LoraControl(Loras(loras), models))
    finally:
        models.unload()


# -- against PEFT ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_folder(backend: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with two LoRAs; llama.npz has what llama.cpp makes of SETS by itself, logits.npz what PEFT does."""
    top = tmp_path_factory.mktemp("tiny")
    command = [sys.executable, "-m", "tests.tiny_loras", str(top / "all"), "llama"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=110)
    folder = top / "all" / "llama"
    model = folder / "model.gguf"
    adapters = {each.name: str(converted(each, read_header(model))) for each in Loras(folder / "loras").all()}
    job = {"model": str(model), "adapters": adapters, "sets": SETS, "tokens": TOKENS, "out": str(folder / "llama.npz")}
    script = [sys.executable, "-m", "tests.llama_lora_reference", str(put(top / "jobs.json", {"jobs": [job]}))]
    subprocess.run(script, cwd=ROOT, check=True, timeout=110)
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path, loader: str) -> Iterator[Stage]:
    options = {"n_ctx": 256, "logits_all": True}
    yield from staged(tiny_folder / "model.gguf", tiny_folder / "loras", loader, **options)


@pytest.fixture(scope="module")
def letters(tiny: Stage) -> list[str]:
    return [str(ask(tiny.model._worker, "decode", tokens=[token])) for token in range(128)]


def away(found: Odds, logits: NDArray[np.float32], letters: Sequence[str]) -> float:
    """The largest difference of a log-probability from what the last row of `logits` says; most words must be there."""
    last = logits[-1].astype(float)
    expected = last - np.log(np.exp(last).sum())
    assert len(found) > 120
    return max(abs(found[text] - expected[letters.index(text)]) for text in found)


def seen(tiny: Stage, letters: Sequence[str]) -> Odds:
    prompt = "".join(letters[token] for token in TOKENS)
    assert ask(tiny.model._worker, "encode", text=prompt) == TOKENS
    return tiny.odds(prompt, 127)


@pytest.mark.lora("one", "several", "weights")
@pytest.mark.parametrize("name", SETS)
def test_with_each_set_of_them_the_model_answers_as_with_peft(
    tiny: Stage, tiny_folder: Path, letters: list[str], name: str
) -> None:
    peft, llama = np.load(tiny_folder / "logits.npz"), np.load(tiny_folder / "llama.npz")
    effects = tiny.apply(SETS[name])
    found = seen(tiny, letters)
    effect = float(np.abs(peft[name] - peft["none"]).mean())
    assert away(found, peft[name], letters) < effect / PRECISE
    assert away(found, llama[name], letters) < 1e-3
    assert [each > 0 for each in effects] == [weight > 0 for weight in SETS[name].values()]


@pytest.mark.lora("several", "hot")
def test_in_whatever_order_they_come_and_go_each_set_is_the_same(
    tiny: Stage, tiny_folder: Path, letters: list[str]
) -> None:
    peft = np.load(tiny_folder / "logits.npz")
    tiny.apply({})
    bare = seen(tiny, letters)
    for before, after in itertools.permutations([*SETS, "none"], 2):
        tiny.apply(SETS.get(before, {}))
        tiny.apply(dict(reversed(SETS.get(after, {}).items())))
        found = seen(tiny, letters)
        effect = float(np.abs(peft["cat"] - peft["none"]).mean())
        assert away(found, peft[after], letters) < effect / PRECISE, f"{after} after {before}"
        assert (found == bare) is (after == "none")


def test_every_position_has_the_logits_that_it_has_with_peft(tiny: Stage, tiny_folder: Path, loader: str) -> None:
    if loader != "llamacpp_HF":
        pytest.skip("only this loader gives the logits of a text")
    peft = np.load(tiny_folder / "logits.npz")
    effect = np.abs(peft["cat"] - peft["none"]).mean()
    for name, weights in SETS.items():
        tiny.apply(weights)
        found = np.array(ask(tiny.model._worker, "logits", tokens=TOKENS))
        assert np.abs(found - peft[name]).max() < effect / PRECISE


# -- what they were taught to say --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(loras_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be written to, for they are converted in their place."""
    return Path(shutil.copytree(loras_folder, tmp_path_factory.mktemp("trained") / "loras"))


@pytest.fixture(scope="module")
def real(smollm2: Path, trained: Path, loader: str) -> Iterator[Stage]:
    yield from staged(smollm2, trained, loader, n_ctx=1024, logits_all=True)


@pytest.mark.lora("one", "several", "hot")
def test_each_says_what_it_was_taught_and_nothing_of_it_without_it(real: Stage) -> None:
    everything = [{}, {"banana": 1.0}, {"green": 1.0}, {"banana": 1.0, "green": 1.0}, {"green": 1.0, "banana": 0.0}, {}]
    for weights in everything:
        effects = real.apply(weights)
        assert [effect > 1 for effect in effects] == [weight > 0 for weight in weights.values()]
        for name, lesson in LESSONS.items():
            assert real.says(lesson.beginning).startswith(lesson.words) is bool(weights.get(name))


def test_without_any_the_model_is_what_it_was_to_the_last_bit(real: Stage, loader: str) -> None:
    def everything() -> Any:
        forget(real.model._worker)
        if loader == "llamacpp_HF":
            return ask(real.model._worker, "logits", tokens=ask(real.model._worker, "encode", text=BANANA.beginning))
        return real.odds(BANANA.beginning, 40000)

    real.apply({})
    bare = everything()
    for weights in ({"banana": 1.0}, {"banana": 0.3, "green": 2.0}):
        real.apply(weights)
        assert everything() != bare
        real.apply({})
        assert everything() == bare


@pytest.mark.lora("weights")
def test_a_weight_says_how_strongly_it_acts(real: Stage) -> None:
    effects = [real.apply({"banana": weight})[0] for weight in (0.25, 1.0, 2.0)]
    assert effects == sorted(set(effects))
    real.apply({"banana": 0.1})
    assert not real.says(BANANA.beginning).startswith(BANANA.words)


def test_after_a_change_nothing_computed_before_is_used(real: Stage) -> None:
    """Neither of the conversation in the cache, nor of one that was put aside."""
    talk = [text + BANANA.beginning for text in (STORY, LETTER)]

    def turns() -> list[Answer]:
        return [real.answer(prompt, max_new_tokens=4) for prompt in talk]

    for weights in ({"banana": 1.0}, {"banana": 0.5}, {}):
        turns()
        assert min(each.done.cached_tokens for each in turns()) > 64
        real.apply(weights)
        first = turns()
        assert [each.done.cached_tokens for each in first] == [0, 0]
        forget(real.model._worker)
        assert [each.text for each in turns()] == [each.text for each in first]


def test_who_asks_meanwhile_waits_and_does_not_break_off_the_reading_of_the_probe(real: Stage, trained: Path) -> None:
    """A request interrupts a long step of an answer."""
    real.apply({"banana": 1.0})
    header = real.model.record.header
    assert header is not None
    told = [{"name": "green", "path": str(converted(Loras(trained).find("green"), header)), "weight": 1.0}]
    heard: list[Event] = []
    crowd = Crowd(real.model._worker)
    real.model._worker.start("apply_loras", heard.append, adapters=told)
    calls = [crowd.ask(lesson.beginning, max_new_tokens=6) for lesson in LESSONS.values()]
    banana, green = (crowd.answer(call).text for call in calls)
    assert isinstance(heard[-1], Result) and heard[-1].value[0] > 1
    assert not banana.startswith(BANANA.words)
    assert green.startswith(GREEN.words)
    real.apply({})


def test_they_come_and_go_without_taking_more_memory(real: Stage) -> None:
    sizes = []
    for _ in range(ROUNDS):
        real.apply({"banana": 1.0, "green": 0.5})
        real.answer(BANANA.beginning, max_new_tokens=2)
        real.apply({})
        sizes.append(real.model.memory)
    assert growth(sizes) < ROUNDS // 2 * (1 << 20), "even the smaller one, left behind each time, takes more"


# -- what cannot be applied --------------------------------------------------------------------------------------------

Q = "blk.0.attn_q.weight"


def adapter(path: Path, fill: float = 0.1, others: Sequence[str] = (), architecture: str = "llama") -> Path:
    """A GGUF adapter for the real model: A random, and B all `fill`."""
    facts = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": architecture}
    planned = [Planned(f"{Q}.lora_a", "F32", (576, 4)), Planned(f"{Q}.lora_b", "F32", (4, 576))]
    a = np.random.default_rng(1).standard_normal(576 * 4, np.float32)
    data = [a.tobytes(), np.full(4 * 576, fill, np.float32).tobytes()]
    for name in others:
        planned.append(Planned(name, "F32", (8,)))
        data.append(bytes(32))
    with path.open("wb") as file:
        write(file, {**facts, "adapter.lora.alpha": 8.0}, planned, data)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def another_rank(trained: Path, path: Path) -> Path:
    shutil.copytree(trained / "banana", path, ignore=shutil.ignore_patterns(".*"))
    config = (path / "adapter_config.json").read_text()
    (path / "adapter_config.json").write_text(config.replace('"r": 8', '"r": 16'))
    return path


def broken(name: str, trained: Path) -> str:
    """The name of a LoRA that is broken so; it lies among the good ones."""
    path = trained / f"{name}.gguf"
    if name == "rank":
        return another_rank(trained, trained / name).name
    made = {
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
        ("rank", ModelProblem, "says rank 16, but the tensor"),
        ("cut", ModelProblem, "the file is truncated"),
        ("architecture", LoraMismatch, "made for the architecture 'qwen2', and the model is 'llama'"),
        ("zeros", LoraWithoutEffect, "changes no logit"),
        ("nan", LoraRefused, "logits are no longer finite"),
        ("endless", LoraRefused, "logits are no longer finite"),
        ("strange", LoraRefused, "LoRA tensor 'blk.0.strange' has unexpected suffix"),
    ],
)
def test_of_a_broken_one_the_cause_is_named_and_the_former_ones_stay(
    real: Stage, trained: Path, name: str, error: type[WebUIError], words: str
) -> None:
    real.apply({"banana": 1.0})
    before = real.odds(BANANA.beginning, 1000)
    bad = broken(name, trained)
    try:
        with pytest.raises(error) as refused:
            real.apply({"green": 1.0, bad: 1.0})
        assert words in refused.value.say("en")
        assert bad.partition(".")[0] in refused.value.say("en")
        assert [each.name for each in real.model.loras] == ["banana"]
        assert real.odds(BANANA.beginning, 1000) == before
        assert real.says(BANANA.beginning).startswith(BANANA.words)
    finally:
        shutil.rmtree(trained / bad) if (trained / bad).is_dir() else os.unlink(trained / bad)


def test_what_llama_cpp_has_against_one_is_said_in_its_words(real: Stage, tmp_path: Path) -> None:
    """Such as come past the checks before: the file has changed, or what lies there is nothing that we know."""
    files = {
        "other.gguf": (adapter(tmp_path / "other.gguf", architecture="qwen2"), "model arch and LoRA arch mismatch"),
        "text.gguf": (put(tmp_path / "text.gguf", "no adapter"), "invalid magic characters: 'no a', expected 'GGUF'"),
        "gone.gguf": (tmp_path / "gone.gguf", "No such file"),
    }
    for name, (path, words) in files.items():
        with pytest.raises(LoraRefused) as refused:
            ask(real.model._worker, "apply_loras", adapters=[{"name": name, "path": str(path), "weight": 1.0}])
        assert refused.value.lora == name
        assert words in refused.value.words


# -- with what else a model can be loaded with -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"flash_attn": True}, {"flash_attn": False}, {"cache_8bit": True}, {"n_batch": 24}, {"no_mmap": True}]
)
def test_several_answers_at_once_all_have_them(smollm2: Path, trained: Path, options: dict[str, object]) -> None:
    for stage in staged(smollm2, trained, "llama.cpp", n_ctx=1024, parallel=4, **options):
        prompts = [lesson.beginning for lesson in LESSONS.values()] + [STORY, LETTER]
        for weights in ({"banana": 1.0, "green": 1.0}, {"green": 1.0}):
            stage.apply(weights)
            banana, green, *_ = together(stage.model._worker, prompts, max_new_tokens=6)
            assert banana.text.startswith(BANANA.words) is ("banana" in weights)
            assert green.text.startswith(GREEN.words)
