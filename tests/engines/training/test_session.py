"""Training with the real libraries on a tiny model: losses, resuming, stopping, and what makes a run fail."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Json
from modules.engines.training.job import CHECKPOINTS, RESULT, TrainingJob
from modules.engines.training.samples import Sample
from tests.support import hf_tiny
from tests.support.forked import forked
from tests.support.training_jobs import losses, make_job, samples, train

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four layers with random weights."""
    return hf_tiny.tiny_models(tmp_path_factory.mktemp("base"), tiny_folder, ["llama"])["llama"]


def bare_losses(folder: Path) -> list[float]:
    """Return the losses of a loop of PEFT and torch alone, with batches of whole updates in the Trainer's order."""
    import peft
    import torch
    import transformers

    from modules.engines.training.arguments import lora_arguments, schedule
    from modules.engines.training.batches import padded_batch
    from modules.engines.training.samples import read_samples
    from modules.engines.training.tokens import Limits, OffsetTokenizer, tokenize

    job = TrainingJob.read(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.base)
    rows = tokenize(read_samples(job.train), OffsetTokenizer(tokenizer), Limits.of(job.parameters)).rows
    plan = schedule(job.parameters, len(rows))
    module = transformers.AutoModelForCausalLM.from_pretrained(job.base)
    seed = int(job.parameters["seed"])
    transformers.set_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model: Any = peft.get_peft_model(module, peft.LoraConfig(**lora_arguments(job.parameters, targets)))
    optimizer = torch.optim.AdamW((w for w in model.parameters() if w.requires_grad), weight_decay=0)
    assert plan.warmup == 0
    found: list[float] = []
    for epoch in range(int(job.parameters["epochs"])):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch))  # accelerate's
        for start in range(0, len(rows), int(job.parameters["batch_size"])):
            chosen = [rows[index] for index in order[start : start + int(job.parameters["batch_size"])]]
            batch = {key: value for key, value in padded_batch(chosen).items() if key != "rows"}
            cosine = (1 + math.cos(math.pi * len(found) / plan.updates)) / 2
            optimizer.param_groups[0]["lr"] = float(job.parameters["learning_rate"]) * cosine
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_([w for w in model.parameters() if w.requires_grad], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
    return found


def run(folder: Path, **control: int) -> list[Json]:
    return forked(train, folder, **control)


def test_losses_are_those_of_a_bare_loop_however_a_batch_is_split(
    base: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    found = {}
    for micro in (1, 4):
        parameters: dict[str, Any] = {"micro_batch_size": micro, "lora_dropout": 0, "learning_rate": 0.01}
        found[micro] = list(losses(run(make_job(tmp_path / str(micro), base, samples(10), **parameters))).values())
    assert len(found[1]) == 6 and found[1][-1] < found[1][0] - 0.1
    for name, expected, limit in (("split", found[4], 1e-5), ("bare loop", forked(bare_losses, tmp_path / "4"), 1e-3)):
        with subtests.test(what=name):
            assert max(abs(one - other) for one, other in zip(found[1], expected, strict=True)) < limit


def test_weights_in_bfloat16_are_trained(base: Path, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"base_weights": "bfloat16", "epochs": 4, "learning_rate": 0.01}
    events = run(make_job(tmp_path / "job", base, samples(8), **parameters))
    found = losses(events)
    facts = next(event for event in events if event["event"] == "facts")
    assert (events[-1]["event"], facts["dtype"]) == ("done", "bfloat16") and found[8] < found[1] - 0.1


def test_a_run_that_crashed_goes_on_to_the_bit(base: Path, tmp_path: Path, subtests: pytest.Subtests) -> None:
    parameters: dict[str, Any] = {"save_steps": 2, "lora_dropout": 0.1, "epochs": 3}
    whole = losses(run(make_job(tmp_path / "whole", base, samples(10), **parameters)))
    broken = make_job(tmp_path / "broken", base, samples(10), **parameters)
    first = run(broken, crash_at=5)
    cut_off = broken / CHECKPOINTS / "checkpoint-6"
    cut_off.mkdir()
    (cut_off / "adapter_model.safetensors").write_bytes(b"half a file")
    second = run(broken)
    with subtests.test(what="before the crash"):
        assert losses(first) == {update: whole[update] for update in range(1, 6)}
    with subtests.test(what="after the last checkpoint"):
        assert losses(second) == {update: whole[update] for update in range(5, 10)}
    with subtests.test(what="log"):
        logged = json_lines(broken / "log.jsonl")
        assert losses(logged) == whole and len(logged) == len(whole)


def test_a_stop_saves_the_adapter_of_the_last_update(base: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", base, samples(10), samples(4), epochs=5, eval_steps=2, learning_rate=0.01)
    end = run(job, stop_at=4)[-1]
    assert (end["event"], end["reason"], end["update"]) == ("done", "stopped", 5)
    assert end["best"]["update"] == 5  # evaluated although it was not its turn
    assert {path.name for path in (job / RESULT).iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_run_that_is_stopped_before_it_has_learned_anything_leaves_no_adapter(base: Path, tmp_path: Path) -> None:
    """The first update of a warm-up has the learning rate 0."""
    job = make_job(tmp_path / "job", base, samples(10), epochs=5)
    end = run(job, stop_at=0)[-1]
    assert (end["event"], end["reason"], end["update"]) == ("done", "stopped", 1)
    assert not (job / RESULT).exists()


def test_a_run_can_continue_a_lora_with_other_data(base: Path, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"lora_dropout": 0, "learning_rate": 0.01, "epochs": 4}
    first = make_job(tmp_path / "first", base, samples(8), samples(4, 101), **parameters)
    learned = losses(run(first), "evaluation")
    second = make_job(tmp_path / "second", base, samples(8, 51), samples(4, 101), first / RESULT, **parameters)
    events = run(second)
    assert events[-1]["event"] == "done", events[-1]
    assert losses(events)[1] < 0.95 * losses(json_lines(first / "log.jsonl"))[1]
    assert min(losses(events, "evaluation").values()) < min(learned.values())


def json_lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_packed_rows_do_not_see_each_other(base: Path, tmp_path: Path) -> None:
    """With all rows in each update, the losses are those of rows that are not packed."""
    found = {}
    for packing in (False, True):
        parameters: dict[str, Any] = {"packing": packing, "batch_size": 8, "micro_batch_size": 8, "cutoff_len": 64}
        events = run(make_job(tmp_path / str(packing), base, samples(8), lora_dropout=0, **parameters))
        found[packing] = list(losses(events).values())
    assert abs(found[True][0] - found[False][0]) < 1e-5
    assert abs(found[True][-1] - found[False][-1]) < 1e-3


def test_a_run_ends_early_if_evaluations_do_not_improve_and_keeps_the_best(base: Path, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"epochs": 20, "eval_steps": 2, "early_stopping_patience": 2, "learning_rate": 0.05}
    job = make_job(tmp_path / "job", base, samples(10), samples(6, 101), **parameters)
    events = run(job)
    found = losses(events, "evaluation")
    end = events[-1]
    assert (end["event"], end["reason"]) == ("done", "patience")
    best = min(found, key=lambda update: found[update])
    assert end["best"] == {"update": best, "loss": found[best]}
    assert list(found)[-1] == best + 4
    before = [events[index - 1] for index, event in enumerate(events) if event["event"] == "evaluation"]
    assert before == [{"event": "phase", "phase": "evaluating"}] * len(found)


def test_a_run_ends_once_the_mean_of_five_losses_is_low_enough(base: Path, tmp_path: Path) -> None:
    found = run(make_job(tmp_path / "job", base, samples(10), epochs=9, stop_at_loss=100))
    assert (found[-1]["reason"], found[-1]["update"]) == ("loss", 5)


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_rows(base: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", forked(with_nan, base, tmp_path / "nan"), samples(10))
    end = run(job)[-1]
    assert (end["event"], end["error"], end["facts"]["update"]) == ("failed", "NotFinite", 1)
    rows = list(map(int, end["facts"]["rows"].split(", ")))
    assert len(rows) == 4 and set(rows) <= set(range(1, 11))
    assert not (job / RESULT).exists()


def test_an_evaluation_that_is_no_number_ends_the_run(base: Path, tmp_path: Path) -> None:
    damaged = forked(with_nan, base, tmp_path / "nan", " Z")
    row = Sample(1, (("Question: ", False), ("Z Z", True)))
    job = make_job(tmp_path / "job", damaged, samples(10), [row], eval_steps=2)
    events = run(job)
    assert (events[-1]["event"], events[-1]["error"], events[-1]["facts"]["update"]) == ("failed", "NotFinite", 2)
    assert losses(events, "evaluation") == {2: "nan"}


def with_nan(base: Path, folder: Path, word: str = "") -> Path:
    """Write the model with a weight that is no number: in the embedding of a word, or where all tokens meet it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        if word:
            token = tokenizer(word, add_special_tokens=False)["input_ids"][-1]
            model.model.embed_tokens.weight[token] = float("nan")
        else:
            model.model.norm.weight[0] = float("nan")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_weights_of_4_bits_are_trained_and_resumed(base: Path, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"base_weights": "4-bit", "save_steps": 2, "epochs": 4, "learning_rate": 0.01}
    whole = losses(run(make_job(tmp_path / "whole", base, samples(8), **parameters)))
    job = make_job(tmp_path / "broken", base, samples(8), **parameters)
    run(job, crash_at=5)
    events = run(job)
    assert events[-1]["event"] == "done", events[-1]
    assert losses(events)[8] == whole[8] < whole[1]


def test_weights_of_8_bits_are_trained(base: Path, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"base_weights": "8-bit", "epochs": 4, "learning_rate": 0.01}
    events = run(make_job(tmp_path / "job", base, samples(8), **parameters))
    found = losses(events)
    assert events[-1]["event"] == "done" and found[8] < found[1]


def test_rows_that_are_all_too_long_are_refused(base: Path, tmp_path: Path) -> None:
    end = run(make_job(tmp_path / "job", base, samples(5), cutoff_len=8))[-1]
    assert (end["event"], end["error"]) == ("failed", "NoRowLeft")
