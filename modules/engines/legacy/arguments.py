"""What AutoGPTQ and AutoAWQ have in common: their packages are no longer maintained, and load in the same way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.events import Json, Note
from modules.engines.hf.arguments import Environment, ModelConfig, has_memory_limits, memory_limits, runs_on_cpu
from modules.formats.remote_code import class_in_other_repository
from modules.options.option import Value

SUFFIXES = (".safetensors", ".pt", ".bin")
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")


def is_spread(options: Mapping[str, Value], on_cpu: bool) -> bool:
    """Whether accelerate distributes the layers over the devices, instead of one device taking all."""
    return has_memory_limits(options, on_cpu) or (not on_cpu and bool(options["auto_devices"]))


@dataclass(frozen=True)
class LegacyPlan:
    """What the options mean for one model in one environment. `arguments` and the notes both read it."""

    path: Path
    options: Mapping[str, Value]
    environment: Environment

    @cached_property
    def model_config(self) -> ModelConfig:
        return ModelConfig(self.path)

    @property
    def on_cpu(self) -> bool:
        return runs_on_cpu(self.options, self.environment.gpus)

    @property
    def trusted(self) -> bool:
        return bool(self.options["trust_remote_code"]) and not class_in_other_repository(self.path)

    @property
    def limited(self) -> bool:
        return has_memory_limits(self.options, self.on_cpu)

    @property
    def spread(self) -> bool:
        return is_spread(self.options, self.on_cpu)

    @property
    def limits(self) -> dict[str, int]:
        return memory_limits(self.options, self.environment, self.on_cpu)

    @property
    def device_map(self) -> Json:
        return "auto" if self.spread else {"": "cpu" if self.on_cpu else 0}

    @property
    def tokenizer(self) -> dict[str, Json]:
        """Return the arguments of the call that loads the tokenizer."""
        return {
            "pretrained_model_name_or_path": str(self.path),
            "trust_remote_code": self.trusted,
            "local_files_only": True,
            "use_fast": not self.options["no_use_fast"],
        }

    @property
    def has_only_fast_tokenizer(self) -> bool:
        """Whether Transformers has no other tokenizer for the model than the one in tokenizer.json."""
        return str(read_json(self.path / "tokenizer_config.json").get("tokenizer_class", "")).endswith("Fast")


def tokenizer_notes(plan: LegacyPlan) -> Iterator[Note]:
    if plan.options["no_use_fast"] and plan.has_only_fast_tokenizer:
        yield Note(
            "no_use_fast",
            {
                "en": "No effect: this model comes with the fast tokenizer only.",
                "zh": "无效：此模型只附带快速词符化器。",
            },
        )


def triton_distribution() -> str:
    """Return the name under which pip finds Triton; OpenAI's own package is for Linux alone."""
    return "triton-windows" if sys.platform == "win32" else "triton"


def weight_files(folder: Path, suffix: str) -> list[Path]:
    """Return the weight files of that suffix, sorted by name."""
    return sorted(file for file in folder.glob(f"*{suffix}") if not file.name.startswith(_NOT_WEIGHTS))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
