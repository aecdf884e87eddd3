"""The candidates for one token, as llama.cpp's samplers take them."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)], align=True)
"""`llama_token_data` as a numpy dtype."""

Logits = NDArray[np.float32]
"""Logits of one row, shape [n_vocab]."""

_NOT_SELECTED = -1


class Candidates:
    """Token ids with their logits as llama.cpp's samplers take them: those reorder, remove and select."""

    def __init__(self, capacity: int) -> None:
        self._data = np.empty(capacity, CANDIDATE)
        self._array = native.llama_token_data_array()

    def __bool__(self) -> bool:
        """Tell whether any token is left with a finite logit."""
        return bool(np.isfinite(self.logits).any())

    def fill(self, logits: Logits, tokens: NDArray[np.int32] | None = None) -> None:
        """Take `logits` of shape [capacity] and the ids they belong to, by default 0, 1, …"""
        self._data["id"] = _token_ids(len(self._data)) if tokens is None else tokens
        self._data["logit"] = logits
        self._reset(len(self._data))

    @property
    def logits(self) -> Logits:
        """A view of the remaining logits, in the current order."""
        logits: Logits = self._data["logit"][: self._array.size]
        return logits

    def keep(self, indices: NDArray[np.intp]) -> None:
        """Keep only the candidates at `indices`, which must be sorted by logit, highest first."""
        self._data[: len(indices)] = self._data[indices]
        self._reset(len(indices), is_sorted=True)

    def apply(self, sampler: Any) -> None:
        native.llama_sampler_apply(sampler, ctypes.byref(self._array))

    @property
    def selected(self) -> int:
        """The token id that the last sampler selected."""
        # Read through llama.cpp's pointer, not `_data`: XTC moves the beginning of the array.
        return int(self._array.data[self._array.selected].id)

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probabilities of all tokens by the logits of those that are left, shape [capacity]."""
        address = ctypes.addressof(self._array.data.contents)  # not that of `_data`: see `selected`
        buffer: Any = (ctypes.c_char * (self._array.size * CANDIDATE.itemsize)).from_address(address)
        left = np.frombuffer(buffer, CANDIDATE)
        weights = np.exp(left["logit"].astype(np.float64) - left["logit"].max())
        chances = np.zeros(len(self._data))
        chances[left["id"]] = weights / weights.sum()
        return chances

    def _reset(self, size: int, is_sorted: bool = False) -> None:
        self._array.data = self._data.ctypes.data_as(native.llama_token_data_p)
        self._array.size = size
        self._array.selected = _NOT_SELECTED
        self._array.sorted = is_sorted


@lru_cache(maxsize=2)
def _token_ids(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)
