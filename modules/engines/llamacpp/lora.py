"""LoRA adapters under llama.cpp, for both loaders that use it: GGUF files that it applies while it evaluates.

An adapter belongs to its model: freeing the model frees those that are left, and an adapter freed earlier is removed
from it. An applied adapter must not be freed: the context would not notice.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import DECODED, Model
from modules.engines.lora_set import PROBE, AdapterRefused


class LlamaAdapters:
    """The adapters of `model`. `clear_cache` drops everything that was evaluated, in the KV cache and in main memory.

    A handle is a `llama_adapter_lora` pointer. All methods run in the thread that decodes.
    """

    def __init__(self, model: Model, clear_cache: Callable[[], None]) -> None:
        self._model = model
        self._clear_cache = clear_cache

    def open(self, path: Path) -> Any:
        """Read a GGUF adapter without applying it. Raises AdapterRefused with llama.cpp's own message."""
        mark = len(self._model.log)
        handle = native.llama_adapter_lora_init(self._model.handle, os.fsencode(path))
        if not handle:
            raise AdapterRefused(self._model.log.errors_since(mark) or "llama.cpp gives no reason")
        return handle

    def close(self, handle: Any) -> None:
        native.llama_adapter_lora_free(handle)

    def activate(self, wanted: Sequence[tuple[Any, float]]) -> None:
        """Apply exactly these adapters with their weights from the next decode on. Raises AdapterRefused on failure."""
        self._clear_cache()
        weights: dict[int, tuple[Any, float]] = {}
        for handle, weight in wanted:  # llama.cpp would ignore a repeated adapter, so its weights are added up
            previous = weights[id(handle)][1] if id(handle) in weights else 0.0
            weights[id(handle)] = handle, previous + weight
        count = len(weights)
        handles = (native.llama_adapter_lora_p_ctypes * count)(*(handle for handle, _ in weights.values()))
        scales = (ctypes.c_float * count)(*(weight for _, weight in weights.values()))
        status = native.llama_set_adapters_lora(self._model.context, handles, count, scales)
        if status:
            raise AdapterRefused(f"llama_set_adapters_lora failed with status {status}")

    def probe(self) -> NDArray[np.float32]:
        """Return the logits after each token of the probe text, shape [tokens, vocabulary], from an empty cache."""
        self._clear_cache()
        vocabulary = self._model.vocabulary
        tokens = vocabulary.tokenize(PROBE, True)[: self._model.n_ctx]
        tokens = tokens or array("i", [vocabulary.filler_token])  # of a vocabulary without letters
        batch = Batch(min(self._model.n_batch, len(tokens)))
        try:
            chunks = range(0, len(tokens), batch.capacity)
            return np.concatenate([self._evaluate(batch, tokens[at : at + batch.capacity], at) for at in chunks])
        finally:
            self._clear_cache()

    def _evaluate(self, batch: Batch, tokens: array[int], begin: int) -> NDArray[np.float32]:
        """Return the logits after each of `tokens`, the first of which has position `begin`."""
        batch.clear()
        for position, token in enumerate(tokens, begin):
            batch.add_one(token, position, 0)
        status = self._model.decode(batch, interruptible=False)
        if status != DECODED:
            raise AdapterRefused(f"llama_decode failed with status {status}")
        return np.stack([self._model.logits(row) for row in range(len(tokens))])
