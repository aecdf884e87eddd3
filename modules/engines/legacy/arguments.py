"""The common part of AutoGPTQ and AutoAWQ: their packages are no longer maintained, and load in the same way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.core.errors import Words
from modules.core.events import Json, Note
from modules.engines.hf.arguments import (
    TOKENIZER,
    Environment,
    ModelConfig,
    has_memory_limits,
    memory_limits,
    runs_on_cpu,
)
from modules.engines.legacy.config_json import legacy_config
from modules.formats.remote_code import class_in_other_repository
from modules.formats.transformers4 import (
    BACKENDS,
    Inexpressible,
    differences,
    is_version_5_tokenizer,
    not_read,
    tokenizer_arguments,
)
from modules.options.option import Value

CONFIG_JSON = "config.json"
"""The keys of config.json that Transformers 4.51 has to read otherwise, in the order of `arguments`."""
FAST_TOKENIZER = "PreTrainedTokenizerFast.from_pretrained"
SUFFIXES = (".safetensors", ".pt", ".bin")
_NOT_WEIGHTS = ("adapter_", "consolidated", "optimizer", "scheduler", "training_args")


def is_spread(options: Mapping[str, Value], on_cpu: bool) -> bool:
    """Whether accelerate distributes the layers over the devices, instead of one device taking all."""
    return has_memory_limits(options, on_cpu) or (not on_cpu and bool(options["auto_devices"]))


@dataclass(frozen=True)
class LegacyPlan:
    """The meaning of the options for one model in one environment. `arguments` and the notes both read it."""

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

    # -- files that Transformers 5 wrote ------------------------------------------------------------------------------

    @property
    def config_changes(self) -> dict[str, Json]:
        """Return what Transformers 4.51 reads instead of config.json's own values, as a call; empty if nothing."""
        try:
            changes = differences(self.model_config.fields, legacy_config(self.model_config.fields))
        except Inexpressible:
            return {}  # the load is refused: see `incompatibility`
        return {CONFIG_JSON: changes} if changes else {}

    @cached_property
    def incompatibility(self) -> Words | None:
        """Return why the package cannot load the model in this environment, before any weights are read."""
        try:
            legacy_config(self.model_config.fields)
        except Inexpressible as error:
            return inexpressible("config.json", error.key)
        name = str(self.tokenizer_config.get("tokenizer_class", ""))
        if name in BACKENDS and not self.has_tokenizer_json:
            return inexpressible("tokenizer_config.json", f"tokenizer_class={name}")
        return None

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return read_json(self.path / "tokenizer_config.json")

    @property
    def has_tokenizer_json(self) -> bool:
        return (self.path / "tokenizer.json").is_file()

    @property
    def uses_tokenizer_json(self) -> bool:
        """Whether the tokenizer is loaded from tokenizer.json alone.

        Transformers 5 saves everything in there. Transformers 4.51 does not know the class, or one of the same name
        would add a beginning-of-text token of its own.
        """
        own_class = "auto_map" in self.tokenizer_config
        return is_version_5_tokenizer(self.tokenizer_config) and self.has_tokenizer_json and not own_class

    @property
    def tokenizer(self) -> dict[str, Json]:
        """Return the call that loads the tokenizer, with its arguments."""
        arguments: dict[str, Json] = {
            "pretrained_model_name_or_path": str(self.path),
            "trust_remote_code": self.trusted,
            "local_files_only": True,
            **tokenizer_arguments(self.tokenizer_config),
        }
        if self.uses_tokenizer_json:
            return {FAST_TOKENIZER: arguments}
        return {TOKENIZER: {**arguments, "use_fast": not self.options["no_use_fast"]}}

    @property
    def has_only_fast_tokenizer(self) -> bool:
        """Whether Transformers has no other tokenizer for the model than the one in tokenizer.json."""
        return self.uses_tokenizer_json or str(self.tokenizer_config.get("tokenizer_class", "")).endswith("Fast")


def inexpressible(file: str, key: str) -> Words:
    """Explain that Transformers 4.51 cannot do what `key` in a model's `file` says."""
    return not_read(file, key, "Transformers 4.51")


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
