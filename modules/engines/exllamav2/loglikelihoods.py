"""The operation "loglikelihoods" of ExLlamav2: windows are evaluated between two steps, in a cache of their own.

The generator's cache belongs to its requests. A window has another one of the same class, so that what a quantized
cache costs shows, just as long as the window, and only for as long as it is evaluated.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch

from modules.core.events import Info, Json
from modules.core.worker_errors import GenerationFailed
from modules.engines.exllamav2.arguments import PAGE_SIZE, window_chunk
from modules.engines.exllamav2.build import create_cache
from modules.engines.hf.loglikelihoods import add_logits
from modules.engines.loglikelihoods import Window
from modules.engines.target_scores import TargetScores

NAME = "ExLlamav2"


class WindowEvaluator:
    """Evaluates windows by `model`, whose cache was made by the arguments `cache`. `loras` returns those to apply."""

    def __init__(
        self, model: Any, cache: Mapping[str, Json], info: Info, loras: Callable[[], Sequence[Any] | None]
    ) -> None:
        self._model, self._cache, self._info, self._loras = model, cache, info, loras
        self._vocabulary_size = int(model.config.vocab_size)

    def loglikelihoods(
        self, tokens: Sequence[int], first: int, keep: str = "", against: str = ""
    ) -> Generator[None, None, Json]:
        """See `engine_protocol.Operations`."""
        vocabulary = self._info.vocabulary_size
        window = Window(tokens, first, self._info.context_length, vocabulary, self._vocabulary_size)
        with TargetScores(NAME, window, vocabulary, keep, against) as scores:
            try:
                cache = self._cache_for(window)
                while not window.complete:
                    self._evaluate_piece(cache, scores)
                    yield
            except (RuntimeError, MemoryError, AssertionError) as error:
                traceback.print_exception(error)
                raise GenerationFailed(NAME, f"{type(error).__name__}: {error}") from error
            return scores.result()

    def _cache_for(self, window: Window) -> Any:
        cells = -(-len(window.tokens) // PAGE_SIZE) * PAGE_SIZE
        return create_cache(self._model, {**self._cache, "max_seq_len": cells, "lazy": False})

    def _evaluate_piece(self, cache: Any, scores: TargetScores) -> None:
        window = scores.window
        chunk = min(window_chunk(self._cache["class"]), window.max_rows)  # all tokens of a piece get logits
        tokens, targets = window.next_piece(cache.current_seq_len, chunk)
        ids = torch.tensor([tokens], dtype=torch.long)
        logits = self._model.forward(ids, cache, loras=self._loras(), preprocess_only=not targets)
        if targets:
            add_logits(scores, logits[0, -targets:, : self._vocabulary_size].float())
