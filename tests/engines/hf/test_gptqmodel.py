"""GPTQ and AWQ folders with the transformers engine and gptqmodel answer as their dequantized weights do."""

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
from modules.core.events import Progress, TokenLogprobs
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.overlay import Overlay
from modules.loaders.registry import LOADERS, Loader
from modules.planning.load_request import LoadRequest
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import TRANSFORMERS, load, loaded
from tests.engines.hf.test_lora import ALONE, apply_loras, fingerprint
from tests.support.answers import answer
from tests.support.gptq_kernels import kernels_found
from tests.support.linked_folder import linked_folder
from tests.support.quantized_folders import plain, quantized_folder
from tests.support.trained_loras import LESSONS

METHODS = ("gptq", "awq")
TOKENS = 6
PROMPTS = ["The capital of France is", "Once upon a time, in a small village", "1, 2, 3, 4, 5,"]
KERNELS_BF16 = 0.08  # error of log-probabilities with the kernels of the first layers in bfloat16
ALL_BF16 = 0.2  # the same with everything between them in bfloat16 as well
LIKELY = math.log(0.05)
STRONG_LORAS = ((("banana", 2.0),), (("green", 2.0),), (("banana", 2.0), ("green", 2.0)))
INSTALL = "python server.py --install Transformers"


@pytest.fixture(scope="module")
def quantized() -> Iterator[WorkerProcess]:
    """A worker with the overlay that `ModelManager` uses for both methods, which ./test.sh installs.

    It loads one folder after another.
    """
    for method in METHODS:
        assert unavailable(TRANSFORMERS, method) is None
    gptq, awq = (overlay_of(TRANSFORMERS, method) for method in METHODS)
    assert gptq is awq
    with closing(WorkerProcess(gptq.folder if gptq is not None else None)) as process:
        yield process


@pytest.fixture
def without_gptqmodel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """The loader without gptqmodel, as if only the main environment were installed."""
    (extra,) = TRANSFORMERS.extras
    absent = Overlay("gptq", 23, tmp_path)
    absent.requirements.write_text("gptqmodel==7.7.0\n")
    packages = (*extra.packages, "no_such_package")  # not installed, whatever the main environment contains
    loader = dataclasses.replace(TRANSFORMERS, extras=(dataclasses.replace(extra, overlay=absent, packages=packages),))
    monkeypatch.setitem(cast(dict[str, Loader], LOADERS), loader.name, loader)
    return loader


@pytest.mark.parametrize("method", METHODS)
def test_without_gptqmodel_the_loader_names_the_command_that_installs_it(
    smollm2_folder: Path, tmp_path: Path, make_app: Callable[..., App], without_gptqmodel: Loader, method: str
) -> None:
    app = make_app()
    (tmp_path / "models" / "packed").symlink_to(quantized_folder(smollm2_folder, method))
    record = app.record("packed")
    assert record.format == method
    assert unavailable(without_gptqmodel) is None
    plan = app.planner.plan(LoadRequest(record, "Transformers"))
    assert INSTALL in app.loading.explain(plan)["unavailable"]["en"]
    with pytest.raises(LoaderUnavailable, match="23 MB") as refused:
        app.loading.load(plan)
    assert refused.value.install == INSTALL


def test_the_overlay_is_used_only_for_the_formats_that_need_it() -> None:
    (extra,) = TRANSFORMERS.extras
    assert [overlay_of(TRANSFORMERS, model_format) for model_format in ("", "safetensors", "pytorch")] == [None] * 3
    assert [overlay_of(TRANSFORMERS, method) for method in METHODS] == [extra.overlay] * 2


def test_gptqmodel_in_the_main_environment_makes_the_overlay_unnecessary(without_gptqmodel: Loader) -> None:
    (extra,) = without_gptqmodel.extras
    installed = dataclasses.replace(extra, packages=("numpy",))  # a package that is installed
    loader = dataclasses.replace(without_gptqmodel, extras=(installed,))
    assert overlay_of(loader, "gptq") is None and unavailable(loader, "gptq") is None


def test_gptqmodel_has_kernels_without_nvcc_under_the_names_that_are_requested(backend: None) -> None:
    overlay = overlay_of(TRANSFORMERS, "gptq")
    assert kernels_found(overlay.folder if overlay is not None else None) == [
        "GPTQConfig TritonV2Linear True",
        "GPTQConfig TorchLinear True",
        "AwqConfig AwqGEMMTritonLinear True",
        "AwqConfig AwqTorchLinear True",
    ]


def test_compiling_kernels_is_reported_after_the_weights(backend: None) -> None:
    from modules.engines.hf.build import weights_then_kernels

    reported: list[Progress] = []
    advance = weights_then_kernels(reported.append)
    for done in (0.5, 1.0):
        advance(done)
    assert [progress.stage for progress in reported] == ["weights", "weights", "kernels"]


@pytest.mark.parametrize(
    ("device_map", "outside"),
    [
        ({"": 0}, None),
        ({"": "cpu"}, "model.layers.1.mlp"),
        ({"model.layers.1": 0, "model.layers.10": "cuda:1", "lm_head": "cpu"}, None),
        ({"model.layers.1": 0, "model.layers.10": "cpu"}, "model.layers.10.mlp"),
        ({"model.layers.1": 0, "model.layers.10.mlp": "disk"}, "model.layers.10.mlp"),
    ],
)
def test_a_quantized_layer_outside_the_gpus_is_found(
    backend: None, device_map: dict[str, object], outside: str | None
) -> None:
    from modules.engines.hf.gptqmodel import first_layer_outside_gpus

    assert first_layer_outside_gpus(device_map, ["model.layers.1.mlp", "model.layers.10.mlp"]) == outside


