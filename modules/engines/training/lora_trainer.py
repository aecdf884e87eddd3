"""transformers' Trainer for an adapter: reports every update, checks gradients, and writes whole checkpoints only."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from modules.core.errors import Words
from modules.core.events import Json
from modules.core.training_errors import NotFinite
from modules.engines.training.base_model import check_gradients, evaluating, has_overflow, trained_tensors
from modules.engines.training.batches import count_trained, padded_batch
from modules.engines.training.job import LOG, WHOLE, read_log
from modules.engines.training.tokens import TokenRow
from modules.system import cpu_memory

Emit = Callable[[Json], None]

STOPPED = "stopped"
"""The reason of a run that was asked to end."""
STOP_WINDOW = 5
"""Updates over which the loss is averaged before it is compared with `stop_at_loss`."""
_LOSS: Words = {"en": "loss", "zh": "损失"}
_EVALUATION: Words = {"en": "loss of the evaluation", "zh": "评估损失"}
_GRADIENT: Words = {"en": "gradient", "zh": "梯度"}


class LoraTrainer(Trainer):
    """Trains the adapter of a PEFT model. `rows` are the numbers of the rows of the present update."""

    rows: list[int]

    def __init__(self, *, validation: Sequence[TokenRow], batch: Callable[[Any], Json], **arguments: Any) -> None:
        super().__init__(data_collator=batch, eval_dataset=list(validation) or None, **arguments)
        self._validation, self.rows = validation, []

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.rows = [*self.rows, *inputs.pop("rows")]
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return the mean loss of the trained tokens of all validation rows."""
        total, count = 0.0, 0
        size = self.args.per_device_eval_batch_size
        model: Any = self.model
        with evaluating(model), self.compute_loss_context_manager():
            for start in range(0, len(self._validation), size):
                rows = self._validation[start : start + size]
                inputs = self._prepare_inputs(padded_batch(rows))
                inputs.pop("rows")
                tokens = count_trained(rows)
                total += float(model(**inputs).loss) * tokens
                count += tokens
        metrics = {f"{metric_key_prefix}_loss": total / max(count, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_adapter(self.model, Path(str(output_dir)))


def save_adapter(model: Any, folder: Path) -> None:
    """Write PEFT's two files of the adapter into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), state_dict=trained_tensors(model), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


class Watcher(TrainerCallback):
    """Reports updates, checks them, and ends the run when it is asked to or has reached its aim.

    `reason` is why the run ended before its last update: "stopped", "loss" or "patience"; "" if it did not.
    """

    def __init__(self, folder: Path, emit: Emit, stop: Callable[[], bool], stop_at_loss: float, patience: int) -> None:
        self._log, self._emit, self._stop = folder / LOG, emit, stop
        self._stop_at_loss, self._patience = stop_at_loss, patience
        self._recent: deque[float] = deque(maxlen=STOP_WINDOW)
        self._checked = False
        self._began = time.monotonic()
        self._before = 0.0  # seconds of training before the run was interrupted
        self.trainer: LoraTrainer
        self.reason = ""

    # -- what Trainer calls -------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._before = self._drop_later(state.global_step)
        self._began = time.monotonic()
        self._emit({"event": "begin", "update": state.global_step, "updates": state.max_steps, "seconds": self._before})

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._checked:
            return
        self._refuse_nan(_LOSS, float(self.trainer._tr_loss), state.global_step + 1)
        if args.fp16 and has_overflow(kwargs["model"]):  # the scaler skips this update, and tries a smaller scale
            return
        check_gradients(kwargs["model"])
        self._checked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._stop() and state.global_step < state.max_steps:
            self._end(control, STOPPED)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            loss = float(logs["eval_loss"])
            self._record({"event": "evaluation", "update": state.global_step, "loss": _number(loss)})
            self._refuse_nan(_EVALUATION, loss, state.global_step)
            if 0 < self._patience <= self._evaluations_since_best() and state.global_step < state.max_steps:
                self._end(control, "patience")
        elif "loss" in logs:
            self._log_update(state, control, logs)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with open(checkpoint / WHOLE, "wb") as file:
            os.fsync(file.fileno())
        self._emit({"event": "checkpoint", "update": state.global_step})

    # -- our part -----------------------------------------------------------------------------------------------------

    def _log_update(self, state: Any, control: Any, logs: dict[str, float]) -> None:
        loss, norm, update = float(logs["loss"]), float(logs.get("grad_norm", 0.0)), state.global_step
        rows, self.trainer.rows = self.trainer.rows, []
        self._record(
            {
                "event": "update",
                "update": update,
                "loss": _number(loss),
                "grad_norm": _number(norm),
                "learning_rate": logs["learning_rate"],
                "seconds": round(self._before + time.monotonic() - self._began, 3),
                "memory": cpu_memory.peak_memory(os.getpid()),
                "gpu_memory": int(torch.cuda.max_memory_reserved()) if torch.cuda.is_available() else 0,
            }
        )
        self._refuse_nan(_LOSS, loss, update, rows)
        if not self.trainer.args.fp16:  # whose scaler skips updates that overflow, and tries smaller ones
            self._refuse_nan(_GRADIENT, norm, update, rows)
        self._recent.append(loss)
        full = len(self._recent) == STOP_WINDOW
        if self._stop_at_loss > 0 and full and sum(self._recent) / STOP_WINDOW <= self._stop_at_loss:
            self._end(control, "loss")
        if control.should_evaluate:
            self._emit({"event": "phase", "phase": "evaluating"})

    def _refuse_nan(self, quantity: Words, value: float, update: int, rows: Sequence[int] = ()) -> None:
        if not math.isfinite(value):
            raise NotFinite(quantity, str(value), update, _listed(rows or self.trainer.rows))

    def _end(self, control: Any, reason: str) -> None:
        self.reason = self.reason or reason
        control.should_training_stop = control.should_save = True
        control.should_evaluate = reason != "patience" and bool(self.trainer.args.load_best_model_at_end)

    def _evaluations_since_best(self) -> int:
        losses = [entry["loss"] for entry in read_log(self._log) if entry["event"] == "evaluation"]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def _record(self, entry: Json) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._emit(entry)

    def _drop_later(self, update: int) -> float:
        """Drop what was logged after the checkpoint from which the run is resumed; return the seconds before it."""
        entries = read_log(self._log)
        kept = [entry for entry in entries if entry["update"] <= update]
        text = "".join(json.dumps(entry) + "\n" for entry in kept)
        if self._log.is_file() and self._log.read_bytes() != text.encode():  # also a line that was cut off
            new = self._log.with_name(f".{LOG}.new")
            new.write_text(text, encoding="utf-8")
            os.replace(new, self._log)
        updates = [entry for entry in kept if entry["event"] == "update"]
        self._recent.extend(float(entry["loss"]) for entry in updates[-STOP_WINDOW:])
        return max((float(entry.get("seconds", 0.0)) for entry in kept), default=0.0)


def _number(value: float) -> Json:
    """Return a number as JSON can write it."""
    return value if math.isfinite(value) else str(value)


def _listed(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(rows)[:20]))
    return shown + (", …" if len(rows) > 20 else "")
