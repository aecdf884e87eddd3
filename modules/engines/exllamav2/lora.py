"""LoRA adapters under ExLlamaV2, for both loaders: its own class reads them, and its layers apply them.

An adapter that has been read is attached to its layers and does nothing until a forward pass names it. Its weight is
multiplied into its B matrices, in place whenever the weight changes: the layers' kernels hold their addresses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exllamav2 import ExLlamaV2Lora
from numpy.typing import NDArray
from torch import Tensor

from modules.engines.exllamav2.patches import permute_lora
from modules.engines.hf.token_text import TextTokenizer
from modules.engines.lora_set import PROBE
from modules.formats.peft_features import EXLLAMAV2, unsupported_features, used_features

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter: ExLlamaV2's object, and pairs of a B matrix in use and a copy of it as it was trained."""

    native: Any
    trained: tuple[tuple[Tensor, Tensor], ...]


class ExLlamaAdapters:
    """The adapters of `model`. `set_active` names the adapters of later forward passes and empties the caches."""

    def __init__(self, model: Any, texts: TextTokenizer, set_active: Callable[[list[Any]], None]) -> None:
        self._model, self._texts, self._set_active = model, texts, set_active
        self._active: list[Any] = []
        self._open: set[Any] = set()

    def open(self, path: Path) -> Lora:
        """Read an adapter folder and attach it to the layers. Raises ValueError with the reason if it is unusable."""
        if not path.is_dir():
            raise ValueError("a GGUF adapter can be used with GGUF models only")
        config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        if unsupported := unsupported_features(used_features(config), EXLLAMAV2):
            raise ValueError(f"ExLlamaV2 does not support {unsupported[0]}")
        try:
            native = ExLlamaV2Lora(self._model, str(path / _CONFIG), str(path / _WEIGHTS), 1.0)
            _check_tensors(native)
            permute_lora(self._model, native)
        except (RuntimeError, ValueError, KeyError, IndexError, AssertionError, OSError):
            self._detach_leftovers()
            raise
        self._open.add(native)
        scaled = [tensor for name, tensor in native.tensors.items() if ".lora_B." in name]
        return Lora(native, tuple((tensor, tensor.clone()) for tensor in scaled))

    def close(self, handle: Lora) -> None:
        self._open.discard(handle.native)
        handle.native.unload()

    def activate(self, wanted: Sequence[tuple[Lora, float]]) -> None:
        """Apply exactly these adapters with their weights; weights of a repeated adapter add up."""
        weights: dict[Lora, float] = {}
        for lora, weight in wanted:
            weights[lora] = weights.get(lora, 0.0) + weight
        with torch.inference_mode():
            for lora, weight in weights.items():
                for used, trained in lora.trained:
                    used.copy_(trained * weight)
        self._active = [lora.native for lora in weights]
        self._set_active(self._active)

    def probe(self) -> NDArray[np.float32]:
        """Return the logits after each token of the probe text, shape [tokens, vocabulary]."""
        config = self._model.config
        tokens = self._texts.encode(PROBE)[: min(config.max_seq_len, config.max_input_len)] or [0]
        logits = self._model.forward(torch.tensor([tokens]), loras=self._active or None)
        array: NDArray[np.float32] = logits[0, :, : config.vocab_size].float().cpu().numpy()
        return array

    def _detach_leftovers(self) -> None:
        """Remove from the layers what an adapter that failed half-way has attached."""
        for module in self._model.modules_dict.values():
            for tensors in (getattr(module, "lora_a_tensors", {}), getattr(module, "lora_b_tensors", {})):
                for leftover in [adapter for adapter in tensors if adapter not in self._open]:
                    del tensors[leftover]
        self._model.update_loras()


def _check_tensors(lora: Any) -> None:
    """Raise ValueError unless the adapter has A and B of every layer and nothing that cannot be weighted.

    ExLlamaV2 would take output or embedding weights from the first adapter only, whatever its weight.
    """
    if lora.lm_head is not None or lora.embed_tokens is not None:
        raise ValueError("it has output or embedding weights of its own, which cannot be weighted or added up")
    halves = {half: {name.partition(f".lora_{half}.")[0] for name in lora.tensors if f".lora_{half}." in name}
              for half in "AB"}  # fmt: skip
    if incomplete := halves["A"] ^ halves["B"]:
        raise ValueError(f"the tensor A or B of {min(incomplete)} is missing")
    if not lora.tensors:
        raise ValueError("it contains no tensors")
