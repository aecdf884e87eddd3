"""One answer of ExLlamaV2's dynamic generator: its settings, its grammar, and a job that lets us look on."""

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

from modules.core.events import Json
from modules.engines.exllamav2.sampling import fields
from modules.engines.hf.sampling.grammar import Matcher
from modules.engines.hf.sampling.pipeline import NoTokenLeft, no_token_left
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.hf.token_text import TextTokenizer

FAULTS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AssertionError, NoTokenLeft)
"""What a sampler may throw."""


class Job(ExLlamaV2DynamicJob):  # type: ignore[misc]
    """`drawn` are its tokens, each with the logits that it was drawn from, before any sampler, if `looks` says so.

    What a sampler throws would end the others' answers too: it is caught and ends this one, with `fault`.
    """

    def __init__(self, looks: bool, ends: Sequence[int], **words: Any) -> None:
        super().__init__(stop_conditions=list(ends), **words)
        self._looks, self._ends = looks, ends
        self._plain: Tensor | None = None
        self.drawn: list[tuple[int, Tensor | None]] = []
        self.fault: str = ""

    def receive_logits(self, logits: Tensor) -> Any:
        """Shape (sequences, 1, size). The sampler writes into it, and threads call this for several jobs at once."""
        if self._looks:
            self._plain = logits[0, 0].clone()
        try:
            return super().receive_logits(logits)
        except FAULTS as error:
            self.fault = str(error) if isinstance(error, NoTokenLeft) else f"{type(error).__name__}: {error}"
            return torch.tensor([[min(self._ends, default=0)]]), none_tensor, none_tensor, torch.ones(1, 1), True

    def receive_sample(self, logits: Tensor, next_token: Tensor, *rest: Any) -> Any:
        self.drawn.append((int(next_token), self._plain))
        return super().receive_sample(logits, next_token, *rest)

    def continued(self, tokens: int) -> Job:
        """One that writes so many tokens more, as this one would have."""
        following = Job(
            self._looks,
            self._ends,
            input_ids=[each.sequence_ids.torch().clone() for each in self.sequences],
            max_new_tokens=tokens,
            min_new_tokens=max(self.min_new_tokens - self.new_tokens, 0),
            gen_settings=self.gen_settings,
            filters=self.filters,
        )
        following.rng = self.rng
        return following

    @property
    def cached(self) -> int:
        """Tokens of the prompt that need not be evaluated."""
        tokens: int = self.cached_pages * self.generator.page_size + self.cached_tokens
        return tokens // len(self.sequences)


def settings(
    params: Mapping[str, Json], texts: TextTokenizer, vocabulary: Vocabulary, ends: Sequence[int], size: int
) -> Any:
    """ExLlamaV2's. `size` is how many logits it is given, with those that only fill up. OptionError."""
    made = ExLlamaV2Sampler.Settings(**fields(params))
    if params["dry_multiplier"] > 0:
        made.dry_sequence_breakers = _breaking(vocabulary, params["dry_sequence_breakers"])
    if biases := _biases(params, texts, ends):
        made.token_bias = torch.zeros(size)
        made.token_bias[list(biases)] = torch.tensor(list(biases.values()))
    return made


@lru_cache(maxsize=4)
def _breaking(vocabulary: Vocabulary, texts: str) -> frozenset[int]:
    """The tokens that contain any of those quoted texts."""
    breakers = json.loads(f"[{texts}]")
    return frozenset(
        token for token, piece in enumerate(vocabulary.pieces) if any(breaker in piece for breaker in breakers)
    )


def _biases(params: Mapping[str, Json], texts: TextTokenizer, ends: Sequence[int]) -> dict[int, float]:
    """What is added to the logit of each token."""
    asked = {"logit_bias": {int(token): float(bias) for token, bias in params["logit_bias"]}}
    banned = [int(word) for word in params["custom_token_bans"].split(",") if word.strip()]
    asked["custom_token_bans"] = dict.fromkeys(banned, -math.inf)
    for name, biases in asked.items():
        for token in biases:
            texts.check_token(name, token)
    endless = dict.fromkeys(ends, -math.inf) if params["ban_eos_token"] else {}
    return asked["logit_bias"] | asked["custom_token_bans"] | endless


class GrammarFilter(ExLlamaV2Filter):  # type: ignore[misc]
    """Leaves within reach only what a grammar takes."""

    def __init__(self, model: Any, tokenizer: Any, matcher: Matcher) -> None:
        super().__init__(model, tokenizer)
        self._matcher = matcher
        self._ended = False

    def begin(self, prefix_str: str) -> None:
        """It is made for one answer, and at its beginning."""

    def feed(self, token: Tensor) -> None:
        self._ended = self._ended or not self._matcher.accept(int(token))

    def can_mask_logits(self) -> bool:
        return True

    def prepare_logit_mask(self) -> bool:
        return True

    def mask_logits(self, logits: Tensor) -> Tensor:
        """Shape (size,). NoTokenLeft."""
        if not self._ended:
            allowed = self._matcher.allowed()[: len(logits)]
            logits[: len(allowed)].masked_fill_(~allowed, -math.inf)
            logits[len(allowed) :] = -math.inf
        if not bool(logits.isfinite().any()):
            raise no_token_left(logits)
        return logits
