"""LoRAs under ExLlamaV2, for both loaders: its own class reads them, and its layers add them while they evaluate.

One that was read lies beside its layers and does nothing until it is named in a forward pass. Its weight is in its B
matrices, which are written anew whenever another one is wanted: the layers' kernels know them by their address.
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

from modules.engines.exllamav2.patches import in_the_layers_order
from modules.engines.hf.token_text import TextTokenizer
from modules.engines.lora_set import PROBE

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_REFUSED = (
    *("modules_to_save", "rank_pattern", "alpha_pattern", "use_dora", "trainable_token_indices", "target_parameters"),
    *("layer_replication", "fan_in_fan_out"),
)
"""What ExLlamaV2 0.3.2 would pass over in silence, or does not take."""


@dataclass(frozen=True, eq=False)
class Lora:
    """`trained` are its B matrices as they were read, by the tensor that the layers use."""

    native: Any
    trained: tuple[tuple[Tensor, Tensor], ...]


class ExLlamaAdapters:
    """`put_in` has exactly those act from then on, and what was computed before forgotten."""

    def __init__(self, model: Any, texts: TextTokenizer, put_in: Callable[[list[Any]], None]) -> None:
        self._model, self._texts, self._put_in = model, texts, put_in
        self._in_force: list[Any] = []
        self._open: set[Any] = set()

    def open(self, path: Path) -> Lora:
        """ValueError, in words, for what cannot be used here."""
        if not path.is_dir():
            raise ValueError("a GGUF adapter can be used with GGUF models only")
        config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        if given := [key for key in _REFUSED if config.get(key)]:
            raise ValueError(f"ExLlamaV2 has no {given[0]}")
        try:
            native = ExLlamaV2Lora(self._model, str(path / _CONFIG), str(path / _WEIGHTS), 1.0)
            _check(native)
            in_the_layers_order(self._model, native)
        except (RuntimeError, ValueError, KeyError, IndexError, AssertionError, OSError):
            self._tidy()
            raise
        self._open.add(native)
        scaled = [tensor for name, tensor in native.tensors.items() if ".lora_B." in name]
        return Lora(native, tuple((tensor, tensor.clone()) for tensor in scaled))

    def close(self, handle: Lora) -> None:
        self._open.discard(handle.native)
        handle.native.unload()

    def activate(self, wanted: Sequence[tuple[Lora, float]]) -> None:
        weights: dict[Lora, float] = {}
        for lora, weight in wanted:
            weights[lora] = weights.get(lora, 0.0) + weight
        with torch.inference_mode():
            for lora, weight in weights.items():
                for used, trained in lora.trained:
                    used.copy_(trained * weight)
        self._in_force = [lora.native for lora in weights]
        self._put_in(self._in_force)

    def probe(self) -> NDArray[np.float32]:
        config = self._model.config
        tokens = self._texts.encode(PROBE)[: min(config.max_seq_len, config.max_input_len)] or [0]
        logits = self._model.forward(torch.tensor([tokens]), loras=self._in_force or None)
        found: NDArray[np.float32] = logits[0, :, : config.vocab_size].float().cpu().numpy()
        return found

    def _tidy(self) -> None:
        """Take out what an adapter that was refused half-way has left in the layers."""
        for module in self._model.modules_dict.values():
            for tensors in (getattr(module, "lora_a_tensors", {}), getattr(module, "lora_b_tensors", {})):
                for stranger in [each for each in tensors if each not in self._open]:
                    del tensors[stranger]
        self._model.update_loras()


def _check(lora: Any) -> None:
    """Its two halves, and nothing that ExLlamaV2 would take of the first adapter only, whatever its weight."""
    if lora.lm_head is not None or lora.embed_tokens is not None:
        raise ValueError("it brings an output or embeddings of its own, which cannot be weighted or added up")
    halves = {half: {name.partition(f".lora_{half}.")[0] for name in lora.tensors if f".lora_{half}." in name}
              for half in "AB"}  # fmt: skip
    if alone := halves["A"] ^ halves["B"]:
        raise ValueError(f"the tensor A or B of {min(alone)} is missing")
    if not lora.tensors:
        raise ValueError("there are no tensors in it")
