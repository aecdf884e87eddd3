"""What the Transformers engine takes: kinds of models and files, too little memory, folders that lack something."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules import machine
from modules.errors import LoadFailed
from modules.process import ROOT, WorkerProcess
from tests.answers import answer, ask, forget, together
from tests.conftest import TRANSFORMERS, load, load_arguments
from tests.hf_reference import alone
from tests.hf_tiny import KINDS, tiny_models
from tests.own_code import own_model

FRANCE = "The capital of France is"
PROMPTS = ["Once upon a time, in a small village", "The moon is bright. " * 8, "one"]
PARIS = 7042
OFFLOAD = ROOT / "cache" / "offload"


@pytest.fixture(scope="module")
def tiny(smollm2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_models(tmp_path_factory.mktemp("tiny"), smollm2_folder, list(KINDS))


@pytest.fixture
def variant(smollm2_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with SmolLM2's files, but for those `without` and what config.json is to say differently."""

    def make(*without: str, **config: Any) -> Path:
        for file in smollm2_folder.iterdir():
            if file.name not in without:
                (tmp_path / file.name).symlink_to(file)
        if config:
            said = json.loads((smollm2_folder / "config.json").read_text())
            (tmp_path / "config.json").unlink()
            (tmp_path / "config.json").write_text(json.dumps(said | config))
        return tmp_path

    return make


# -- kinds of models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_answers_as_transformers_alone_does(
    worker: WorkerProcess, tiny: dict[str, Path], kind: str
) -> None:
    """Alone, together, from what was kept, and after a second turn."""
    name = "AutoModelForSeq2SeqLM" if kind == "t5" else "AutoModelForCausalLM"
    expected = [each["text"] for each in alone(tiny[kind], PROMPTS, 40, name, dtype="float32")]
    load(worker, tiny[kind], TRANSFORMERS)
    assert [answer(worker, prompt, max_new_tokens=40).text for prompt in PROMPTS] == expected
    assert [each.text for each in together(worker, PROMPTS, max_new_tokens=40)] == expected
    assert [answer(worker, prompt, max_new_tokens=40).text for prompt in PROMPTS] == expected
    turn = f"{PROMPTS[0]}{expected[0]} and"
    second = answer(worker, turn)
    forget(worker)
    assert answer(worker, turn).text == second.text


def test_a_full_context_ends_the_answer(worker: WorkerProcess, tiny: dict[str, Path]) -> None:
    assert load(worker, tiny["llama"], TRANSFORMERS).context_length == 256
    full = answer(worker, "moon " * 60, max_new_tokens=0, ban_eos_token=True)
    assert full.done.reason == "length"
    assert full.done.prompt_tokens + full.done.completion_tokens == 256 + 1  # the last token need not fit


def test_a_longer_context_is_what_the_options_make_of_it(worker: WorkerProcess, tiny: dict[str, Path]) -> None:
    info = load(worker, tiny["llama"], TRANSFORMERS, compress_pos_emb=2.0)
    assert info.context_length == 512
    assert answer(worker, "moon " * 300, max_new_tokens=2).done.prompt_tokens > 256


@pytest.mark.parametrize(
    "options",
    [{"rope_freq_base": 500.0}, {"alpha_value": 8.0}, {"compress_pos_emb": 16.0}],
    ids=lambda options: "-".join(options),
)
def test_what_bends_positions_changes_the_answer(
    worker: WorkerProcess, smollm2_folder: Path, options: dict[str, Any]
) -> None:
    assert not load(worker, smollm2_folder, TRANSFORMERS, **options).notes
    (chances,) = answer(worker, FRANCE, max_new_tokens=1, logit_bias={str(PARIS): 100}, top_logprobs=0).chances
    assert chances.chosen.logprob != pytest.approx(-0.2606, abs=0.001), "as it is with the model's own"


# -- kinds of files ----------------------------------------------------------------------------------------------------

AS_PICKLE = """
import sys, torch
from safetensors.torch import load_file
torch.save(load_file(sys.argv[1]), sys.argv[2])
"""


def test_pickled_weights_answer_like_safetensors(worker: WorkerProcess, tiny: dict[str, Path], tmp_path: Path) -> None:
    for file in tiny["llama"].iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    source, target = tiny["llama"] / "model.safetensors", tmp_path / "pytorch_model.bin"
    subprocess.run([sys.executable, "-c", AS_PICKLE, str(source), str(target)], check=True, timeout=60)
    load(worker, tmp_path, TRANSFORMERS)
    other = WorkerProcess()
    try:
        load(other, tiny["llama"], TRANSFORMERS)
        assert answer(worker, FRANCE).text == answer(other, FRANCE).text
    finally:
        other.close()


class Harm:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def test_a_program_in_a_pickle_is_not_run(worker: WorkerProcess, variant: Callable[..., Path], tmp_path: Path) -> None:
    folder, mark = variant("model.safetensors"), tmp_path / "harm"
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model.norm.weight": Harm(mark)}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(LoadFailed) as refused:
        load(worker, folder, TRANSFORMERS)
    assert not mark.exists()
    assert "more than weights" in refused.value.cause["en"], refused.value.words


# -- too little memory -------------------------------------------------------------------------------------------------


def offloaded() -> list[str]:
    return sorted(each.name for each in OFFLOAD.iterdir()) if OFFLOAD.is_dir() else []


def once_gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while str(pid) in offloaded() and time.monotonic() < until:
        time.sleep(0.05)
    return str(pid) not in offloaded()


