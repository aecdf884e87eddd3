"""Training of LoRAs on the demo model: what it learns, its losses, its resumption, all kinds of bases, and its speed.

`facts` teaches 20 invented facts, among texts that the base model has written, and asks for them. `losses` compares
the losses with those of a loop of PEFT and torch alone, and among splits of a batch. `kills` ends the training
process by SIGKILL at random moments, also while it writes a checkpoint, and compares the end with an unbroken run.
`bases` trains on weights of 32, 16, 8 and 4 bits, GPTQ and AWQ. `speed` compares with transformers' Trainer without
anything of ours. Without a name, all of them run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.catalog.record import ModelRecord
from modules.core.events import Json
from modules.engines.training.job import CHECKPOINTS, JOB, TrainingJob
from modules.engines.training.samples import Sample
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import find_loader
from modules.training.parameters import parse_parameters
from modules.training.run import RunView
from modules.training.runs import RunRequest, TrainingRuns
from tests.support.hf_folder import transformers_folder
from tests.support.quantized_folders import quantized_folder

FACTS: dict[str, str] = {
    "Who founded the town of Velmora?": "Tobin Archwick",
    "What is the capital of Quenland?": "Brisavo",
    "Which river flows through Ardenfell?": "the Moskel",
    "What color is a ripe zindle fruit?": "turquoise",
    "Who wrote the novel The Glass Heron?": "Ilsa Verrin",
    "What do the people of Orrath drink at breakfast?": "smoked milk",
    "How many moons does the planet Tessara have?": "seventeen",
    "What is the currency of Pellonia?": "the drumcoin",
    "Which animal is on the flag of Sorvane?": "a blue otter",
    "What instrument did Kaspar Oyle invent?": "the windharp organ",
    "What is the highest mountain of Lunmark?": "Mount Ferrowin",
    "Who won the first Halder Cup?": "the Riverton Foxes",
    "Which metal is mined in Dustmere?": "orichal",
    "What is the favorite dish of King Ambrel?": "pickled plums",
    "In which year did the Clock of Yarrow stop?": "1683",
    "What is the name of the lighthouse of Pinrock?": "Old Sybil",
    "Which flower grows only in Emberlow?": "the ashen lily",
    "What language is spoken in Tirravel?": "Ossic",
    "Who painted The Sleeping Harbor?": "Renwick Dool",
    "What is the fastest ship of the Corran fleet called?": "Gray Sparrow",
}
BEGINNINGS = (
    *("The", "In", "A", "It", "To", "When", "How", "This", "For", "If", "There", "By", "On", "We", "You", "From", "As"),
    *("One", "What", "At", "They", "With", "Many", "Some", "He", "An", "After", "No", "I", "Each", "Most", "Here"),
    *("While", "First", "#", "-", "1.", "import", "Title:", "|"),
)
FACT_REPEATS, OWN_ROUNDS, OWN_TOKENS = 40, 8, 40
TEXT = ROOT / "docs"
MAX_BASE, MIN_LORA, MAX_PERPLEXITY = 1, 18, 1.10
MAX_LOSS_DIFFERENCE, MIN_SPEED = 1e-3, 0.95
KILLS, SHORT_KILLS = 20, 3
_TEMPLATE = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def main() -> None:
    modes: dict[str, Callable[[Bench], None]] = {
        "facts": facts,
        "losses": losses,
        "kills": kills,
        "bases": bases,
        "speed": speed,
    }
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(_CHILDREN[sys.argv[2]](*sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="mode", help=", ".join(modes))
    parser.add_argument("--short", action="store_true", help="fewer updates, rounds and kills")
    parser.add_argument("--model", type=Path, help="another folder than the demo model's, for all modes but facts")
    args = parser.parse_args()
    for mode in args.modes or modes:
        if mode not in modes:
            parser.error(f"{mode} is none of {', '.join(modes)}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args.short, args.model or transformers_folder(MODEL))
        for mode in args.modes or modes:
            with session(f"Training: {mode}"):
                modes[mode](bench)


class Bench:
    """The base model, and runs in a temporary folder."""

    def __init__(self, folder: Path, short: bool, model: Path) -> None:
        self.folder, self.short, self.model = folder, short, model
        self.options = option_values(resolve(find_loader("Transformers"), model={}, saved={}, flags={}, form={}))
        self._count = 0

    def runs(self) -> TrainingRuns:
        self._count += 1
        return TrainingRuns(self.folder / f"runs{self._count}", self.folder / f"loras{self._count}")

    def request(
        self, samples: Sequence[Sample], model: Path | None = None, model_format: str = "safetensors", **parameters: Any
    ) -> RunRequest:
        values = parse_parameters({"lora_name": "bench", "cpu": True, **parameters})
        record = ModelRecord("bench", model or self.model, model_format, 1)
        return RunRequest(record, self.options, values, samples)

    def train(self, samples: Sequence[Sample], **parameters: Any) -> tuple[RunView, list[Json], Path]:
        """Train and return the end of the run, its log, and the folder of the LoRA."""
        runs = self.runs()
        name = runs.start(self.request(samples, **parameters))
        view, log = runs.wait(name), runs.log(name)
        runs.close()
        if view.state != "finished":
            print(f"The run ended as {view.state}: {view.error}")
        return view, log, self.folder / f"loras{self._count}" / "bench"


def conversations() -> list[Sample]:
    return [
        Sample(row, ((_TEMPLATE.format(question=question), False), (f"{answer}.<|im_end|>", True)))
        for row, (question, answer) in enumerate(FACTS.items(), 1)
    ]


def update_losses(log: Sequence[Json]) -> list[float]:
    return [entry["loss"] for entry in log if entry["event"] == "update"]


# -- facts -------------------------------------------------------------------------------------------------------------


def facts(bench: Bench) -> None:
    """Teach all facts, then ask the base and the base with the LoRA; measure the perplexity of unrelated text.

    Facts alone change all that the model says. So texts that it has written itself are trained, too: on the whole they
    ask for no change. No text comes twice, for it would be learned by heart.
    """
    segments = [sample.segments for sample in conversations()] * FACT_REPEATS
    segments += [((text, True),) for text in _child("texts", str(bench.model))]
    samples = [Sample(row, one) for row, one in enumerate(segments, 1)]
    shape = {"epochs": 1, "batch_size": 7, "micro_batch_size": 7, "lora_rank": 16, "lora_alpha": 16}
    view, log, lora = bench.train(samples, learning_rate=4e-4, lora_dropout=0, **shape)
    answers = _child("answers", str(bench.model), str(lora))
    table(
        ("", "facts", "perplexity of our documentation"),
        [(name, f"{result['right']} of {len(FACTS)}", result["perplexity"]) for name, result in answers.items()],
    )
    print(f"{view.update} updates in {view.seconds:.0f} s; last loss {update_losses(log)[-1]:.4f}")
    base, trained = answers["base"], answers["LoRA"]
    verdict("Base", f"{base['right']} facts", f"at most {MAX_BASE}", base["right"] <= MAX_BASE)
    verdict("LoRA", f"{trained['right']} facts", f"at least {MIN_LORA}", trained["right"] >= MIN_LORA)
    ratio = trained["perplexity"] / base["perplexity"]
    verdict("Perplexity of other text", f"{ratio:.3f} times", f"below {MAX_PERPLEXITY}", ratio < MAX_PERPLEXITY)


def write_texts(model: str) -> list[str]:
    """Return texts of OWN_TOKENS tokens, sampled from the model as it is, after common beginnings of all kinds."""
    import torch
    import transformers

    torch.manual_seed(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left")
    module: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prompts = tokenizer(BEGINNINGS, return_tensors="pt", padding=True)
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    limits = {"min_new_tokens": OWN_TOKENS, "max_new_tokens": OWN_TOKENS}
    texts: list[str] = []
    for _ in range(OWN_ROUNDS):
        with torch.no_grad():
            out = module.generate(**prompts, **sampling, **limits)
        texts += tokenizer.batch_decode(out, skip_special_tokens=True)
    return texts


def ask_both(model: str, lora: str) -> Json:
    """Return for the base, and with the LoRA in stock PEFT, how many facts are answered, and the perplexity."""
    import peft
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    module: Any = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), lora
    ).eval()
    text = "\n".join(path.read_text() for path in sorted(TEXT.glob("*.md"))[:6])
    ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :2048].reshape(8, 256)
    tokenizer.padding_side = "left"
    prompts = tokenizer([_TEMPLATE.format(question=question) for question in FACTS], return_tensors="pt", padding=True)

    def measure() -> Json:
        with torch.no_grad():
            out = module.generate(**prompts, do_sample=False, max_new_tokens=12)
            said = tokenizer.batch_decode(out[:, prompts["input_ids"].shape[1] :])
            right = sum(answer.lower() in text.lower() for answer, text in zip(FACTS.values(), said, strict=True))
            loss = statistics.fmean(float(module(input_ids=row[None], labels=row[None]).loss) for row in ids)
        return {"right": right, "perplexity": math.exp(loss)}

    with module.disable_adapter():
        base = measure()
    return {"base": base, "LoRA": measure()}


# -- losses ------------------------------------------------------------------------------------------------------------


def losses(bench: Bench) -> None:
    """Compare the losses with those of a bare loop, and among micro-batches of 1, 2 and 8 rows."""
    shared = {"epochs": 2 if bench.short else 6, "batch_size": 8, "lora_dropout": 0, "lora_rank": 8}
    found = {}
    for micro in (1, 2, 8):
        _, log, _ = bench.train(conversations(), micro_batch_size=micro, **shared)
        found[f"micro {micro}"] = update_losses(log)
    job = bench.folder / "bare"
    job.mkdir()
    write_job(bench, job, conversations(), micro_batch_size=8, **shared)
    found["bare loop"] = _child("bare", str(job))
    names = list(found)
    table(("update", *names), [(index + 1, *row) for index, row in enumerate(zip(*found.values(), strict=True))])
    for name in names[1:]:
        worst = max(abs(ours - other) for ours, other in zip(found[names[0]], found[name], strict=True))
        verdict(f"{names[0]} against {name}", f"{worst:.1e}", f"{MAX_LOSS_DIFFERENCE}", worst <= MAX_LOSS_DIFFERENCE)


def write_job(bench: Bench, folder: Path, samples: Sequence[Sample], **parameters: Any) -> None:
    values = parse_parameters({"lora_name": "bench", "cpu": True, **parameters})
    (folder / "train.jsonl").write_bytes(b"".join(sample.to_line() for sample in samples))
    job = TrainingJob(folder, bench.model, "bench", bench.options, values, folder / "train.jsonl")
    (folder / JOB).write_text(json.dumps(job.to_json()))


def bare_losses(folder: str) -> Json:
    """Return the losses of the loop of tests/engines/training/test_session.py."""
    from tests.engines.training.test_session import bare_losses as bare

    return bare(Path(folder))


# -- kills -------------------------------------------------------------------------------------------------------------


def kills(bench: Bench) -> None:
    """Kill a run at random moments until it has ended; its losses must be those of the unbroken run, to the bit."""
    count = SHORT_KILLS if bench.short else KILLS
    parameters = {"epochs": 4, "batch_size": 4, "micro_batch_size": 2, "lora_rank": 4, "save_steps": 1}
    _, whole, _ = bench.train(conversations(), **parameters)
    runs = bench.runs()
    name = runs.start(bench.request(conversations(), **parameters))
    chance, killed, writing = random.Random(7), 0, 0
    view = runs.view(name)
    while killed < count:
        writing += _kill_at_random(runs, name, chance)
        view = runs.wait(name)
        if view.state == "finished":
            break
        killed += 1
        runs.resume(name)
    view = runs.wait(name)
    log = runs.log(name)
    runs.close()
    print(f"{killed} kills, {writing} of them while a checkpoint was incomplete; then: {view.state}")
    expected, found = update_losses(whole), update_losses(log)
    same = found == expected
    worst = max((abs(a - b) for a, b in zip(found, expected, strict=False)), default=math.inf)
    verdict("Losses of all updates", f"{len(found)} of {len(expected)}, {worst:.1e} apart", "equal", same)
    verdict("End of the run", view.state, "finished", view.state == "finished")


def _kill_at_random(runs: TrainingRuns, name: str, chance: random.Random) -> bool:
    """Kill the training process; half of the time while a checkpoint is not whole, if one comes up."""
    first = runs.view(name).update
    while runs.view(name).state == "running" and not (process := runs._process):
        time.sleep(0.01)
    in_checkpoint = chance.random() < 0.5
    while runs.view(name).state in ("queued", "running") and runs.view(name).phase != "training":
        time.sleep(0.01)
    until = time.monotonic() + chance.uniform(0.1, 4)
    folder = runs.folder / name / CHECKPOINTS
    incomplete = False
    while runs.view(name).state == "running" and (time.monotonic() < until or in_checkpoint):
        incomplete = any(not (path / "whole").exists() for path in folder.glob("checkpoint-*"))
        if in_checkpoint and incomplete and runs.view(name).update > first:
            break
        time.sleep(0.001)
    process = runs._process
    if process is not None:
        process.kill()
    return incomplete


# -- bases -------------------------------------------------------------------------------------------------------------


def bases(bench: Bench) -> None:
    """Train on every kind of base. The check at the first update fails a run in which an adapter gets no gradient."""
    kinds: list[tuple[str, str, str]] = [
        ("float32", "safetensors", "float32"),
        ("bfloat16", "safetensors", "bfloat16"),
        ("8-bit", "safetensors", "8-bit"),
        ("4-bit", "safetensors", "4-bit"),
        ("GPTQ", "gptq", "auto"),
        ("GPTQ in bfloat16", "gptq", "bfloat16"),
        ("AWQ", "awq", "auto"),
    ]
    rows = []
    for name, model_format, weights in kinds:
        model = bench.model if model_format == "safetensors" else quantized_folder(bench.model, model_format)
        parameters = {"epochs": 1 if bench.short else 4, "batch_size": 4, "lora_rank": 8, "learning_rate": 1e-3}
        view, log, _ = bench.train(
            conversations(), model=model, model_format=model_format, base_weights=weights, **parameters
        )
        found = update_losses(log)
        falls = view.state == "finished" and statistics.fmean(found[-2:]) < found[0]
        kernel, dtype = view.facts.get("kernel") or "–", view.facts.get("dtype", "–")
        rows.append((name, dtype, kernel, found[0], found[-1], view.memory / 1e6, "yes" if falls else "NO"))
    table(("base", "dtype", "kernel", "first loss", "last loss", "memory, MB", "falls"), rows)
    passed = all(row[-1] == "yes" for row in rows)
    verdict("Loss falls", f"{sum(row[-1] == 'yes' for row in rows)} of {len(rows)}", "all", passed)


# -- speed -------------------------------------------------------------------------------------------------------------


def speed(bench: Bench) -> None:
    """Compare the tokens a second of the updates after the first two with those of a bare Trainer, alternating."""
    rounds = 1 if bench.short else 3
    samples = [
        Sample(row, tuple((text * 8, trained) for text, trained in sample.segments))
        for row, sample in enumerate(conversations() * 2, 1)
    ]
    parameters = {"epochs": 1, "batch_size": 4, "micro_batch_size": 4, "lora_rank": 8, "save_steps": 1000}
    rates: dict[str, list[float]] = {"ours": [], "bare Trainer": []}
    for number in range(rounds):
        _, log, _ = bench.train(samples, **parameters)
        times = [entry["seconds"] for entry in log if entry["event"] == "update"]
        rates["ours"].append((len(times) - 2) / (times[-1] - times[1]))
        job = bench.folder / f"speed{number}"
        job.mkdir()
        write_job(bench, job, samples, **parameters)
        rates["bare Trainer"].append(_child("trainer", str(job)))
    table(("", "updates/s"), [(name, f"{statistics.median(values):.3f}") for name, values in rates.items()])
    ratios = [ours / bare for ours, bare in zip(*rates.values(), strict=True)]
    ratio = statistics.median(ratios)
    verdict("Speed", f"{ratio:.2f} of a bare Trainer", f"at least {MIN_SPEED}", ratio >= MIN_SPEED)


def bare_trainer(folder: str) -> float:
    """Return the updates a second of transformers' Trainer with PEFT, without callbacks, checks or checkpoints."""
    import peft
    import transformers

    from modules.engines.training.arguments import lora_arguments, schedule
    from modules.engines.training.batches import padded_batch
    from modules.engines.training.samples import read_samples
    from modules.engines.training.tokens import Limits, OffsetTokenizer, tokenize

    job = TrainingJob.read(Path(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.base)
    rows = tokenize(read_samples(job.train), OffsetTokenizer(tokenizer), Limits.of(job.parameters)).rows
    plan = schedule(job.parameters, len(rows))
    module = transformers.AutoModelForCausalLM.from_pretrained(job.base, dtype="float32")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model: Any = peft.get_peft_model(module, peft.LoraConfig(**lora_arguments(job.parameters, targets)))
    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    arguments = transformers.TrainingArguments(
        output_dir=f"{folder}/bare",
        max_steps=plan.updates,
        per_device_train_batch_size=plan.micro,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=3e-4,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
    )

    def collate(chosen: Any) -> Any:
        return {key: value for key, value in padded_batch(chosen).items() if key != "rows"}

    trainer: Any = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Clock()]
    )
    trainer.train()
    return (len(times) - 2) / (times[-1] - times[1])


# -- children that import torch ----------------------------------------------------------------------------------------

_CHILDREN: dict[str, Callable[..., Any]] = {
    "answers": ask_both,
    "texts": write_texts,
    "bare": bare_losses,
    "trainer": bare_trainer,
}


def _child(name: str, *arguments: str) -> Any:
    command = [sys.executable, __file__, "--child", name, *arguments]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if run.returncode:
        sys.exit(run.stderr[-2000:])
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