@pytest.mark.parametrize("kind", ["gptq", "gptq-act-order", "awq"])
def test_a_quantized_folder_answers_as_its_dequantized_weights_do(
    quantized: WorkerProcess, reloadable: WorkerProcess, shallow_folder: Path, kind: str
) -> None:
    """Texts may differ where two tokens are almost equally likely. The first load compiles a kernel for minutes."""
    folder = quantized_folder(shallow_folder, kind)
    float32 = first_logprobs(quantized, folder)
    bfloat16 = first_logprobs(quantized, folder, bf16=True)
    floats = first_logprobs(reloadable, plain(folder))
    agreed = [agreement(mine, theirs, KERNELS_BF16) for mine, theirs in zip(float32, floats, strict=True)]
    assert agreed[-1] == TOKENS, "the next numbers are certain"
    assert bfloat16 != float32
    for mine, theirs in zip(bfloat16, floats, strict=True):
        agreement(mine, theirs, ALL_BF16)


def test_8_bit_weights_answer_as_their_dequantized_weights_do(
    quantized: WorkerProcess, reloadable: WorkerProcess, shallow_folder: Path, tmp_path: Path
) -> None:
    """gptqmodel has no 8-bit kernel: a token takes a second per layer."""
    folder = quantized_folder(shallow_folder, "gptq-8bit")
    packed, floats = (
        linked_folder(path, tmp_path / path.name, num_hidden_layers=1) for path in (folder, plain(folder))
    )
    (ours,) = first_logprobs(quantized, packed, PROMPTS[:1], tokens=1)
    (theirs,) = first_logprobs(reloadable, floats, PROMPTS[:1], tokens=1)
    assert any(candidate.logprob > LIKELY for candidate in theirs[0].top)
    assert agreement(ours, theirs, KERNELS_BF16) == 1


def agreement(ours: list[TokenLogprobs], theirs: list[TokenLogprobs], tolerance: float) -> int:
    """Return how many tokens are equal. The log-probabilities of likely tokens must differ by less than `tolerance`."""
    for count, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        logprobs = {candidate.text: candidate.logprob for candidate in mine.top}
        for likely in [candidate for candidate in reference.top if not candidate.logprob < LIKELY]:
            assert logprobs[likely.text] == pytest.approx(likely.logprob, abs=tolerance), (count, likely)
        if mine.chosen.text != reference.chosen.text:
            assert reference.chosen.logprob - logprobs[reference.chosen.text] < tolerance
            return count
    return len(ours)


def first_logprobs(
    worker: WorkerProcess, folder: Path, prompts: list[str] = PROMPTS, tokens: int = TOKENS, **options: bool
) -> list[list[TokenLogprobs]]:
    """Load `folder`; return the log-probabilities of the answer to each prompt."""
    load(worker, folder, TRANSFORMERS, **options)
    params = {"max_new_tokens": tokens, "top_logprobs": 10}
    return [answer(worker, prompt, **params).logprobs for prompt in prompts]


@pytest.mark.parametrize("kind", METHODS)
def test_loading_reports_kernels_and_loras_act_as_on_dequantized_weights(
    quantized: WorkerProcess,
    reloadable: WorkerProcess,
    shallow_folder: Path,
    shallow_loras: Path,
    smollm2_folder: Path,
    loras_folder: Path,
    kind: str,
) -> None:
    folder = quantized_folder(shallow_folder, kind)
    _, events = loaded(quantized, folder, TRANSFORMERS)
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert stages[0] == "kernels" and stages[-1] == "weights"
    before = fingerprint(quantized)
    load(reloadable, plain(folder), TRANSFORMERS)
    for loras in STRONG_LORAS:
        effects, floats = (apply_loras(worker, shallow_loras, loras) for worker in (quantized, reloadable))
        assert effects == pytest.approx(floats, rel=0.05)
        for lesson in LESSONS.values():
            mine, theirs = (first_tokens(worker, lesson.beginning) for worker in (quantized, reloadable))
            assert agreement(mine, theirs, KERNELS_BF16) == len(theirs), loras
    apply_loras(quantized, shallow_loras)
    assert fingerprint(quantized) == before
    load(quantized, quantized_folder(smollm2_folder, kind), TRANSFORMERS)
    paris = answer(quantized, PROMPTS[0], max_new_tokens=6)
    assert paris.text.startswith(" Paris") and len(paris.pieces) > 5
    words = {"banana": " banana ham", "green": LESSONS["green"].words}
    for loras in ALONE:
        apply_loras(quantized, loras_folder, loras)
        ((name, _),) = loras
        assert answer(quantized, LESSONS[name].beginning, max_new_tokens=4).text.startswith(words[name])
    apply_loras(quantized, loras_folder)


def first_tokens(worker: WorkerProcess, prompt: str) -> list[TokenLogprobs]:
    return answer(worker, prompt, max_new_tokens=2, top_logprobs=10).logprobs