@pytest.mark.parametrize("killed", [False, True], ids=["unloaded", "killed"])
def test_what_exceeds_cpu_memory_stays_on_disk_and_nothing_of_it_afterwards(smollm2_folder: Path, killed: bool) -> None:
    worker = WorkerProcess()
    try:
        info = load(worker, smollm2_folder, TRANSFORMERS, cpu_memory="300MiB", disk=True)
        assert {note.option for note in info.notes} == {"cpu_memory"}, "it is slow, and says so"
        assert info.memory == pytest.approx(machine.resident_memory(worker.pid), rel=0.1)
        assert answer(worker, FRANCE, max_new_tokens=2).text == " Paris."
        assert str(worker.pid) in offloaded()
        if killed:
            os.kill(worker.pid, signal.SIGKILL)
    finally:
        worker.close()
    assert once_gone(worker.pid)


def test_a_model_may_be_on_disk_as_a_whole(worker: WorkerProcess, smollm2_folder: Path) -> None:
    load(worker, smollm2_folder, TRANSFORMERS, cpu_memory="1MiB", disk=True)
    assert answer(worker, FRANCE, max_new_tokens=2).text == " Paris."


def test_fewer_bits_take_less_memory(smollm2_folder: Path) -> None:
    taken = {}
    for options in ({}, {"bf16": True}, {"load_in_8bit": True}, {"load_in_4bit": True, "use_double_quant": True}):
        worker = WorkerProcess()
        try:
            info = load(worker, smollm2_folder, TRANSFORMERS, **options)
            assert info.memory == pytest.approx(machine.resident_memory(worker.pid), rel=0.1)
            taken["-".join(options)] = info.memory
        finally:
            worker.close()
    assert taken["bf16"] < taken[""] - (200 << 20)


# -- folders that want for something -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "config", "cause"),
    [
        (["tokenizer.json", "tokenizer_config.json"], {}, "tokenizer is missing"),
        (["model.safetensors"], {}, "no weights"),
        (["config.json"], {}, "config.json is missing"),
        ([], {"model_type": "nonesuch"}, "nonesuch"),
        ([], {"num_hidden_layers": 31}, "model.layers.30"),
        ([], {"model_type": "vit"}, "no model that writes text"),
        ([], {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "--install Transformers"),
        ([], {"quantization_config": {"quant_method": "awq", "bits": 4}}, "--install Transformers"),
        ([], {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "trust-remote-code"),
    ],
    ids=["tokenizer", "weights", "config", "architecture", "layer", "images", "gptq", "awq", "code"],
)
def test_what_is_missing_is_named(
    worker: WorkerProcess, variant: Callable[..., Path], without: list[str], config: dict[str, Any], cause: str
) -> None:
    with pytest.raises(LoadFailed) as refused:
        load(worker, variant(*without, **config), TRANSFORMERS)
    assert cause in refused.value.cause["en"], refused.value.words
    assert refused.value.cause["zh"]


def test_weights_cut_short_are_called_damaged(
    worker: WorkerProcess, variant: Callable[..., Path], smollm2_folder: Path
) -> None:
    folder = variant("model.safetensors")
    with (smollm2_folder / "model.safetensors").open("rb") as whole:
        (folder / "model.safetensors").write_bytes(whole.read(5_000_000))
    with pytest.raises(LoadFailed) as refused:
        load(worker, folder, TRANSFORMERS)
    assert "damaged" in refused.value.cause["en"], refused.value.words


def test_code_beside_the_model_runs_with_the_flag(worker: WorkerProcess, smollm2_folder: Path, tmp_path: Path) -> None:
    load(worker, own_model(tmp_path, smollm2_folder), TRANSFORMERS, trust_remote_code=True)
    assert answer(worker, FRANCE, max_new_tokens=1).text == " Paris"


def test_what_is_explained_is_what_loading_says(worker: WorkerProcess, smollm2_folder: Path) -> None:
    options = {"gpu_memory": "10", "no_use_fast": True, "load_in_8bit": True, "bf16": True}
    told = ask(worker, "explain", **load_arguments(smollm2_folder, TRANSFORMERS, **options))
    assert told["calls"]["AutoModelForCausalLM.from_pretrained"]["quantization_config"]["load_in_8bit"] is True
    info = load(worker, smollm2_folder, TRANSFORMERS, **options)
    assert [note["option"] for note in told["notes"]] == [note.option for note in info.notes]
    assert {"no_use_fast", "bf16"} <= {note.option for note in info.notes}


# -- a GPU's memory ----------------------------------------------------------------------------------------------------


def test_answers_that_have_ended_give_up_their_memory_to_one_that_needs_it(tiny: dict[str, Path]) -> None:
    """On a CPU that is said to have no more, in the middle of a pass: the answer is what it would have been."""
    command = [sys.executable, "-m", "tests.hf_memory_probe", str(tiny["llama"])]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    for name in ("nothing to let go of", "too much by itself"):
        assert "out of memory" in told.pop(name)[0]
    assert len(told) == 4
    for case, (enough, short, kept) in told.items():
        assert short == enough, case
        assert kept == len(short), f"{case}: what was kept before is gone"


def test_on_a_gpu_what_is_kept_is_measured_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from modules import machine
    from modules.engines import hf_engine

    monkeypatch.setattr(machine, "total_memory", lambda: 64 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2 << 30, 12 << 30))
    assert hf_engine._spare_bytes(torch.device("cuda", 0)) == 1 << 29
    assert hf_engine._spare_bytes(torch.device("cpu")) == 2 << 30
