"""Read states of llama.cpp from saved prompts."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from modules.engines.llamacpp.bindings import Model
from modules.engines.prompt_cache.prompt_file import DamagedFile
from modules.engines.prompt_cache.store import PromptStore

MAX_READ_BESIDE_OTHERS = 512 << 20
"""Largest state, in bytes, that is read from a file while other requests run, which wait for that."""


def read_state(
    store: PromptStore, model: Model, tokens: array[int], held: int, beside_others: bool
) -> tuple[array[int], NDArray[np.uint8]] | None:
    """Return the saved prompt with more of `tokens` at its beginning than `held`: its tokens and its state [bytes].

    None if there is none that fits `model`, or if it cannot be read.
    """
    prompt = store.find(tokens, held, model.can_truncate)
    if prompt is None or len(prompt.tokens) > model.n_ctx:
        return None
    if beside_others and prompt.header.size > MAX_READ_BESIDE_OTHERS:
        return None
    try:
        state = np.empty(prompt.header.size, np.uint8)
        with store.reading(prompt) as reader:
            reader.read_into(state.data)
    except (DamagedFile, MemoryError):
        return None
    return prompt.tokens[:], state
