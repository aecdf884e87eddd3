"""Put the adapter of a finished run into the folder of LoRAs, with the files that the original web UI writes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from modules.core.errors import ModelProblem
from modules.core.events import Json
from modules.engines.training.job import CHECKPOINTS, LOG, RESULT, WHOLE, newest_checkpoint
from modules.formats.json_file import read_json
from modules.lora.catalog import CONFIG, WEIGHTS
from modules.system.atomic_write import replace_file
from modules.training.run import RunView
from modules.training.start import PROMPT

PARAMETERS_FILE, LOG_FILE, PROMPT_FILE = "training_parameters.json", "training_log.json", "training_prompt.json"
_REPLACED, _PART = ".replaced", ".training-part"
"""Endings of hidden folders beside the LoRAs: one that is being replaced, and a copy that is not whole yet."""
_MODE = 0o644


def publish(run: Path, view: RunView, loras: Path) -> str:
    """Move the adapter to `loras`, replacing one of that name, and return the name. Raises OSError.

    The LoRA is there whole or not at all; a replaced one is deleted only after that.
    """
    name = str(view.run.parameters["lora_name"])
    result, target = run / RESULT, loras / name
    _write(result / PARAMETERS_FILE, dict(view.run.parameters))
    _write(result / LOG_FILE, _last_values(view))
    shutil.copyfile(run / PROMPT, result / PROMPT_FILE)
    if (run / LOG).is_file():
        shutil.copyfile(run / LOG, result / LOG)
    for path in result.iterdir():
        path.chmod(_MODE)  # safetensors writes files that their owner alone can read
    loras.mkdir(parents=True, exist_ok=True)
    replaced = loras / f".{name}{_REPLACED}"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        os.rename(target, replaced)
    try:
        _move(result, target)
    except OSError:
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return name


def take_checkpoint(run: Path, view: RunView) -> bool:
    """Copy the adapter of the best checkpoint, or of the newest, to where a finished one would be; False without one.

    Raises OSError.
    """
    checkpoints, result = run / CHECKPOINTS, run / RESULT
    best = checkpoints / f"checkpoint-{view.best[0]}" if view.best else None
    checkpoint = best if best and (best / WHOLE).is_file() else newest_checkpoint(checkpoints)
    if checkpoint is None:
        return False
    try:
        config = read_json(checkpoint / CONFIG)
    except ModelProblem:  # damaged by something else: it is whole when we write it
        return False
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    shutil.copyfile(checkpoint / WEIGHTS, result / WEIGHTS)
    _write(result / CONFIG, {**config, "base_model_name_or_path": view.run.model})
    return True


def sweep(loras: Path) -> None:
    """Delete what a killed `publish` has left behind; a LoRA that was to be replaced is put back if nothing did."""
    for replaced in loras.glob(f".*{_REPLACED}"):
        target = loras / replaced.name[1 : -len(_REPLACED)]
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.rename(replaced, target)
    for part in loras.glob(f".*{_PART}"):
        shutil.rmtree(part, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Rename a folder; copy it first if the target is on another disk."""
    try:
        os.rename(source, target)
    except OSError:
        part = target.with_name(f".{target.name}{_PART}")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        os.rename(part, target)
        shutil.rmtree(source, ignore_errors=True)


def _last_values(view: RunView) -> Json:
    """Return what training_log.json holds: the base model and the last figures, under the original's keys."""
    return {
        "base_model_name": view.run.model,
        "loss": view.loss,
        "learning_rate": view.learning_rate,
        "grad_norm": view.grad_norm,
        "eval_loss": view.eval_loss,
        "current_steps": view.update,
        "total_steps": view.updates,
        "train_runtime": view.seconds,
        "reason": view.reason,
        **{key: view.facts.get(key) for key in ("rows", "tokens", "trained_tokens", "dtype", "kernel")},
    }


def _write(path: Path, content: Json) -> None:
    replace_file(path, json.dumps(content, ensure_ascii=False, indent=2).encode())
