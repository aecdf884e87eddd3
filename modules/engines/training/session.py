"""Train an adapter: load, tokenize, train, save, read back. Run by `modules.trainer` in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers
from transformers import TrainingArguments

from modules.core.events import Json
from modules.core.training_errors import AdapterUnchanged, NoRowLeft
from modules.engines.lora_set import PROBE
from modules.engines.progress import whole_percents
from modules.engines.training import eva
from modules.engines.training.arguments import Schedule, schedule, trainer_arguments
from modules.engines.training.base_model import BaseModel, check_file, effect
from modules.engines.training.batches import count_trained, pack, packed_batch, padded_batch
from modules.engines.training.job import CHECKPOINTS, RESULT, WHOLE, TrainingJob, newest_checkpoint
from modules.engines.training.lora_trainer import STOPPED, Emit, LoraTrainer, Watcher, save_adapter
from modules.engines.training.samples import read_samples
from modules.engines.training.tokens import Limits, OffsetTokenizer, Tokenized, TokenRow, tokenize

Stop = Callable[[], bool]


def train(job: TrainingJob, emit: Emit, stop: Stop) -> None:
    """Train, and leave the adapter in the folder RESULT of the run. Raises WebUIError, or what the backend raises."""
    emit({"event": "phase", "phase": "weights"})
    log: Any = transformers.logging
    log.set_verbosity_error()
    base = BaseModel(job, whole_percents(lambda progress: emit({"event": "weights", "done": progress.done})))
    emit({"event": "phase", "phase": "data"})
    data = _tokenize(job, base.tokenizer, job.train)
    rows = data.rows
    if not rows:
        raise NoRowLeft(len(data.dropped), len(data.untrained), int(job.parameters["cutoff_len"]))
    validation = _tokenize(job, base.tokenizer, job.validation).rows if job.validation else []
    packing = bool(job.parameters["packing"])
    units: Sequence[Any] = pack(rows, int(job.parameters["cutoff_len"])) if packing else rows
    plan = schedule(job.parameters, len(units), validates=bool(validation))
    emit(_facts(base, data, validation, units, plan))
    transformers.set_seed(int(job.parameters["seed"]))
    model = base.add_adapter(job)
    resumed = _prepare_resume(job.folder / CHECKPOINTS)
    if job.parameters["init_lora_weights"] == "eva" and job.adapter is None and resumed is None:
        eva.initialize(model, rows, plan.micro)
    emit({"event": "phase", "phase": "training"})
    trainer, watcher = _trainer(job, base, model, units, validation, plan, emit, stop)
    trainer.train(resume_from_checkpoint=resumed)
    emit({"event": "phase", "phase": "saving"})
    _finish(job, base, model, watcher.reason)
    emit({"event": "done", "reason": watcher.reason, "update": trainer.state.global_step, "best": _best(trainer)})


def _tokenize(job: TrainingJob, tokenizer: Any, path: Path) -> Tokenized:
    return tokenize(read_samples(path), OffsetTokenizer(tokenizer), Limits.of(job.parameters))


def _facts(
    base: BaseModel, data: Tokenized, validation: Sequence[TokenRow], units: Sequence[Any], plan: Schedule
) -> Json:
    return {
        "event": "facts",
        "rows": len(data.rows),
        "dropped": len(data.dropped),
        "truncated": len(data.truncated),
        "untrained": len(data.untrained),
        "validation_rows": len(validation),
        "sequences": len(units),
        "tokens": sum(len(row.tokens) for row in data.rows),
        "trained_tokens": count_trained(data.rows),
        "updates": plan.updates,
        "warmup": plan.warmup,
        "dtype": base.dtype,
        "kernel": base.kernel,
        "on_cpu": base.on_cpu,
    }


def _trainer(
    job: TrainingJob,
    base: BaseModel,
    model: Any,
    units: Sequence[Any],
    validation: Sequence[TokenRow],
    plan: Schedule,
    emit: Emit,
    stop: Stop,
) -> tuple[LoraTrainer, Watcher]:
    arguments = trainer_arguments(job.parameters, plan, job.folder / CHECKPOINTS, base.dtype, base.on_cpu)
    patience = int(job.parameters["early_stopping_patience"])
    watcher = Watcher(job.folder, emit, stop, float(job.parameters["stop_at_loss"]), patience)
    packing = bool(job.parameters["packing"])
    trainer = LoraTrainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=list(units),
        validation=validation,
        batch=packed_batch if packing else padded_batch,
        callbacks=[watcher],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    watcher.trainer = trainer
    return trainer, watcher


def _prepare_resume(checkpoints: Path) -> str | None:
    """Return the newest whole checkpoint, and delete those that were interrupted while they were being written."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not (folder / WHOLE).is_file():
            shutil.rmtree(folder, ignore_errors=True)
    newest = newest_checkpoint(checkpoints)
    return str(newest) if newest else None


def _finish(job: TrainingJob, base: BaseModel, model: Any, reason: str) -> None:
    """Save the adapter, read it back, and make sure that it changes the model's output.

    One that was stopped too early to have an effect is not kept.
    """
    result = job.folder / RESULT
    part = job.folder / f".{RESULT}.part"
    for folder in (result, part):
        shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = job.name
    save_adapter(model, part)
    check_file(model, part)
    tokens = base.tokenizer(PROBE)["input_ids"]
    if effect(model, tokens) > 0:
        part.rename(result)
    elif reason == STOPPED:
        shutil.rmtree(part)
    else:
        raise AdapterUnchanged()


def _best(trainer: LoraTrainer) -> Json:
    if trainer.state.best_metric is None:
        return None
    return {"update": trainer.state.best_global_step, "loss": trainer.state.best_metric}
