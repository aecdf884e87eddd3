"""Requests with pictures to the transformers engine: one at a time, beside the batch of the others.

A prompt with pictures is prefilled in one forward pass, which encodes them, and decoded in a cache of its own, because
its positions are not those of a text. The cache of the last one is kept: the next turn about the same pictures goes on
from it, and encodes nothing.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modules.core.errors import WebUIError
from modules.core.events import Event, Failed, Waiting
from modules.core.worker_errors import GenerationFailed
from modules.engines.hf import kv_cache
from modules.engines.hf.batch import TokenSequence
from modules.engines.hf.evaluator import Interrupted
from modules.engines.hf.generation import Generation
from modules.engines.hf.model import Model
from modules.engines.hf.vision import PromptImages
from modules.engines.repetition import max_cached_tokens
from modules.engines.token_ids import common_prefix_length

Emit = Callable[[Generation, Tensor], Generator[tuple[int, Event], None, bool]]
"""Sample a token from logits [1, vocabulary] and yield its events. Returns whether the answer ends with it."""


@dataclass(eq=False)
class ImageRequest:
    """A generation with its pictures. `shift` is what `Model.positions_shifted` takes, once they are in the cache."""

    generation: Generation
    images: PromptImages
    shift: Any = None
    admitted: bool = False


@dataclass(frozen=True)
class _Kept:
    """A cache, and by `PromptImages.cache_keys` what is in it."""

    keys: list[int]
    cache: Any
    shift: Any


class ImageRequests:
    """The queue of requests with pictures, of which the first one runs.

    `free_memory` releases caches of other answers, and returns False if there are none.
    """

    def __init__(self, model: Model, emit: Emit, free_memory: Callable[[], bool]) -> None:
        self._model, self._emit, self._free_memory = model, emit, free_memory
        self._queue: deque[ImageRequest] = deque()
        self._kept: _Kept | None = None

    @property
    def idle(self) -> bool:
        return not self._queue

    def add(self, generation: Generation, images: PromptImages) -> None:
        if self._queue:  # those that wait do with the pictures alone
            images.drop_inputs()
        self._queue.append(ImageRequest(generation, images))

    def cancel(self, call: int) -> None:
        for request in [queued for queued in self._queue if queued.generation.call == call]:
            self._end(request)

    def forget(self) -> None:
        """Drop the cache that is kept."""
        self._kept = None

    def step(self) -> Iterator[tuple[int, Event]]:
        """Evaluate the next part of the first request, and sample a token if its prompt is complete."""
        for position, request in enumerate(self._queue):
            if request.generation.queue_position != position:
                request.generation.queue_position = position
                yield request.generation.call, Waiting(position)
        if not self._queue:
            return
        request = self._queue[0]
        call = request.generation.call
        try:
            yield from self._advance(request)
        except WebUIError as error:
            self._queue.popleft()
            yield call, Failed(error)
        except (RuntimeError, MemoryError) as error:
            may_retry = isinstance(error, torch.OutOfMemoryError) and not request.generation.completion_tokens
            if may_retry and self._free_memory():
                self._restart(request)
                return
            traceback.print_exception(error)
            self._queue.popleft()  # without its cache, which is in an unknown state
            yield call, Failed(GenerationFailed(self._model.name, f"{type(error).__name__}: {error}"))

    def _advance(self, request: ImageRequest) -> Iterator[tuple[int, Event]]:
        if not request.admitted:
            self._admit(request)
        generation = request.generation
        is_prefill = not generation.completion_tokens
        logits = self._evaluate(request)
        if logits is None:
            return
        if generation.sequence.remaining:
            yield generation.call, generation.prefill_progress
            return
        if is_prefill:
            generation.end_prefill()
        ended = yield from self._emit(generation, logits)
        if ended:
            self._end(request)

    def _admit(self, request: ImageRequest) -> None:
        """Let a request go on from the cache that is kept, if that has all of its pictures."""
        generation, images = request.generation, request.images
        tokens, kept = list(generation.prompt), self._kept
        request.admitted, self._kept = True, None
        if kept is not None:
            keys = images.cache_keys(tokens)
            shared = min(common_prefix_length(kept.keys, keys), len(keys) - 1)
            limit = max_cached_tokens(generation.params)
            shared = shared if limit is None else min(shared, limit)
            if shared >= images.end(tokens) and kv_cache.crop(kept.cache, len(kept.keys) - shared):
                generation.sequence = TokenSequence(tokens, kept.cache, shared)
                generation.cached_tokens, request.shift = shared, kept.shift
                return
        generation.sequence = TokenSequence(tokens, self._model.new_cache())

    def _evaluate(self, request: ImageRequest) -> Tensor | None:
        """Return the logits after the next part of the sequence; None if the next step has to retry."""
        sequence = request.generation.sequence
        begin = sequence.evaluated
        try:
            if not begin:
                inputs = request.images.inputs(sequence.tokens)
                logits, request.shift = self._model.forward_images(inputs, sequence.cache)
                request.images.drop_inputs()
                sequence.evaluated = len(sequence.tokens)
                return logits
            end = min(begin + self._model.prefill_chunk, len(sequence.tokens))
            is_decode = bool(request.generation.completion_tokens)  # a step that is over in no time
            forward = self._model.forward if is_decode else self._model.forward_interruptible
            with self._model.positions_shifted(request.shift):
                logits = forward(sequence.tokens[begin:end], sequence.cache)
        except Interrupted:
            self._restart(request)
            return None
        sequence.evaluated = end
        return logits

    def _restart(self, request: ImageRequest) -> None:
        """Return to what was in the cache before a forward pass that did not end, or to an empty cache."""
        generation, sequence = request.generation, request.generation.sequence
        sequence.cache, sequence.evaluated = self._model.truncate(sequence.cache, sequence.evaluated)
        if not sequence.evaluated:
            generation.cached_tokens = 0

    def _end(self, request: ImageRequest) -> None:
        self._queue.remove(request)
        sequence = request.generation.sequence
        if sequence.evaluated and not self._model.must_prefill_at_once(sequence.cache):
            prompt = request.images.cache_keys(request.generation.prompt)
            answer = sequence.tokens[len(prompt) :]
            self._kept = _Kept([*prompt, *answer][: sequence.evaluated], sequence.cache, request.shift)
