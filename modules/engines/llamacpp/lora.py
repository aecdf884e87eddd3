"""LoRAs under llama.cpp, for both loaders that use it: GGUF adapters that llama.cpp adds while it evaluates."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.engines.llamacpp import adapter as native
from modules.engines.llamacpp.bindings import DECODED, Batch, Model
from modules.engines.lora_set import PROBE, Refusal


class LlamaAdapters:
    """`forget` empties all that was evaluated: the cache of `model`, and what of it lies in main memory."""

    def __init__(self, model: Model, forget: Callable[[], None]) -> None:
        self._model = model
        self._forget = forget

    def open(self, path: Path) -> Any:
        return native.read(self._model, path)

    def close(self, handle: Any) -> None:
        native.free(handle)

    def put(self, wanted: Sequence[tuple[Any, float]]) -> None:
        self._forget()
        native.put_in_force(self._model, wanted)

    def probe(self) -> NDArray[np.float32]:
        self._forget()
        tokens = self._model.tokenize(PROBE, True)[: self._model.n_ctx]
        tokens = tokens or array("i", [max(self._model.bos, self._model.eos, 0)])  # of a vocabulary without letters
        batch = Batch(min(self._model.n_batch, len(tokens)))
        try:
            pieces = range(0, len(tokens), batch.capacity)
            return np.concatenate([self._read(batch, tokens[at : at + batch.capacity], at) for at in pieces])
        finally:
            self._forget()

    def _read(self, batch: Batch, tokens: array[int], place: int) -> NDArray[np.float32]:
        """The logits after each of `tokens`, which stand at `place`."""
        batch.clear()
        for number, token in enumerate(tokens, place):
            batch.add_one(token, number, 0)
        status = self._model.decode(batch, may_break_off=False)
        if status != DECODED:
            raise Refusal(f"llama_decode answered {status}")
        return np.stack([self._model.logits(row) for row in range(len(tokens))])
