"""Compare how likely a model finds a text with one value of an option and with the other."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path

from modules.core.errors import Unsupported, WebUIError, Words
from modules.core.worker_errors import PromptTooLong, ReferenceNotStored, ReferenceUnusable
from modules.downloads.errors import DiskFull
from modules.evaluation.errors import KlImpossible, TextTooShort, WindowTooLong
from modules.evaluation.prepared import PreparedText, prepare_text
from modules.evaluation.price_result import PERPLEXITY, Effect
from modules.evaluation.request import EvaluationRequest
from modules.evaluation.scoring import Distributions, Scores, score
from modules.evaluation.statistics import Interval, compare, perplexity
from modules.evaluation.texts import EvaluationText
from modules.evaluation.windows import CHUNK_LENGTH, CHUNKS
from modules.runtime.loaded_model import LoadedModel

WINDOWS = 16
_NO_QUALITY = (TextTooShort, WindowTooLong, Unsupported, PromptTooLong)
_NO_KL = (KlImpossible, ReferenceUnusable, ReferenceNotStored, DiskFull)
_OTHER_TOKENS: Words = {
    "en": "The two cut the text into different tokens, so that only the perplexities are shown.",
    "zh": "两者对文本的分词不同，因此只显示各自的困惑度。",
}


class Quality:
    """Scores a text with the first model, then with the second, on the same 16 chunks of 512 tokens.

    What cannot be scored or compared is no failure: `problem` says why. Distributions are kept in `folder` until
    `close`.
    """

    def __init__(self, text: EvaluationText, folder: Path) -> None:
        self._text, self._folder = text, folder
        self._length = 0
        self._sides: list[tuple[PreparedText, Scores]] = []
        self._distributions: Distributions | None = None
        self.problem: Words = {}

    def add(self, model: LoadedModel) -> None:
        """Score the text with the next model. Raises what ends a worker."""
        if self.problem and not self._sides:
            return
        self._length = self._length or min(CHUNK_LENGTH, model.info.context_length)
        request = EvaluationRequest(self._text.name, (), CHUNKS, max_length=self._length, windows=WINDOWS)
        try:
            prepared = prepare_text(model, self._text, request)
            self._sides.append((prepared, self._score(model, prepared)))
        except _NO_QUALITY as error:
            self.problem = _words(error)

    def _score(self, model: LoadedModel, prepared: PreparedText) -> Scores:
        """Score all windows, with distributions if possible."""
        keep, against = None, self._distributions
        try:
            if not self._sides:
                keep = self._distributions = Distributions(self._folder, prepared, model.info.vocabulary_size)
            elif against is not None:
                against.check(prepared)
            return asyncio.run(score(model, prepared, _ignore, keep, against))
        except _NO_KL as error:
            self.problem = _words(error)
            self.close()
        return asyncio.run(score(model, prepared, _ignore))

    def close(self) -> None:
        """Delete the distributions."""
        if self._distributions is not None:
            self._distributions.close()
            self._distributions = None

    @property
    def tokens(self) -> int:
        """How many tokens the first model has scored."""
        return perplexity(self._sides[0][1].logprobs).tokens if self._sides else 0

    def effect(self) -> Effect | None:
        """Return both perplexities, and the change; None unless both are known."""
        if len(self._sides) < 2:
            return None
        (first, of_first), (second, of_second) = self._sides
        a, b = perplexity(of_first.logprobs).value, perplexity(of_second.logprobs).value
        change = Interval(math.nan, math.nan, math.nan)
        if first.windows_hash != second.windows_hash:
            self.problem = self.problem or _OTHER_TOKENS
        elif math.isfinite(a) and math.isfinite(b):
            change = compare(of_second.logprobs, of_first.logprobs)
        return Effect(PERPLEXITY, a, b, change)

    def divergence(self) -> Mapping[str, Interval]:
        """Return "kl" and "same_top"; nothing if the distributions were not compared."""
        found = self._sides[1][1].divergence if len(self._sides) == 2 else None
        return {} if found is None else {"kl": found.kl, "same_top": found.same_top}


def _words(error: WebUIError) -> Words:
    return {language: error.say(language) for language in ("en", "zh")}


def _ignore(_scores: Scores) -> None:
    """Progress is not shown within a load."""
