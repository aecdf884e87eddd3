"""Answers that are written together: one row each in a common cache, one token each in every forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from modules.engines.hf.kv_cache import merged, row
from modules.engines.hf.token_text import Evaluator


@dataclass(eq=False)
class Passage:
    """Tokens of which the first `evaluated` are in the cache; `source` is what a model that writes apart has read."""

    tokens: list[int]
    cache: Any
    evaluated: int = 0
    source: Any = None

    @property
    def left(self) -> int:
        return len(self.tokens) - self.evaluated


@dataclass(eq=False)
class Batch:
    """Every passage in it has one token left to evaluate. One alone has its own cache, and nothing is copied for it."""

    model: Evaluator
    passages: list[Passage] = field(default_factory=list)
    _cache: Any = None
    _starts: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.passages)

    def add(self, passage: Passage) -> None:
        self._join([*self._apart(copies=False), passage.cache], [*self.passages, passage])

    def remove(self, leaving: Sequence[Passage]) -> None:
        """Let go of them, each with a cache of its own again."""
        if not leaving:
            return
        alone = len(self.passages) == 1
        caches = self._apart(copies=False)
        staying = []
        for place, (passage, cache) in enumerate(zip(self.passages, caches, strict=True)):
            if passage not in leaving:
                staying.append((cache, passage))
            else:
                passage.cache = cache if alone else row(self._cache, place, self._starts[place], copy=True)
        self._join([cache for cache, _ in staying], [passage for _, passage in staying])

    def forward(self) -> Tensor:
        """Evaluate the last token of each; the logits after it, shape (passages, size)."""
        tokens = [passage.tokens[-1] for passage in self.passages]
        if len(self.passages) == 1:
            logits = self.model.forward(tokens, self._cache, self.passages[0].source)
        else:
            end = self._starts[0] + self.passages[0].evaluated
            logits = self.model.forward_padded(tokens, self._starts, end, self._cache)
        for passage in self.passages:
            passage.evaluated += 1
        return logits

    def forward_guesses(self, guesses: Sequence[int]) -> Tensor:
        """Only for one alone: evaluate its last token and, as if they were drawn after it, `guesses`.

        The logits after each of these, shape (guesses + 1, size). `keep` then tells how many were right.
        """
        (passage,) = self.passages
        logits = self.model.forward([passage.tokens[-1], *guesses], self._cache, last=len(guesses) + 1)
        passage.evaluated += len(guesses) + 1
        return logits

    def keep(self, length: int) -> None:
        """Only for one alone: forget what was evaluated beyond so many of its tokens."""
        (passage,) = self.passages
        _, passage.evaluated = self.model.cut_back(self._cache, min(passage.evaluated, length))

    def go_back(self) -> bool:
        """Have the cache hold what it held before a pass that broke off. False if it cannot."""
        held = self._starts[0] + self.passages[0].evaluated
        return self.model.can_cut(self._cache) and self.model.cut_back(self._cache, held)[1] == held

    @property
    def can_guess(self) -> bool:
        return len(self.passages) == 1 and self.model.can_cut(self._cache)

    def _apart(self, copies: bool) -> list[Any]:
        if len(self.passages) <= 1:
            return [self._cache] * len(self.passages)
        return [row(self._cache, place, start, copies) for place, start in enumerate(self._starts)]

    def _join(self, caches: Sequence[Any], passages: list[Passage]) -> None:
        self.passages = passages
        if len(passages) > 1:
            self._cache, self._starts = merged(caches, [passage.evaluated for passage in passages])
        else:
            self._cache, self._starts = (caches[0] if passages else None), [0]
