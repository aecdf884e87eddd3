"""Read training_parameters.json of a LoRA: as this program writes it, or as versions of the original web UI do."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modules.core.errors import OptionError, WebUIError, Words
from modules.options.option import Value
from modules.training.parameters import PARAMETERS, TARGETS

_OWN = "train_on"
"""A key that only this program writes."""
_STEPS = ("warmup_steps", "save_steps", "eval_steps")
_OPTIMIZERS = ("adamw_hf", "adamw_torch_xla", "adamw_apex_fused", "adamw_anyprecision")
"""Those that no longer exist, or exist on other machines only."""
_GONE = ("higher_rank_limit", "report_to", "stride_length", "step_unit")

Notes = list[Words]


def read_parameters(content: Mapping[str, object]) -> tuple[dict[str, Value], Notes]:
    """Return the parameters in a file, and what was changed or left out, one sentence each.

    A value that is not valid is left out with a note.
    """
    notes: Notes = []
    raw = dict(content)
    if _OWN not in raw:
        for convert in (_names, _batches, _steps, _targets, _choices):
            convert(raw, notes)
    values: dict[str, Value] = {}
    for key, value in raw.items():
        if key in _GONE and _OWN not in content:
            continue
        try:
            if key not in PARAMETERS:
                notes.append(_note(f"{key} is not known and was left out.", f"未知参数 {key}，已忽略。", key))
            else:
                values[key] = PARAMETERS[key].parse(value)
        except OptionError as error:
            notes.append(_left_out(error))
    return values, notes


def _left_out(error: WebUIError) -> Words:
    endings = {"en": " It was left out.", "zh": "已忽略。"}
    return {language: error.say(language) + ending for language, ending in endings.items()}


def _note(en: str, zh: str, *names: str) -> Words:
    """Return a sentence in which names from a file are shortened."""
    words = {"en": en, "zh": zh}
    for name in names:
        words = {language: text.replace(name, name[:60]) for language, text in words.items()}
    return words


def _names(raw: dict[str, object], notes: Notes) -> None:
    """Replace the original's word for nothing."""
    for key in ("dataset", "eval_dataset", "format", "raw_text_file"):
        if raw.get(key) == "None":
            raw[key] = ""


def _batches(raw: dict[str, object], notes: Notes) -> None:
    """Make the batch a multiple of the micro-batch, as the original computed it in effect."""
    batch, micro = _whole(raw, "batch_size"), _whole(raw, "micro_batch_size")
    if not batch or not micro:
        return
    effective = micro * max(batch // micro, 1)
    if effective != batch:
        raw["batch_size"] = effective
        notes.append(
            {
                "en": f"batch_size: {batch} is not a multiple of micro_batch_size {micro}; {effective} is used.",
                "zh": f"batch_size：{batch} 不是 micro_batch_size {micro} 的倍数，改用 {effective}。",
            }
        )


def _steps(raw: dict[str, object], notes: Notes) -> None:
    """Convert steps from micro-batches to updates."""
    batch, micro = _whole(raw, "batch_size"), _whole(raw, "micro_batch_size")
    accumulation = batch // micro if batch and micro else 1
    for key in _STEPS:
        steps = _whole(raw, key)
        if not steps or accumulation < 2:
            continue
        raw[key] = updates = math.ceil(steps / accumulation)
        notes.append(
            {
                "en": f"{key}: {steps} micro-batches became {updates} updates.",
                "zh": f"{key}：{steps} 个微批量换算为 {updates} 次更新。",
            }
        )


def _targets(raw: dict[str, object], notes: Notes) -> None:
    """Choose the modules of versions that had no box for all linear layers: at first q and v alone."""
    if "all_linear" in raw:
        return
    raw["all_linear"] = False
    if not any(f"{module}_en" in raw for module in TARGETS):
        raw["q_proj_en"] = raw["v_proj_en"] = True


def _choices(raw: dict[str, object], notes: Notes) -> None:
    """Convert choices that have other values here."""
    if isinstance(checkpointing := raw.get("gradient_checkpointing"), bool):
        raw["gradient_checkpointing"] = "on" if checkpointing else "off"
    if (optimizer := raw.get("optimizer")) in _OPTIMIZERS:
        raw["optimizer"] = "adamw_torch"
        notes.append(
            {
                "en": f"optimizer: {optimizer} is read as adamw_torch.",
                "zh": f"optimizer：{optimizer} 按 adamw_torch 处理。",
            }
        )
    if isinstance(raw.get("train_only_after"), str) and raw["train_only_after"]:
        raw["train_on"] = "after"
        notes.append(
            {
                "en": "train_only_after is applied here; the original trained the whole text in spite of it.",
                "zh": "train_only_after 在此生效；原版虽有此选项，实际仍训练全部文本。",
            }
        )


def _whole(raw: Mapping[str, object], key: str) -> int:
    """Return a positive whole number, 0 if it is something else."""
    try:
        value = PARAMETERS[key].parse(raw.get(key))
    except OptionError:
        return 0
    return int(value) if isinstance(value, (int, float)) and value == int(value) and value > 0 else 0
