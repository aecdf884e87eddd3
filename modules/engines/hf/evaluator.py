"""The interface of a model to the transformers engine: logits from tokens, and caches to continue from."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.core.events import Logprob, TokenLogprobs
from modules.engines.hf.limits import PREFILL_CHUNK
from modules.engines.hf.token_text import TextTokenizer


class Interrupted(Exception):
    """A forward pass was aborted for a more urgent request. The cache may hold any part of the tokens evaluated."""


class PrefixFiles(Protocol):
    """Prefixes in files. A cache in them is one of `kv_cache`, of growable layers."""

    def read(self, tokens: Sequence[int], held: int) -> tuple[Any, int] | None:
        """Return a cache with more of `tokens` than `held`, and how many; None if no file has as many."""

    def save(self, prefixes: Sequence[tuple[list[int], Any]], seconds: float, at_end: bool) -> Iterator[None]:
        """Save those of the tokens with their caches that are worth it, in small steps, the first ones first.

        No cache may be changed between two steps. See `PromptSaver.save_prompts`.
        """


class PrefixStore(ABC):
    """The caches of ended answers, for requests whose prompt begins with the same tokens.

    What a cache is depends on the model; the engine only passes it around. A store that `can_save` takes prefixes from
    `files`, too, once it has them.
    """

    can_save = False
    files: PrefixFiles | None = None

    @abstractmethod
    def take(self, tokens: list[int]) -> tuple[Any, int]:
        """Return a cache and how many of `tokens` it holds; at least the last one is left to evaluate."""

    @abstractmethod
    def store(self, tokens: list[int], cache: Any) -> None:
        """Take back `cache`, which holds exactly `tokens`."""

    @abstractmethod
    def clear(self) -> None:
        """Drop all stored prefixes. No cache may be in use."""

    def save(self, seconds: float, at_end: bool) -> Iterator[None]:
        """Do as `PromptSaver.save_prompts`."""
        return iter(())

    def free_memory(self) -> bool:
        """Release the memory of stored prefixes for an answer in progress. False if there is none to release."""
        return False


class Evaluator(TextTokenizer, ABC):
    """A model with its tokenizer. One thread at a time, except for the tokenizer's methods and `interrupt`.

    Only the caches of a model that `can_batch` are those of `kv_cache`.
    """

    name: str
    """Name of the loader, for errors."""
    device: torch.device
    eos_tokens: frozenset[int]
    """Tokens that end an answer."""
    vocab_size: int
    """Number of logits, which may exceed the number of tokens of the tokenizer."""
    computes_all_logits = False
    """Whether a forward pass that is asked for more than the last logits computes those of all its tokens."""
    prefill_chunk = PREFILL_CHUNK
    """Tokens of a prompt that one forward pass evaluates."""
    can_batch = False
    """Whether answers of different lengths can be padded and decoded together."""
    can_guide = True
    """Whether a negative prompt can be evaluated beside an answer."""
    short_text: int | None = None
    """Tokens of a text beyond which it has other keys from its first token on, None if the length does not matter."""
    is_encoder_decoder = False
    """Whether an encoder reads the prompt and a decoder writes the answer, starting from `decoder_start_token`."""

    @abstractmethod
    def forward(self, tokens: Sequence[int], cache: Any, encoder_output: Any = None, last: int = 1) -> Tensor:
        """Evaluate `tokens` after those in `cache`; return float32 logits [last, vocabulary].

        The logits are those after the `last` tokens. `encoder_output` is what `run_encoder` returned for the prompt.
        """

    @abstractmethod
    def interrupt(self, requested: bool) -> None:
        """Abort calls of `forward_interruptible` from now on, until called with False. Any thread may call it."""

    @abstractmethod
    def forward_interruptible(
        self, tokens: Sequence[int], cache: Any, encoder_output: Any = None, last: int = 1
    ) -> Tensor:
        """Do as `forward` for many tokens. Raises Interrupted after `interrupt`."""

    @abstractmethod
    def new_prefix_store(self, max_bytes: int) -> PrefixStore:
        """Return an empty store that holds at most `max_bytes`."""

    @abstractmethod
    def truncate(self, cache: Any, length: int) -> tuple[Any, int]:
        """Drop the tokens after the first `length`. Return the cache to continue with and how many tokens it holds."""

    @abstractmethod
    def can_truncate(self, cache: Any) -> bool:
        """Return whether `truncate` keeps any length asked for."""

    def must_prefill_at_once(self, _cache: Any) -> bool:
        """Return whether several tokens in one pass are evaluated correctly only into an empty cache."""
        return False

    def long_text(self, is_long: bool) -> contextlib.AbstractContextManager[None]:
        """Have forward passes evaluate a part of a text beyond `short_text`, if `is_long`."""
        return contextlib.nullcontext()

    def is_long(self, tokens: Sequence[int]) -> bool:
        """Return whether these are the tokens of a text beyond `short_text`."""
        return self.short_text is not None and len(tokens) > self.short_text

    @property
    def window_chunk(self) -> int:
        """Tokens of a text that one forward pass evaluates for their log-likelihoods."""
        return self.prefill_chunk

    @property
    def used_tokens(self) -> int:
        """The number of tokens without the padding of the vocabulary."""
        return min(self.vocabulary_size, self.vocab_size)

    encoder_positions: int | None = None
    """Tokens of a prompt that an encoder reads at most, None for any number."""

    # -- models that batch, encoder-decoder models ------------------------------------------------------------------

    def forward_batch(self, tokens: Sequence[int], starts: Sequence[int], end: int, cache: Any) -> Tensor:
        """Evaluate one token for every row of a left-padded cache; return logits, float32 [batch, vocabulary].

        Row r of the cache holds tokens from position `starts[r]` up to, not including, `end`.
        """
        raise NotImplementedError

    def run_encoder(self, tokens: Sequence[int]) -> Any:
        """Return the encoder's output for a prompt."""
        raise NotImplementedError

    @property
    def decoder_start_token(self) -> int:
        """The token that the decoder's answer begins with."""
        raise NotImplementedError

    def new_cache(self) -> Any:
        """Return an empty cache."""
        raise NotImplementedError


def token_logprobs(tokenizer: TextTokenizer, logits: Tensor, token: int, top: int) -> TokenLogprobs:
    """Return the log-probability of `token` and the `top` most likely tokens.

    `logits` has shape [vocabulary] and comes from the model, before any sampler.
    """
    logprobs = logits.double().log_softmax(dim=-1)
    values, best = logprobs.topk(top)
    ranked = (_logprob(tokenizer, *pair) for pair in zip(best.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(_logprob(tokenizer, token, float(logprobs[token])), tuple(ranked))


def _logprob(tokenizer: TextTokenizer, token: int, logprob: float) -> Logprob:
    return Logprob(tokenizer.shown_text(token), round(logprob, 6), token)
