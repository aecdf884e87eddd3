"""One job of ExLlamaV2's dynamic generator, with its sampler settings and its grammar."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from exllamav2.ext import none_tensor
from exllamav2.generator import ExLlamaV2DynamicJob, ExLlamaV2Sampler
from exllamav2.generator.filters import ExLlamaV2Filter
from torch import Tensor

from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.engines.exllamav2.sampling import settings_fields
from modules.engines.grammars import Matcher
from modules.engines.hf.sampling.pipeline import NoTokenLeft, no_token_left
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.time_limit import time_limit
from modules.engines.token_ids import logit_biases

SAMPLER_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError, NoTokenLeft, WebUIError)
"""What ExLlamaV2's sampler and a grammar may raise."""


class Job(ExLlamaV2DynamicJob):  # type: ignore[misc]
    """A job that records its tokens in `sampled`, with their logits before any sampler if it `keeps_logits`.

    With `return_top_tokens`, `likely` has so many of those that could be sampled last, and their probabilities. XTC,
    which is a matter of chance elsewhere, reduces probabilities here. An exception in the sampler would end the jobs of
    other requests too. It is caught and ends this one; `error` then holds it if it is one of ours, else its text.
    """

    def __init__(self, keeps_logits: bool, ends: Sequence[int], **arguments: Any) -> None:
        super().__init__(stop_conditions=list(ends), **arguments)
        self._keeps_logits, self._ends = keeps_logits, ends
        self._logits: Tensor | None = None
        self.sampled: list[tuple[int, Tensor | None]] = []
        self.likely: list[tuple[int, float]] = []
        self.error: str | WebUIError = ""

    def receive_logits(self, logits: Tensor) -> Any:
        """Sample from `logits`, shape [sequences, 1, padded vocabulary], which the sampler overwrites.

        The generator calls this for several jobs at once, from threads.
        """
        if self._keeps_logits:
            self._logits = logits[0, 0].clone()
        try:
            sample = super().receive_logits(logits)
        except SAMPLER_ERRORS as error:
            self.error = _words(error)
            return torch.tensor([[min(self._ends, default=0)]]), none_tensor, none_tensor, torch.ones(1, 1), True
        _, tokens, chances, *_ = sample
        if self.return_top_tokens:
            ranked = zip(tokens.flatten().tolist(), chances.flatten().tolist(), strict=True)
            self.likely = [(token, chance) for token, chance in ranked if chance > 0]
        return sample

    def receive_sample(self, logits: Tensor, next_token: Tensor, *rest: Any) -> Any:
        self.sampled.append((int(next_token), self._logits))
        return super().receive_sample(logits, next_token, *rest)

    def continuation(self, max_new_tokens: int) -> Job:
        """Return a job that samples the next `max_new_tokens` as this one would have."""
        following = Job(
            self._keeps_logits,
            self._ends,
            input_ids=[sequence.sequence_ids.torch().clone() for sequence in self.sequences],
            max_new_tokens=max_new_tokens,
            min_new_tokens=max(self.min_new_tokens - self.new_tokens, 0),
            gen_settings=self.gen_settings,
            filters=self.filters,
        )
        following.rng = self.rng
        return following

    @property
    def reused_tokens(self) -> int:
        """Tokens of the prompt that were in the cache."""
        tokens: int = self.cached_pages * self.generator.page_size + self.cached_tokens
        return tokens // len(self.sequences)


def _words(error: Exception) -> str | WebUIError:
    if isinstance(error, WebUIError):
        return error
    return str(error) if isinstance(error, NoTokenLeft) else f"{type(error).__name__}: {error}"


def sampler_settings(
    params: Mapping[str, Json], vocabulary: Vocabulary, vocabulary_size: int, ends: Sequence[int], logits: int
) -> Any:
    """Return ExLlamaV2's sampler settings. `logits` is the length of a row of logits, with its padding.

    Raises OptionError for what it lacks, and for token ids that are not below `vocabulary_size`.
    """
    settings = ExLlamaV2Sampler.Settings(**settings_fields(params))
    if params["dry_multiplier"] > 0:
        settings.dry_sequence_breakers = _breaker_tokens(vocabulary, params["dry_sequence_breakers"])
    if biases := logit_biases(params, vocabulary_size, ends):
        settings.token_bias = torch.zeros(logits)
        settings.token_bias[list(biases)] = torch.tensor(list(biases.values()))
    return settings


@lru_cache(maxsize=4)
def _breaker_tokens(vocabulary: Vocabulary, quoted_texts: str) -> frozenset[int]:
    """Return the tokens that contain any of the texts, which are the items of a JSON list."""
    breakers = json.loads(f"[{quoted_texts}]")
    return frozenset(
        token for token, piece in enumerate(vocabulary.pieces) if any(breaker in piece for breaker in breakers)
    )


class GrammarFilter(ExLlamaV2Filter):  # type: ignore[misc]
    """Restricts sampling to the tokens that a grammar allows. Made for one answer."""

    def __init__(self, model: Any, tokenizer: Any, matcher: Matcher) -> None:
        super().__init__(model, tokenizer)
        self._matcher = matcher
        self._ended = False

    def begin(self, prefix_str: str) -> None:
        """Do nothing: the matcher is at the beginning already."""

    def feed(self, token: Tensor) -> None:
        with time_limit():
            self._ended = self._ended or not self._matcher.accept(int(token))

    def can_mask_logits(self) -> bool:
        return True

    def prepare_logit_mask(self) -> bool:
        return True

    def mask_logits(self, logits: Tensor) -> Tensor:
        """Set the logits of forbidden tokens to -inf in place, shape [padded vocabulary]. Raises NoTokenLeft."""
        if not self._ended:
            with time_limit():
                allowed = torch.from_numpy(self._matcher.allowed()[: len(logits)])
            logits[: len(allowed)].masked_fill_(~allowed, -math.inf)
            logits[len(allowed) :] = -math.inf
        if not bool(logits.isfinite().any()):
            raise no_token_left(logits)
        return logits
