"""Evaluations of perplexity, which take turns with other long work, whether or not a page is open."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from modules.evaluation.errors import EvaluationNotFound, TooManyEvaluations
from modules.evaluation.request import EvaluationRequest
from modules.evaluation.results import EvaluationResults
from modules.evaluation.run import EvaluationRun
from modules.evaluation.run_queue import RunQueue
from modules.evaluation.state import RunState
from modules.evaluation.subjects import SubjectLoader
from modules.evaluation.texts import EvaluationText, TextLibrary
from modules.evaluation.token_store import TokenStore
from modules.runtime.turns import Turns

_ABANDONED_SECONDS = 86_400.0


class EvaluationRuns(RunQueue[RunState]):
    """Starts, stops and remembers evaluations. Any thread may call.

    `cache` is a folder of this program for distributions that are compared; beside it are the `tokens` of results.
    """

    def __init__(
        self, texts: TextLibrary, loader: SubjectLoader, results: EvaluationResults, cache: Path, turns: Turns
    ) -> None:
        super().__init__("evaluations", turns, EvaluationNotFound, TooManyEvaluations)
        self.texts, self.results = texts, results
        self._loader, self._cache = loader, cache
        self.tokens = TokenStore(cache.with_name("tokens"))

    def start(self, request: EvaluationRequest, text: EvaluationText | None = None) -> str:
        """Queue an evaluation and return its id. Without `text`, it is the one of that name in the folder of texts.

        Raises TextNotFound, TextUnreadable, TooManyEvaluations, and what `SubjectLoader.check` raises.
        """
        text = text or self.texts.read(request.text)
        self._loader.check(request)
        run = EvaluationRun(request, text, self._loader, self.results, self.tokens, self._cache)
        return self._queue(run, {"en": f"the evaluation of {text.name}", "zh": f"“{text.name}”的评估"})

    def sweep(self) -> None:
        """Delete what killed evaluations have left behind, unless it is so young that another process may use it."""
        with contextlib.suppress(OSError):
            for folder in self._cache.iterdir():
                if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
