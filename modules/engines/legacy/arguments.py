"""What the plans of AutoGPTQ and AutoAWQ have in common: both packages are of one time, and load in one manner."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.events import Json, Note
from modules.engines.hf.arguments import About, Machine, memory_limits
from modules.formats.remote_code import code_elsewhere
from modules.options.option import Value

SUFFIXES = (".safetensors", ".pt", ".bin")
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")


@dataclass(frozen=True)
class LegacyPlan:
    """What becomes of the options for one model on one machine; `arguments` and the notes tell the same by it."""

    path: Path
    options: Mapping[str, Value]
    machine: Machine

    @cached_property
    def about(self) -> About:
        return About(self.path)

    @property
    def on_cpu(self) -> bool:
        return bool(self.options.get("cpu")) or not self.machine.gpus

    @property
    def trusted(self) -> bool:
        return bool(self.options["trust_remote_code"]) and not code_elsewhere(self.path)

    @property
    def limited(self) -> bool:
        return bool(self.options["cpu_memory"] or (self.options["gpu_memory"] and not self.on_cpu))

    @property
    def spreads(self) -> bool:
        return self.limited or (not self.on_cpu and bool(self.options["auto_devices"]))

    @property
    def limits(self) -> dict[str, int]:
        return memory_limits(self.options, self.machine, self.on_cpu)

    @property
    def device_map(self) -> Json:
        return "auto" if self.spreads else {"": "cpu" if self.on_cpu else 0}

    @property
    def tokenizer(self) -> dict[str, Json]:
        """The call that loads it."""
        return {
            "pretrained_model_name_or_path": str(self.path),
            "trust_remote_code": self.trusted,
            "local_files_only": True,
            "use_fast": not self.options["no_use_fast"],
        }

    @property
    def tokenizer_is_fast(self) -> bool:
        """Whether transformers has no other for it than the one in tokenizer.json."""
        return str(read_json(self.path / "tokenizer_config.json").get("tokenizer_class", "")).endswith("Fast")


def of_tokenizer(plan: LegacyPlan) -> Iterator[Note]:
    if plan.options["no_use_fast"] and plan.tokenizer_is_fast:
        yield Note(
            "no_use_fast",
            {
                "en": "No effect: this model comes with the fast tokenizer only.",
                "zh": "无效：此模型只附带快速词符化器。",
            },
        )


def triton_wheel() -> str:
    """What pip knows Triton by: OpenAI's own is for Linux alone."""
    return "triton-windows" if sys.platform == "win32" else "triton"


def weights(path: Path, suffix: str) -> list[Path]:
    """The weight files of that kind, in order."""
    return sorted(file for file in path.glob(f"*{suffix}") if not file.name.startswith(_NOT_WEIGHTS))


def read_json(path: Path) -> dict[str, Any]:
    """Nothing of a file that is not there or holds no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
