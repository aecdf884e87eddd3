"""Which requests run, and which of their tokens the next batch evaluates.

As many requests run at once as there are slots and cells for; the others wait in the order they came. A batch holds one
token of each request that decodes and a chunk of the prompts that are in prefill, so that no answer stalls.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modules.core.events import Json
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.draft_model import ModelDrafter
from modules.engines.llamacpp.image_cells import text_length
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.lookup_drafter import LookupDrafter
from modules.engines.llamacpp.prefill_chunk import MIN_TOKENS, LongPromptTurns, PrefillChunk
from modules.engines.llamacpp.sampler import Sampler
from modules.engines.llamacpp.slots import Slot
from modules.engines.repetition import max_cached_tokens
from modules.engines.text_stream import TextStream
from modules.engines.token_ids import common_prefix_length

if TYPE_CHECKING:  # mtmd may not be installed
    from modules.engines.llamacpp.vision import ImageChunk

RESERVED_TOKENS = 256
"""Tokens of an answer for which the KV cache must have room when its request begins."""
MIN_GAIN_BY_WAITING = 64
"""Tokens that a request must save by waiting until another one has evaluated the prefix they share."""


@dataclass(eq=False)
class Request:
    """One generation. `tokens` are the prompt's and then the sampled ones; the first `evaluated` are in the KV cache.

    `scheduled` tokens are in the current batch; `logits_row` is where its logits will be, -1 if it asks for none.
    `reused_tokens` counts prompt tokens that were in the cache when it began, -1 before that. `visible` tokens appear
    in the text even if they are special. `images` are the chunks of pictures by their first entries among the tokens.
    `draft` has the draft tokens that the batch evaluates after the last token. With streaming_llm, `sink_cells` of its
    slot are attention sinks that are not among the tokens. Times are monotonic, in seconds.
    """

    call: int
    tokens: array[int]
    params: Mapping[str, Json]
    sampler: Sampler
    stream: TextStream
    prompt_tokens: int
    submitted_at: float
    slot: Slot | None = None
    queue_position: int = 0
    evaluated: int = 0
    sink_cells: int = 0
    reused_tokens: int = -1
    scheduled: int = 0
    logits_row: int = -1
    sampled_tokens: int = 0
    first_token_at: float = 0.0
    visible: frozenset[int] = frozenset()
    images: Mapping[int, ImageChunk] = field(default_factory=dict)
    lookup_drafter: LookupDrafter | None = None
    model_drafter: ModelDrafter | None = None
    draft: array[int] = field(default_factory=lambda: array("i"))
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def next_image(self) -> ImageChunk | None:
        """The chunk of a picture that is to be evaluated next, None if a token is."""
        return self.images.get(self.tokens[self.evaluated]) if self.images and self.pending else None

    @property
    def pending(self) -> int:
        """Tokens still to evaluate: 1 while it decodes, more in prefill."""
        return len(self.tokens) - self.evaluated

    def draft_room(self, n_ctx: int) -> int:
        """Return how many draft tokens a context of `n_ctx` cells and the rest of the answer have room for."""
        limit = self.params["max_new_tokens"]
        rest = limit - self.sampled_tokens - 1 if limit else n_ctx
        return max(min(n_ctx - self.sink_cells - len(self.tokens), rest), 0)

    @property
    def reusable_tokens(self) -> array[int]:
        """Tokens of which all but the last may be taken from the cache. A request that was preempted takes them all."""
        limit = max_cached_tokens(self.params)
        return self.tokens if limit is None or self.reused_tokens >= 0 else self.tokens[: limit + 1]

    @property
    def cells_needed(self) -> int:
        """Cells for its tokens so far and the next RESERVED_TOKENS of its answer."""
        limit = self.params["max_new_tokens"] or RESERVED_TOKENS
        return self.sink_cells + len(self.tokens) + min(max(limit - self.sampled_tokens, 1), RESERVED_TOKENS)


class Scheduler:
    """The waiting and the running requests of one model, and their slots in `cache`."""

    def __init__(self, model: Model, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._waiting: deque[Request] = deque()
        self.chunk = PrefillChunk()
        self.running: list[Request] = []
        self._turns = LongPromptTurns()

    @property
    def idle(self) -> bool:
        return not self.running and not self._waiting

    def add(self, request: Request) -> None:
        self._waiting.append(request)

    def remove(self, request: Request) -> None:
        if request.slot is None:
            self._waiting.remove(request)
        else:
            self.running.remove(request)
            request.slot.busy = False

    def find(self, call: int) -> Request | None:
        return next((request for request in (*self._waiting, *self.running) if request.call == call), None)

    # -- who runs -------------------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Start waiting requests while there are an idle slot and cells for the first of them."""
        if self._waiting:
            self._cache.expect([request.reusable_tokens for request in self._waiting])
        for request in list(self._waiting):
            if self._cache.full or not self._fits(request):
                return
            if not self._gains_by_waiting(request):
                self._start(request)

    def _fits(self, request: Request) -> bool:
        """Tell whether the cells suffice for it and the running requests. A single request always fits."""
        if not self._model.is_unified:
            return True
        needed = request.cells_needed + sum(other.cells_needed for other in self.running)
        return not self.running or needed - self._shareable_tokens(request) <= self._model.n_ctx

    def _shareable_tokens(self, request: Request) -> int:
        """Return how many prefix tokens it can share with a running request, in common cells."""
        if not self._model.can_share:
            return 0
        return max((common_prefix_length(request.tokens, other.tokens) for other in self.running), default=0)

    def _gains_by_waiting(self, request: Request) -> bool:
        """Tell whether a running prefill is evaluating a prefix of it, which it could share a little later."""
        in_prefill = [other for other in self.running if other.pending > 1]
        if not in_prefill or not self._model.can_share:
            return False
        later = max(common_prefix_length(request.tokens, other.tokens) for other in in_prefill)
        return later >= self._cache.find_reuse(request.reusable_tokens).length + MIN_GAIN_BY_WAITING

    def _start(self, request: Request) -> None:
        request.slot, request.evaluated = self._cache.take(request.reusable_tokens)
        request.sink_cells = len(request.slot.cells) - request.evaluated
        if request.reused_tokens < 0:
            request.reused_tokens = request.evaluated
        self._waiting.remove(request)
        self.running.append(request)

    def free_cells(self) -> bool:
        """Evict an idle slot, or preempt the request that began last. Return False if nothing can be freed.

        A preempted request waits before all others and resumes where it was.
        """
        if self._cache.free_cells():
            return True
        if len(self.running) > 1:
            self._preempt(self.running[-1])
            return self._cache.free_cells()
        return False

    def _preempt(self, request: Request) -> None:
        assert request.slot is not None
        self.running.remove(request)
        request.slot.busy = False
        request.slot = None
        self._waiting.appendleft(request)

    def queue_changes(self) -> Iterator[Request]:
        """Number the waiting requests from 1, and yield those whose `queue_position` has changed."""
        for position, request in enumerate(self._waiting, 1):
            if request.queue_position != position:
                request.queue_position = position
                yield request

    # -- the batch ------------------------------------------------------------------------------------------------

    def fill(self, batch: Batch) -> None:
        """Fill `batch`: one token of each decoding request and its draft, the rest with prompts in equal parts.

        A prefill that runs alone gets the whole batch. What short prompts leave of their part goes to longer ones,
        which sit out a step in which an answer can begin. A prompt goes up to its next picture, which is evaluated by
        itself. Tokens are in the order of their slots: llama.cpp evaluates streams together whose numbers follow one
        another.
        """
        batch.clear()
        decoding = [request for request in self.running if request.pending == 1]
        in_prefill = [request for request in self.running if request.pending > 1 and request.next_image is None]
        for request in self.running:
            request.scheduled, request.logits_row = 0, -1
        room = batch.capacity - sum(1 + len(request.draft) for request in decoding)
        room = room if len(self.running) == 1 else min(room, self.chunk.tokens)
        short = [request for request in in_prefill if request.pending <= MIN_TOKENS]
        begins = any(not request.sampled_tokens for request in (*decoding, *short))
        if len(short) < len(in_prefill) and self._turns.sit_out(begins):
            in_prefill = short
        counts = _prefill_counts(in_prefill, room)
        for request in sorted((*decoding, *counts), key=_slot_number):
            if request in counts:
                self._schedule_prefill(request, counts[request], batch)
            else:
                self._schedule_decode(request, batch)

    def _schedule_decode(self, request: Request, batch: Batch) -> None:
        """Add the last token of an answer and its draft to the batch; each asks for logits."""
        assert request.slot is not None
        position, sequence = self._cache.position(request.slot), request.slot.number
        request.scheduled, request.logits_row = 1, batch.add_one(request.tokens[-1], position, sequence)
        for ahead, token in enumerate(request.draft, 1):
            batch.add_one(token, position + ahead, sequence)

    def _schedule_prefill(self, request: Request, count: int, batch: Batch) -> None:
        """Add `count` tokens of a prompt to the batch; the last one of the prompt asks for logits."""
        assert request.slot is not None
        tokens = request.tokens[request.evaluated : request.evaluated + count]
        position, sequence = self._cache.position(request.slot), request.slot.number
        request.scheduled = count
        request.logits_row = batch.add(tokens, position, sequence, wants_logits=count == request.pending)

    def keep_evaluated(self) -> None:
        """After an aborted batch, keep what was evaluated, and leave each request at least one token to evaluate."""
        for request in self.running:
            assert request.slot is not None
            begin = request.evaluated
            tokens = request.tokens[begin : begin + request.scheduled] + request.draft
            count = self._cache.keep_evaluated(request.slot, tokens)
            if count > request.scheduled:
                self._cache.truncate(request.slot, len(request.slot.cells) - (count - request.scheduled))
                count = request.scheduled
            request.evaluated = begin + count if count >= 0 else 0
            if not request.pending:
                request.evaluated -= 1
                self._cache.truncate(request.slot, len(request.slot.cells) - 1)


def _prefill_counts(requests: Sequence[Request], room: int) -> dict[Request, int]:
    """Divide `room` tokens of a batch among the prompts of `requests`; those that get none are left out."""
    counts = {}
    for index, request in enumerate(sorted(requests, key=lambda request: request.pending)):
        count = min(request.pending, max(room // (len(requests) - index), 1), max(room, 0))
        if request.images:
            count = min(count, text_length(request.tokens, request.evaluated))
        if count:
            counts[request] = count
        room -= count
    return counts


def _slot_number(request: Request) -> int:
    assert request.slot is not None
    return request.slot.number
