"""GGUF models through llama.cpp: one thread evaluates all requests together, one batch a step.

A prompt that is evaluated alone goes in large batches; such a step is interrupted when another request arrives.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modules.core.errors import WebUIError
from modules.core.events import Done, Event, Failed, Info, Json, Note, Progress, Result, Text, Waiting
from modules.core.prompt import Image
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.engines import next_token
from modules.engines.engine_protocol import Operations, Report
from modules.engines.llamacpp.arguments import ADD_NODES, arguments, offloads
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.batch_costs import batch_clock
from modules.engines.llamacpp.bindings import ABORTED, CACHE_FULL, DECODED, Model, largest
from modules.engines.llamacpp.draft_model import open_draft_model
from modules.engines.llamacpp.drafting import DraftPlanner
from modules.engines.llamacpp.image_cells import text_tokens
from modules.engines.llamacpp.kv_cache import KVCache
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp.loglikelihoods import WindowEvaluator
from modules.engines.llamacpp.lora import LlamaAdapters
from modules.engines.llamacpp.next_turn import NextTurn
from modules.engines.llamacpp.notes import CANNOT_SHIFT_NOTE, no_library_note, notes, unusable_projector_note
from modules.engines.llamacpp.sampler import Sampler, first_token_probabilities
from modules.engines.llamacpp.saved_prompts import save_prompts, state_facts
from modules.engines.llamacpp.scheduler import Request, Scheduler
from modules.engines.llamacpp.thread_choice import choose_threads
from modules.engines.llamacpp.threadpool import ComputeThreads
from modules.engines.llamacpp.tokenizer import Tokenizer
from modules.engines.lora_set import LoraSet
from modules.engines.progress import whole_percents
from modules.engines.prompt_cache.keeper import PromptKeeper
from modules.engines.prompt_cache.store import PromptStore
from modules.engines.text_stream import CHARACTER_TOKENS, TextStream, begun_character
from modules.options.option import Value
from modules.system import cpu_memory

if TYPE_CHECKING:
    from modules.engines.llamacpp.vision import ImageTokens, Vision

PromptImages = Sequence["ImageTokens | None"]
MAX_SAVED_BYTES = 2 << 30
"""Main memory for conversations that are not in the KV cache, at most; on small machines a 16th of the total."""


class LlamaCpp:
    """A BatchingEngine on one GGUF model."""

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        build = installed_build()
        calls = arguments(path, options, build)
        self.model = Model(path, calls, whole_percents(report))
        self._vocabulary = self.model.vocabulary
        self._batch = Batch(self.model.n_batch)
        attention_sink_size = calls.get("llama_memory_seq_add", {}).get("attention_sink_size")
        max_saved_bytes = min(MAX_SAVED_BYTES, cpu_memory.total_memory() // 16)
        slots, streaming_llm = calls["llama_init_from_model"]["n_seq_max"], bool(options["streaming_llm"])
        self._cache = KVCache(self.model, slots, attention_sink_size, max_saved_bytes)
        self._scheduler = Scheduler(self.model, self._cache)
        self._is_interrupted = False
        self._next_turn = NextTurn(self.model, self._cache, self._batch)
        self._batch_clock = batch_clock(offloads(options, build))
        draft_model, draft_notes = open_draft_model(self.model, calls, self._batch_clock)
        draft_contexts = [draft_model.context] if draft_model else []
        self._drafts = DraftPlanner(self.model.n_batch, self.model.n_ctx, draft_model)
        self._windows = WindowEvaluator(self.model, self._cache, self._scheduler, self._batch)
        self._warm_up()
        if not options["threads"] and not offloads(options, build):
            choose_threads(self.model, calls["llama_init_from_model"], self._evaluate_filler)
        self._vision, vision_notes = _open_vision(path, self.model, calls)
        self._tokenizer = Tokenizer(self._vocabulary)
        prompts = PromptKeeper(path, state_facts(calls, self.model), self._use_store)
        self.questions: Operations = self._tokenizer.questions
        self.operations: Operations = {
            "cache": self._cache.describe,
            "forget": self.forget,
            "apply_loras": prompts.following(LoraSet(LlamaAdapters(self.model, self._cache.clear)).apply),
            "loglikelihoods": self._windows.loglikelihoods,
            "bind_threads": ComputeThreads(self.model.context, calls, *draft_contexts).bind,
        }
        if self._vision is not None:
            self.operations = {**self.operations, "images": self._vision.describe}
        if ADD_NODES not in calls:  # else a state would come over the network, during which nothing can be asked
            self.operations = {**self.operations, "keep_prompts": prompts.keep}
        self.info = Info(
            context_length=self.model.n_ctx,
            special_tokens=self._vocabulary.special_tokens,
            memory=cpu_memory.resident_memory(),
            notes=(*notes(path, options, build), *self._runtime_notes(streaming_llm), *vision_notes, *draft_notes),
            vocabulary_size=self._vocabulary.size,
            fim=self._vocabulary.fim_tokens,
            slots=slots,
            images=self._vision is not None,
        )

    def _runtime_notes(self, streaming_llm: bool) -> Iterator[Note]:
        """Yield the notes that only the loaded model can tell."""
        if streaming_llm and not self.model.can_shift:
            yield CANNOT_SHIFT_NOTE

    def _warm_up(self) -> None:
        """Evaluate one token, so that the first answer does not wait for threads and page faults."""
        self._evaluate_filler()
        self.model.clear_cache()

    def _evaluate_filler(self) -> None:
        """Evaluate a token and forget it. Raises GenerationFailed."""
        self._batch.clear()
        self._batch.add(array("i", [self._vocabulary.filler_token]), 0, 0, False)
        if self.model.decode(self._batch) != DECODED:
            raise GenerationFailed("llama.cpp", "it cannot evaluate a single token of this model")
        self.model.truncate(0, 0)

    # -- requests -------------------------------------------------------------------------------------------------

    def read_images(self, images: Sequence[Image], text: str) -> PromptImages:
        assert self._vision is not None
        return self._vision.read(images)

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        images: PromptImages = params.get("images", ())
        if not images:
            return self._tokenizer.encode(text)
        return self._tokenizer.encode_with_images(text, [image.tokens if image else () for image in images])

    def prepare_grammars(self) -> None:
        self.model.grammars.prepare()

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        tokens = array("i", prompt or [self._vocabulary.filler_token])
        if len(tokens) >= self.model.n_ctx:
            raise PromptTooLong(len(tokens), self.model.n_ctx - 1)
        images: PromptImages = params.get("images", ())
        if images:  # a shortened prompt does without some; pixels of a large one take 40 MB
            params = {name: value for name, value in params.items() if name != "images"}
        text = text_tokens(tokens) if images else tokens
        stream = TextStream(params["stop"], begun_character(map(self._vocabulary.piece, text[-CHARACTER_TOKENS:])))
        sampler = Sampler(self.model, params, text)
        request = Request(call, tokens, params, sampler, stream, len(tokens), time.monotonic())
        used = set(tokens) if images else ()
        chunks = (item for image in images if image for item in image.chunks.items())
        request.images = {first: chunk for first, chunk in chunks if first in used}
        texts = params.get("visible", ())
        request.visible = frozenset(token for text in texts for token in self._vocabulary.tokenize(text, False))
        if self.model.can_truncate and not request.images:
            self._drafts.prepare(request)
        self._scheduler.add(request)

    def forget(self) -> None:
        """Empty the KV cache, unless a request is running."""
        if not self._scheduler.running:
            self._cache.clear()

    def cancel(self, call: int) -> None:
        if request := self._scheduler.find(call):
            self._end(request)

    @property
    def idle(self) -> bool:
        return self._scheduler.idle and not self._next_turn.pending

    def interrupt(self, urgent: bool) -> None:
        """Interrupt what runs if it is a long prefill and a slot is free, a next turn, or part of a window.

        If `urgent`, in any case.

        Called from another thread when a request has arrived.
        """
        self._is_interrupted = True
        self._next_turn.interrupt()
        if urgent or self._next_turn.running or self._is_long:
            self.model.interrupt()

    @property
    def _is_long(self) -> bool:
        """Whether the batch has so much of one prompt or window that a new request should not wait for its step."""
        alone = self._windows.running or len(self._scheduler.running) == 1 < len(self._cache.slots)
        return alone and len(self._batch) > self._scheduler.chunk.tokens

    def resume(self) -> None:
        self._is_interrupted = False
        self._next_turn.resume()
        self.model.resume()

    def _end(self, request: Request) -> None:
        self._scheduler.remove(request)
        request.sampler.free()

    # -- saved prompts --------------------------------------------------------------------------------------------

    def _use_store(self, store: PromptStore | None) -> None:
        self._cache.store = store

    @property
    def keeps_prompts(self) -> bool:
        return self._cache.store is not None

    def save_prompts(self, seconds: float, at_end: bool) -> Iterator[None]:
        return save_prompts(self._cache, self.model, seconds, at_end)

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, Event]]:
        """Admit requests, evaluate one batch, and sample a token for each request whose logits it computed."""
        if self._scheduler.idle:
            self._next_turn.evaluate()
            return
        self._next_turn.drop()
        self._scheduler.admit()
        self._cache.save_idle_slots()
        for request in self._scheduler.queue_changes():
            yield request.call, Waiting(request.queue_position)
        yield from self._evaluate_image()
        self._drafts.plan(self._scheduler.running)
        self._scheduler.fill(self._batch)
        if not len(self._batch):  # all that run have come to a picture
            return
        if self._is_interrupted and self._is_long:  # a request has arrived since the last ones were taken
            self._batch.clear()
            return
        began, batch_began = time.perf_counter(), self._batch_clock()
        status = self.model.decode(self._batch)
        if status == DECODED:
            self._scheduler.chunk.observe(len(self._batch) - self._batch.outputs, time.perf_counter() - began)
            if self._batch.outputs == len(self._batch):  # it has no part of a prompt
                self._drafts.costs.record(len(self._batch), self._batch_clock() - batch_began)
            for request in list(self._scheduler.running):
                yield from self._advance(request)
        elif status == ABORTED:
            self._scheduler.keep_evaluated()
        elif status != CACHE_FULL or not (self._drafts.suspend(self._scheduler.running) or self._free_cells()):
            yield from self._fail_running(status)
        self._batch.clear()

    def _evaluate_image(self) -> Iterator[tuple[int, Event]]:
        """Evaluate one chunk of a picture for the request that has come to one first."""
        request = next((request for request in self._scheduler.running if request.next_image), None)
        if request is None:
            return
        chunk, slot = request.next_image, request.slot
        assert chunk is not None and slot is not None and self._vision is not None
        try:
            embeddings = self._vision.encode(chunk)
        except GenerationFailed as error:  # the other requests go on
            self._end(request)
            yield request.call, Failed(error)
            return
        status = self._vision.decode(chunk, embeddings, self._cache.position(slot), slot.number)
        if status == DECODED:
            self._cache.append_image(slot, chunk.entries, chunk.positions)
            request.evaluated += chunk.cells
            yield request.call, _prefill_progress(request)
        elif not self._cache.drop_unrecorded(slot) or status != CACHE_FULL or not self._free_cells():
            yield from self._fail_running(status)

    def _free_cells(self) -> bool:
        """Make room for the running requests. Return False if nothing can be freed."""
        return self._windows.free_cells() or self._scheduler.free_cells()

    def _fail_running(self, status: int) -> Iterator[tuple[int, Event]]:
        """Fail all running requests and empty the KV cache, whose state is unknown after an error."""
        reason = " (no room in the KV cache)" if status == CACHE_FULL else ""
        message = f"llama_decode failed with status {status}{reason}"
        for request in list(self._scheduler.running):
            self._end(request)
            yield request.call, Failed(GenerationFailed("llama.cpp", message))
        self._cache.clear()

    # -- a request ------------------------------------------------------------------------------------------------

    def _advance(self, request: Request) -> Iterator[tuple[int, Event]]:
        """Record what the batch evaluated of `request`, and sample its next tokens if its prompt is complete."""
        assert request.slot is not None
        end = request.evaluated + request.scheduled
        request.slot.cells.extend(request.tokens[request.evaluated : end] + request.draft)
        request.evaluated = end
        if request.logits_row < 0:
            if request.scheduled:
                yield request.call, _prefill_progress(request)
            return
        request.first_token_at = request.first_token_at or time.monotonic()
        texts: list[Text] = []
        try:
            if count := next_token.candidate_count(request.params):
                result = self._next_tokens(request, count)
                self._end(request)
                yield request.call, result
                return
            reason, failure = self._sample_after_draft(request, texts), None
        except WebUIError as error:  # the other requests go on
            reason, failure = "", error
        for text in texts:
            yield request.call, text
        if failure is not None:
            self._end(request)
            yield request.call, Failed(failure)
        if reason:
            yield from self._finish(request, reason)

    def _sample_after_draft(self, request: Request, texts: list[Text]) -> str:
        """Sample the next token, and one more after every draft token that equals the one sampled before it.

        Append to `texts`, drop the rest of the draft, and return the reason if the answer ends, else "".
        """
        accepted, reason = 0, ""
        for row, drafted in enumerate((*request.draft, None), request.logits_row):
            text, reason = self._sample(request, row)
            if text is not None:
                texts.append(text)
            if reason or request.tokens[-1] != drafted:
                break
            accepted += 1
        if request.draft:
            assert request.slot is not None
            request.evaluated += accepted
            self._cache.truncate(request.slot, request.sink_cells + request.evaluated)
            request.drafted_tokens += len(request.draft)
            request.accepted_tokens += accepted
        return reason

    def _sample(self, request: Request, row: int) -> tuple[Text | None, str]:
        """Sample the next token from a row of logits. Return its text, and the reason if the answer ends with it."""
        token = request.sampler.sample(row)
        request.sampled_tokens += 1
        if self._vocabulary.is_end_token(token):
            return None, "stop"
        top = request.params["top_logprobs"]
        logprobs = None if top is None else self.model.token_logprobs(row, token, top)
        text = request.stream.feed(self._vocabulary.piece(token, token in request.visible), logprobs)
        request.tokens.append(token)
        if request.stream.stopped:
            return text, "stop"
        context_full = request.sink_cells + len(request.tokens) > self.model.n_ctx and not self._drop_sinks(request)
        limit_reached = request.sampled_tokens == request.params["max_new_tokens"]
        return text, "length" if context_full or limit_reached else ""

    def _drop_sinks(self, request: Request) -> bool:
        """Drop attention sinks that are not among the tokens of a request: they would end its answer early."""
        assert request.slot is not None
        if not request.sink_cells or not self._cache.drop_sinks(request.slot, request.tokens, request.sink_cells):
            return False
        request.sink_cells = 0
        return len(request.tokens) <= self.model.n_ctx

    def _next_tokens(self, request: Request, count: int) -> Result:
        """Return the `count` most likely tokens after a prompt, by the model and after the samplers."""
        text = text_tokens(request.tokens)
        chances = first_token_probabilities(self.model, request.params, text, request.logits_row)
        likely = [(token, float(chances[token])) for token in largest(chances, count) if chances[token] > 0]
        plain = self.model.token_logprobs(request.logits_row, likely[0][0], count).top
        return next_token.result(plain, likely, self._vocabulary.shown_text)

    def _finish(self, request: Request, reason: str) -> Iterator[tuple[int, Event]]:
        rest = request.stream.finish()
        if rest is not None:
            yield request.call, rest
        self._end(request)
        self._next_turn.expect(request)
        yield (
            request.call,
            Done(
                reason,
                prompt_tokens=request.prompt_tokens,
                cached_tokens=request.reused_tokens,
                completion_tokens=request.sampled_tokens,
                prompt_seconds=request.first_token_at - request.submitted_at,
                decode_seconds=time.monotonic() - request.first_token_at,
                stop_string=request.stream.stop_string,
                drafted_tokens=request.drafted_tokens,
                accepted_tokens=request.accepted_tokens,
            ),
        )


def _prefill_progress(request: Request) -> Progress:
    done = (request.evaluated - request.reused_tokens) / max(request.prompt_tokens - request.reused_tokens, 1)
    return Progress("prompt", min(done, 1.0))


def _open_vision(path: Path, model: Model, calls: Mapping[str, Json]) -> tuple[Vision | None, tuple[Note, ...]]:
    """Return the vision part that `calls` load; None, and a note that says why, if it cannot be used."""
    args = calls.get("mtmd_init_from_file")
    if args is None:
        return None, ()
    try:
        # The library is missing from builds of llama-cpp-python without mtmd.
        from modules.engines.llamacpp.vision import NoVision, Vision
    except (ImportError, OSError, RuntimeError):
        return None, (no_library_note(),)
    try:
        return Vision(path.parent / args["mmproj_fname"], model, args), ()
    except NoVision as error:
        return None, (unusable_projector_note(args["mmproj_fname"], str(error)),)
