"""The batch of tokens that one `llama_decode` evaluates."""

from __future__ import annotations

import ctypes
from array import array
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

_INT32_BYTES = 4


class Batch:
    """At most `capacity` tokens, each of one sequence. Allocated once, filled many times.

    `handle` is the `llama_batch`. Its columns are numpy arrays of shape [capacity], which live as long as the batch.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tokens, self._positions, self._sequences = (np.zeros(capacity, np.int32) for _ in range(3))
        self._wants_logits = np.zeros(capacity, np.int8)
        self._sequence_counts = np.ones(capacity, np.int32)
        # llama.cpp takes a list of sequences per token: each is a pointer to the token's one entry in `_sequences`.
        self._sequence_lists = self._sequences.ctypes.data + _INT32_BYTES * np.arange(capacity, dtype=np.uintp)
        fields = dict(native.llama_batch._fields_)
        columns: dict[str, NDArray[Any]] = {
            "token": self._tokens,
            "pos": self._positions,
            "n_seq_id": self._sequence_counts,
            "seq_id": self._sequence_lists,
            "logits": self._wants_logits,
        }
        pointers = {name: ctypes.cast(column.ctypes.data, fields[name]) for name, column in columns.items()}
        self.handle = native.llama_batch(n_tokens=0, **pointers)
        self._token, self._position, self._wants = pointers["token"], pointers["pos"], pointers["logits"]
        self._sequence = ctypes.cast(self._sequences.ctypes.data, fields["token"])
        self.outputs = 0
        """How many of the tokens ask for logits, which is the number of rows that `llama_decode` computes."""

    def __len__(self) -> int:
        return int(self.handle.n_tokens)

    def clear(self) -> None:
        self.handle.n_tokens = 0
        self.outputs = 0

    def add(self, tokens: array[int], position: int, sequence: int, wants_logits: bool) -> int:
        """Append `tokens` at `position` and the following ones of `sequence`.

        Return the row that the logits after the last of them will have, -1 if `wants_logits` is false.
        """
        begin, end = len(self), len(self) + len(tokens)
        self._tokens[begin:end] = tokens
        self._positions[begin:end] = range(position, position + len(tokens))
        self._sequences[begin:end] = sequence
        self._wants_logits[begin:end] = 0
        self._wants_logits[end - 1] = wants_logits
        self.handle.n_tokens = end
        self.outputs += wants_logits
        return self.outputs - 1 if wants_logits else -1

    def add_outputs(self, tokens: array[int], position: int, sequence: int) -> None:
        """Append `tokens` as `add` does, all of which want a result: what vectors are pooled of."""
        begin = len(self)
        self.add(tokens, position, sequence, wants_logits=False)
        self._wants_logits[begin : len(self)] = 1
        self.outputs += len(tokens)

    def add_one(self, token: int, position: int, sequence: int) -> int:
        """Append one token that wants logits, and return their row.

        It writes through ctypes pointers, which takes a tenth of the time of `add`: it runs once per generated token.
        """
        handle = self.handle
        index: int = handle.n_tokens
        self._token[index], self._position[index], self._wants[index] = token, position, 1
        self._sequence[index] = sequence
        handle.n_tokens = index + 1
        self.outputs += 1
        return self.outputs - 1
