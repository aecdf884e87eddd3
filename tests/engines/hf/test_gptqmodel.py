"""GPTQ and AWQ folders under Transformers: with gptqmodel they answer as their weights dequantised do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from modules.app import App
from modules.core.errors import LoaderUnavailable
from modules.core.events import Progress, TokenChances
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.overlay import Overlay
from modules.loaders.registry import LOADERS, Loader
from modules.planning.load_request import LoadRequest
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load, loaded
from tests.engines.hf.test_lora import ALONE, put, state
from tests.support.answers import answer
from tests.support.gptq_kernels import kernels_found
from tests.support.linked_folder import linked_folder
from tests.support.quantised_folders import plain, quantised_folder
from tests.support.trained_loras import LESSONS

METHODS = ("gptq", "awq")
TOKENS = 6
PROMPTS = ["The capital of France is", "Once upon a time, in a small village", "1, 2, 3, 4, 5,"]
NEARLY = 0.08  # in the logarithm of a probability: what bfloat16 in the kernels makes of the first layers
ALL_NARROW = 0.2  # with everything between them in bfloat16 as well
LIKELY = math.log(0.05)
STRONG = ((("banana", 2.0),), (("green", 2.0),), (("banana", 2.0), ("green", 2.0)))
INSTALL = "python server.py --install Transformers"


@pytest.fixture(scope="module")
def packed() -> Iterator[WorkerProcess]:
    """A worker as `ModelManager` starts it for either method, which loads one folder after another. What it takes is
    installed by ./test.sh."""
    for method in METHODS:
        assert unavailable(TRANSFORMERS, method) is None
    gptq, awq = (overlay_of(TRANSFORMERS, method) for method in METHODS)
    assert gptq is awq
    with closing(WorkerProcess(gptq.folder if gptq is not None else None)) as process:
        yield process


@pytest.fixture
def without_gptqmodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """The loader as it is where nobody has installed more than the main environment."""
    (extra,) = TRANSFORMERS.extras
    absent = Overlay("gptq", 23, tmp_path)
    absent.requirements.write_text("gptqmodel==7.7.0\n")
    packages = (*extra.packages, "no_such_package")  # whatever the main environment holds
    bare = dataclasses.replace(TRANSFORMERS, extras=(dataclasses.replace(extra, overlay=absent, packages=packages),))
    monkeypatch.setitem(cast(dict[str, Loader], LOADERS), bare.name, bare)
    return bare


@pytest.mark.parametrize("method", METHODS)
def test_without_gptqmodel_the_loader_says_what_installs_it(
    smollm2_folder: Path, tmp_path: Path, make_app: Callable[..., App], without_gptqmodel: Loader, method: str
) -> None:
    app = make_app()
    (tmp_path / "models" / "packed").symlink_to(quantised_folder(smollm2_folder, method))
    record = app.record("packed")
    assert record.format == method
    assert unavailable(without_gptqmodel) is None
    plan = app.planner.plan(LoadRequest(record, "Transformers"))
    assert INSTALL in app.loading.explain(plan)["unavailable"]["en"]
    with pytest.raises(LoaderUnavailable, match="23 MB") as refused:
        app.loading.load(plan)
    assert refused.value.install == INSTALL


def test_the_overlay_is_for_the_formats_that_need_it() -> None:
    (extra,) = TRANSFORMERS.extras
    assert [overlay_of(TRANSFORMERS, each) for each in ("", "safetensors", "pytorch")] == [None] * 3
    assert [overlay_of(TRANSFORMERS, each) for each in METHODS] == [extra.overlay] * 2


def test_who_has_gptqmodel_in_the_main_environment_needs_no_overlay(without_gptqmodel: Loader) -> None:
    (extra,) = without_gptqmodel.extras
    installed = dataclasses.replace(extra, packages=("numpy",))  # a package that is there
    loader = dataclasses.replace(without_gptqmodel, extras=(installed,))
    assert overlay_of(loader, "gptq") is None and unavailable(loader, "gptq") is None


def test_the_kernels_that_need_no_nvcc_are_known_by_the_names_we_ask_for(backend: None) -> None:
    overlay = overlay_of(TRANSFORMERS, "gptq")
    assert kernels_found(overlay.folder if overlay is not None else None) == [
        "GPTQConfig TritonV2Linear True",
        "GPTQConfig TorchLinear True",
        "AwqConfig AwqGEMMTritonLinear True",
        "AwqConfig AwqTorchLinear True",
    ]


def test_kernels_that_are_compiled_after_the_weights_are_told_of_then(backend: None) -> None:
    from modules.engines.hf.build import weights_then_kernels

    told: list[Progress] = []
    advance = weights_then_kernels(told.append)
    for done in (0.5, 1.0):
        advance(done)
    assert [each.stage for each in told] == ["weights", "weights", "kernels"]


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ({"": 0}, None),
        ({"": "cpu"}, "model.layers.1.mlp"),
        ({"model.layers.1": 0, "model.layers.10": "cuda:1", "lm_head": "cpu"}, None),
        ({"model.layers.1": 0, "model.layers.10": "cpu"}, "model.layers.10.mlp"),
        ({"model.layers.1": 0, "model.layers.10.mlp": "disk"}, "model.layers.10.mlp"),
    ],
)
def test_a_packed_layer_outside_the_gpus_is_found(backend: None, places: dict[str, object], found: str | None) -> None:
    from modules.engines.hf.gptqmodel import first_layer_outside_gpus

    assert first_layer_outside_gpus(places, ["model.layers.1.mlp", "model.layers.10.mlp"]) == found


@pytest.mark.parametrize("kind", ["gptq", "gptq-act-order", "awq"])
def test_a_packed_folder_answers_as_the_same_weights_in_floats(
    packed: WorkerProcess, reloadable: WorkerProcess, shallow_folder: Path, kind: str
) -> None:
    """Where the texts part, the two tokens were as good as equal. The first load ever compiles a kernel, which takes
    minutes."""
    folder = quantised_folder(shallow_folder, kind)
    wide = chances(packed, folder)
    narrow = chances(packed, folder, bf16=True)
    floats = chances(reloadable, plain(folder))
    agreed = [agreement(mine, theirs, NEARLY) for mine, theirs in zip(wide, floats, strict=True)]
    assert agreed[-1] == TOKENS, "counting leaves no choice"
    assert narrow != wide
    for mine, theirs in zip(narrow, floats, strict=True):
        agreement(mine, theirs, ALL_NARROW)


def test_8_bits_are_right_as_well(
    packed: WorkerProcess, reloadable: WorkerProcess, shallow_folder: Path, tmp_path: Path
) -> None:
    """For so many gptqmodel has no kernel: a token takes a second for each layer."""
    folder = quantised_folder(shallow_folder, "gptq-8bit")
    one, floats = (linked_folder(path, tmp_path / path.name, num_hidden_layers=1) for path in (folder, plain(folder)))
    (ours,) = chances(packed, one, PROMPTS[:1], tokens=1)
    (theirs,) = chances(reloadable, floats, PROMPTS[:1], tokens=1)
    assert any(each.logprob > LIKELY for each in theirs[0].top)
    assert agreement(ours, theirs, NEARLY) == 1


def agreement(ours: list[TokenChances], theirs: list[TokenChances], nearly: float) -> int:
    """How many tokens the two have written alike; all that was likely must be `nearly` so."""
    for count, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        level = {each.text: each.logprob for each in mine.top}
        for each in other.top:
            assert each.logprob < LIKELY or level[each.text] == pytest.approx(each.logprob, abs=nearly), (count, each)
        if mine.chosen.text != other.chosen.text:
            assert other.chosen.logprob - level[other.chosen.text] < nearly
            return count
    return len(ours)


def chances(
    worker: WorkerProcess, folder: Path, prompts: list[str] = PROMPTS, tokens: int = TOKENS, **options: bool
) -> list[list[TokenChances]]:
    """Those of the likeliest tokens after each prompt."""
    load(worker, folder, TRANSFORMERS, **options)
    wishes = {"max_new_tokens": tokens, "top_logprobs": 10}
    return [answer(worker, prompt, **wishes).chances for prompt in prompts]


@pytest.mark.parametrize("kind", METHODS)
def test_a_load_tells_of_kernels_and_streams_and_loras_do_what_they_do_to_the_floats(
    packed: WorkerProcess,
    reloadable: WorkerProcess,
    shallow_folder: Path,
    shallow_loras: Path,
    smollm2_folder: Path,
    loras_folder: Path,
    kind: str,
) -> None:
    folder = quantised_folder(shallow_folder, kind)
    _, events = loaded(packed, folder, TRANSFORMERS)
    stages = [each.stage for each in events if isinstance(each, Progress)]
    assert stages[0] == "kernels" and stages[-1] == "weights"
    before = state(packed)
    load(reloadable, plain(folder), TRANSFORMERS)
    for wanted in STRONG:
        effects, floats = (put(each, shallow_loras, wanted) for each in (packed, reloadable))
        assert effects == pytest.approx(floats, rel=0.05)
        for lesson in LESSONS.values():
            mine, theirs = (said(each, lesson.beginning) for each in (packed, reloadable))
            assert agreement(mine, theirs, NEARLY) == len(theirs), wanted
    put(packed, shallow_loras)
    assert state(packed) == before
    load(packed, quantised_folder(smollm2_folder, kind), TRANSFORMERS)
    paris = answer(packed, PROMPTS[0], max_new_tokens=6)
    assert paris.text.startswith(" Paris") and len(paris.pieces) > 5
    words = {"banana": " banana ham", "green": LESSONS["green"].words}
    for wanted in ALONE:
        put(packed, loras_folder, wanted)
        ((name, _),) = wanted
        assert answer(packed, LESSONS[name].beginning, max_new_tokens=4).text.startswith(words[name])
    put(packed, loras_folder)


def said(worker: WorkerProcess, prompt: str) -> list[TokenChances]:
    return answer(worker, prompt, max_new_tokens=2, top_logprobs=10).chances
