"""The steps after the model of an embedding model, as sentence-transformers writes them into its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.core.errors import Unsupported
from modules.formats.embedding import PIPELINE, PIPELINE_SETTINGS

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}
_STEPS = ("Transformer", "Pooling", "Dense", "Normalize")
_SENTENCE_LENGTHS = "sentence_bert_config.json"
_SETTINGS = "config.json"


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer after the pooling: the file of its weights, and the class of its activation."""

    weights: Path
    activation: str


@dataclass(frozen=True)
class EmbeddingSteps:
    """`pooling` is "cls", "mean", "lasttoken" or "max"; `longest` the tokens of a text at most, 0 if not stated.

    `prompts` are texts to put before the input, by name. Vectors are normalized whether the files say so or not.
    """

    pooling: str = "mean"
    dense: tuple[DenseLayer, ...] = ()
    longest: int = 0
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""

    @staticmethod
    def read(folder: Path) -> EmbeddingSteps:
        """Read the steps of the model in `folder`. Raises Unsupported for one that is not known here."""
        pooling, dense = "mean", []
        for module in _modules(folder):
            kind = str(module.get("type", "")).rpartition(".")[2]
            path = folder / Path(str(module.get("path", ""))).name
            if kind not in _STEPS:
                raise _unsupported(kind)
            if kind == "Pooling":
                pooling = _pooling(_object(path / _SETTINGS))
            if kind == "Dense":
                activation = str(_object(path / _SETTINGS).get("activation_function", "Tanh")).rpartition(".")[2]
                dense.append(DenseLayer(path / "model.safetensors", activation))
        settings, lengths = _object(folder / PIPELINE_SETTINGS), _object(folder / _SENTENCE_LENGTHS)
        prompts = settings.get("prompts")
        named = {str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, dict) else {}
        default = str(settings.get("default_prompt_name") or "")
        longest = lengths.get("max_seq_length")
        return EmbeddingSteps(
            pooling,
            tuple(dense),
            longest if isinstance(longest, int) else 0,
            named,
            default if default in named else "",
        )


def _pooling(settings: Mapping[str, Any]) -> str:
    modes = [mode for key, mode in _POOLINGS.items() if settings.get(key) is True]
    stated = settings.get("pooling_mode")  # newer than the flags
    if isinstance(stated, str) and stated in _POOLINGS.values():
        modes = [stated]
    others = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    if len(modes) != 1 or len(others) > 1:
        raise _unsupported(str(stated or ", ".join(others) or "Pooling"))
    return modes[0]


def _unsupported(step: str) -> Unsupported:
    return Unsupported(
        {
            "en": f"This embedding model has a step that is not supported: {step}. A GGUF file of it may work.",
            "zh": f"此嵌入模型含有不支持的步骤：{step}。可以试试它的 GGUF 版本。",
        }
    )


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    content = _read(folder / PIPELINE)
    return [module for module in content if isinstance(module, dict)] if isinstance(content, list) else []


def _object(path: Path) -> Mapping[str, Any]:
    content = _read(path)
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> object:
    """Return the content of a JSON file; None for one that is missing or damaged."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content
