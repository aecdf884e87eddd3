"""Answers that are decoded together: one row each of a common KV cache, one token each in every forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from modules.engines.hf.evaluator import Evaluator, PrefixStore
from modules.engines.hf.kv_cache import extract_row, merge_rows


@dataclass(eq=False)
class TokenSequence:
    """Tokens of which the first `evaluated` are in the cache.

    `encoder_output` is what the encoder of an encoder-decoder model returned for the prompt. `is_long` says that the
    cache is that of a text beyond `Evaluator.short_text`.
    """

    tokens: list[int]
    cache: Any
    evaluated: int = 0
    encoder_output: Any = None
    is_long: bool = False

    @property
    def remaining(self) -> int:
        """Number of tokens still to evaluate."""
        return len(self.tokens) - self.evaluated

    def take_prefix(self, store: PrefixStore, model: Evaluator, most: int | None = None) -> None:
        """Take a cache from `store`, which may hold some of the first `most` tokens."""
        self.is_long = model.is_long(self.tokens)
        self.cache, self.evaluated = store.take(self._keys(most))

    def store_prefix(self, store: PrefixStore) -> None:
        store.store(self._keys(self.evaluated), self.cache)

    def _keys(self, count: int | None) -> list[int]:
        """Return what stands for the first `count` tokens in a store: other numbers if the cache is a long text's."""
        return [-1 - token for token in self.tokens[:count]] if self.is_long else self.tokens[:count]


@dataclass(eq=False)
class Batch:
    """Sequences with one token left to evaluate. A sequence alone keeps its own cache, and nothing is copied for it."""

    model: Evaluator
    sequences: list[TokenSequence] = field(default_factory=list)
    _cache: Any = None
    _starts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sequences)

    def add(self, sequence: TokenSequence) -> None:
        self._merge([*self._row_views(), sequence.cache], [*self.sequences, sequence])

    def remove(self, leaving: Sequence[TokenSequence]) -> None:
        """Remove the sequences and give them caches of their own again."""
        if not leaving:
            return
        alone = len(self.sequences) == 1
        caches = self._row_views()
        staying = []
        for row, (sequence, cache) in enumerate(zip(self.sequences, caches, strict=True)):
            if sequence not in leaving:
                staying.append((cache, sequence))
            else:
                sequence.cache = cache if alone else extract_row(self._cache, row, self._starts[row], copy=True)
        self._merge([cache for cache, _ in staying], [sequence for _, sequence in staying])

    def forward(self) -> Tensor:
        """Evaluate the last token of every sequence; return the logits after it, float32 [batch, vocabulary]."""
        tokens = [sequence.tokens[-1] for sequence in self.sequences]
        if len(self.sequences) == 1:
            logits = self.model.forward(tokens, self._cache, self.sequences[0].encoder_output)
        else:
            end = self._starts[0] + self.sequences[0].evaluated
            logits = self.model.forward_batch(tokens, self._starts, end, self._cache)
        for sequence in self.sequences:
            sequence.evaluated += 1
        return logits

    def forward_draft(self, draft: Sequence[int]) -> Tensor:
        """Evaluate the last token of the only sequence and the draft tokens after it.

        Return the logits after each of them, float32 [draft + 1, vocabulary]. Call `truncate` once it is clear how many
        draft tokens were right.
        """
        (sequence,) = self.sequences
        logits = self.model.forward([sequence.tokens[-1], *draft], self._cache, last=len(draft) + 1)
        sequence.evaluated += len(draft) + 1
        return logits

    def truncate(self, length: int) -> None:
        """Drop what was evaluated of the only sequence beyond its first `length` tokens."""
        (sequence,) = self.sequences
        _, sequence.evaluated = self.model.truncate(self._cache, min(sequence.evaluated, length))

    def roll_back(self) -> bool:
        """Restore the cache after a forward pass that failed. False if that is impossible."""
        length = self._starts[0] + self.sequences[0].evaluated
        return self.model.can_truncate(self._cache) and self.model.truncate(self._cache, length)[1] == length

    @property
    def can_verify_draft(self) -> bool:
        return len(self.sequences) == 1 and self.model.can_truncate(self._cache)

    def _row_views(self) -> list[Any]:
        if len(self.sequences) <= 1:
            return [self._cache] * len(self.sequences)
        return [extract_row(self._cache, row, start, copy=False) for row, start in enumerate(self._starts)]

    def _merge(self, caches: Sequence[Any], sequences: list[TokenSequence]) -> None:
        self.sequences = sequences
        if len(sequences) > 1:
            self._cache, self._starts = merge_rows(caches, [sequence.evaluated for sequence in sequences])
        else:
            self._cache, self._starts = (caches[0] if sequences else None), [0]
