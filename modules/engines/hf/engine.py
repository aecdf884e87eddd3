"""Continuous batching of a model under the transformers samplers: prefill in chunks, decode one token of every answer.

The model is driven directly instead of by `generate` in a thread: the thread that serves requests is the only one that
computes (a second one would cost both a third of their speed), a cancelled answer ends at once, and its cache stays for
the next turn.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from modules.core.errors import OptionError, Unsupported, WebUIError
from modules.core.events import Event, Failed, Info, Json, Note, Waiting
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.engines.engine_protocol import Operations
from modules.engines.hf.batch import Batch, TokenSequence
from modules.engines.hf.evaluator import Evaluator, Interrupted, PrefixFiles
from modules.engines.hf.generation import Generation
from modules.engines.hf.kv_cache import free_memory, prefix_cache_bytes, token_bytes
from modules.engines.hf.limits import batch_size
from modules.engines.hf.loglikelihoods import add_logits
from modules.engines.hf.sampling.pipeline import NoTokenLeft
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.loglikelihoods import Window
from modules.engines.repetition import max_cached_tokens
from modules.engines.target_scores import TargetScores
from modules.system import cpu_memory

PREFILL_CHUNK_WHILE_DECODING = 96
"""Tokens of a prompt that one step evaluates while other answers are decoded."""

_NO_GUIDANCE = {"en": "1, unless the model is loaded with cfg-cache", "zh": "1（除非加载模型时勾选“CFG 缓存”）"}

_NO_LOGLIKELIHOODS = {
    "en": "An encoder-decoder model has no log-likelihoods of a text: its answer is a text of its own.",
    "zh": "编码器-解码器模型无法计算文本的对数似然：其回复是另一段文本。",
}


class Engine:
    """A `BatchingEngine` for an evaluator, whose answers hold at most `context` tokens including the prompt."""

    def __init__(self, model: Evaluator, vocabulary: Vocabulary, context: int, notes: Iterable[Note]) -> None:
        self.model = model
        self._vocabulary = vocabulary
        self._context = context
        self._prefixes = model.new_prefix_store(prefix_cache_bytes(model.device))
        self._waiting: deque[Generation] = deque()
        self._prefilling: deque[Generation] = deque()
        self._decoding: list[Generation] = []  # in the order of the batch
        self._windows = 0  # whose log-likelihoods are being computed, each with a cache
        self._batch = Batch(self.model)
        self._warm_up()
        self.questions = self.model.questions
        self.operations: Operations = {"forget": self.forget, "loglikelihoods": self.loglikelihoods}
        self.info = Info(
            context_length=self._context,
            special_tokens=self.model.special_tokens,
            chat_template=self.model.chat_template,
            memory=cpu_memory.resident_memory(),
            notes=tuple(notes),
            vocabulary_size=min(self.model.vocabulary_size, self.model.vocab_size),
            fim=self.model.fim_tokens,
            slots=self._max_batch,
        )

    def _warm_up(self) -> None:
        """Evaluate one token: the first answer need not wait for threads and pages, and the kind of cache is known."""
        model = self.model
        cache = model.new_cache() if model.is_encoder_decoder else self._prefixes.take([0])[0]
        model.forward([0], cache, model.run_encoder([0]) if model.is_encoder_decoder else None)
        self._max_batch = 1
        if model.can_batch and model.can_truncate(cache):
            self._max_batch = batch_size(token_bytes(cache) * self._context, free_memory(model.device))
        self._prefill_at_once = model.must_prefill_at_once(cache)
        self._prefixes.clear()

    # -- requests -------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return self.model.encode(text, params.get("add_bos_token", True))

    def prepare_grammars(self) -> None:
        self._vocabulary.prepare_grammars()

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        tokens = self._checked(prompt)
        negative = self._negative(params) if params["guidance_scale"] != 1 else None
        generation = Generation(call, tokens, negative, params, self.model, self._vocabulary, self._context)
        self._waiting.append(generation)

    def _negative(self, params: Mapping[str, Json]) -> TokenSequence:
        if not self.model.can_guide:
            raise OptionError("guidance_scale", params["guidance_scale"], _NO_GUIDANCE)
        return TokenSequence(self._checked(self.tokenize(params["negative_prompt"], params)), None)

    def _checked(self, prompt: Sequence[int]) -> list[int]:
        """Return the tokens of a prompt, which is not empty then. Raises PromptTooLong."""
        tokens, limit = list(prompt) or self._empty_prompt(), self._context - 1
        if self.model.is_encoder_decoder:  # its answer has a context of its own
            limit = self.model.encoder_positions or len(tokens)
        if len(tokens) > limit:
            raise PromptTooLong(len(tokens), limit)
        return tokens

    def _empty_prompt(self) -> list[int]:
        """Return the token that an empty prompt stands for, as an answer must continue some token."""
        eos = sorted(self.model.eos_tokens) or [0]
        bos = self.model.tokenizer.bos_token_id
        return [eos[0] if bos is None else bos]

    def forget(self) -> None:
        """Drop the caches of ended answers, unless a cache is in use."""
        if self.idle and not self._windows:
            self._prefixes.clear()

    def cancel(self, call: int) -> None:
        for queue in (self._waiting, self._prefilling):
            for generation in [queued for queued in queue if queued.call == call]:
                queue.remove(generation)
                self._store_prefixes(generation)
        self._end_decoding([generation for generation in self._decoding if generation.call == call])

    def use_files(self, files: PrefixFiles | None) -> None:
        """Take prefixes of prompts from these files, too, and save them there."""
        self._prefixes.files = files

    @property
    def can_save_prompts(self) -> bool:
        return self._prefixes.can_save and not self.model.is_encoder_decoder

    @property
    def keeps_prompts(self) -> bool:
        return self._prefixes.files is not None

    def save_prompts(self, seconds: float, at_end: bool) -> Iterator[None]:
        return self._prefixes.save(seconds, at_end)

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._prefilling or self._decoding)

    def interrupt(self, urgent: bool) -> None:
        """Abort the prefill of a chunk for an urgent request. Called from another thread."""
        if urgent:
            self.model.interrupt(True)

    def resume(self) -> None:
        self.model.interrupt(False)

    def _end_decoding(self, ended: list[Generation]) -> None:
        self._batch.remove([generation.sequence for generation in ended])
        for generation in ended:
            self._decoding.remove(generation)
            self._store_prefixes(generation)

    def _store_prefixes(self, generation: Generation) -> None:
        """Keep what was computed, for a later turn of the conversation."""
        if self.model.is_encoder_decoder:
            return
        for sequence in (generation.sequence, generation.negative):
            if sequence is not None and sequence.cache is not None:
                sequence.store_prefix(self._prefixes)

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, Event]]:
        """Admit waiting requests, decode one token of every answer, prefill one chunk of a prompt."""
        self._admit()
        yield from self._queue_positions()
        in_progress = [*self._prefilling, *self._decoding]
        completed = False
        try:
            yield from self._compute()
            completed = True
        except (RuntimeError, MemoryError) as error:
            traceback.print_exception(error)
            for generation in in_progress:
                yield generation.call, Failed(GenerationFailed(self.model.name, f"{type(error).__name__}: {error}"))
        finally:
            if not completed:  # the caches are in an unknown state: no answer can continue
                self._reset()

    def _compute(self) -> Iterator[tuple[int, Event]]:
        self._restart_outgrown()
        if self._decoding:
            yield from self._decode()
        if self._prefilling:
            yield from self._prefill(min(self._prefilling, key=lambda generation: generation.sequence.remaining))

    def _restart_outgrown(self) -> None:
        """Prefill answers again that become too long for the keys of a short text."""
        model = self.model
        for generation in [grown for grown in self._decoding if grown.sequence.evaluated == model.short_text]:
            sequence = generation.sequence
            self._batch.remove([sequence])
            self._decoding.remove(generation)
            sequence.store_prefix(self._prefixes)
            sequence.take_prefix(self._prefixes, model)
            self._prefilling.append(generation)

    def _reset(self) -> None:
        self._prefilling.clear()
        self._decoding.clear()
        self._batch = Batch(self.model)
        self._prefixes.clear()

    def _admit(self) -> None:
        while self._waiting and self._has_room:
            generation = self._waiting.popleft()
            self._take_caches(generation)
            self._prefilling.append(generation)

    @property
    def _has_room(self) -> bool:
        """Whether one more cache may be used."""
        return len(self._prefilling) + len(self._decoding) + self._windows < self._max_batch

    def _take_caches(self, generation: Generation) -> None:
        model, negative = self.model, generation.negative
        if model.is_encoder_decoder:
            generation.sequence = self._decoder_sequence(generation.prompt)
            if negative is not None:
                generation.negative = self._decoder_sequence(negative.tokens)
            return
        limit = max_cached_tokens(generation.params)
        generation.sequence = TokenSequence(list(generation.prompt), None)
        # Of what it is asked for, a store leaves the last token to evaluate.
        generation.sequence.take_prefix(self._prefixes, model, None if limit is None else limit + 1)
        generation.cached_tokens = generation.sequence.evaluated
        if negative is not None:
            negative.take_prefix(self._prefixes, model)

    def _decoder_sequence(self, prompt: Sequence[int]) -> TokenSequence:
        """Return the beginning of the answer of an encoder-decoder model to `prompt`."""
        model = self.model
        return TokenSequence([model.decoder_start_token], model.new_cache(), encoder_output=model.run_encoder(prompt))

    def _queue_positions(self) -> Iterator[tuple[int, Event]]:
        """Report the queue position of every waiting request that has moved."""
        for position, generation in enumerate(self._waiting, 1):
            if generation.queue_position != position:
                generation.queue_position = position
                yield generation.call, Waiting(position)

    # -- prefill --------------------------------------------------------------------------------------------------

    def _prefill(self, generation: Generation) -> Iterator[tuple[int, Event]]:
        """Prefill one chunk; after the last one, sample the first token."""
        negative = generation.negative
        sequence = negative if negative is not None and negative.remaining else generation.sequence
        chunk = PREFILL_CHUNK_WHILE_DECODING if self._decoding else self.model.prefill_chunk
        logits = self._evaluate(sequence, sequence.remaining if self._prefill_at_once else chunk)
        if logits is None:  # what was in the cache may have to be evaluated again
            generation.cached_tokens = min(generation.cached_tokens, generation.sequence.evaluated)
            return
        if sequence is negative:
            generation.negative_logits = logits
            return
        if sequence.remaining:
            if not generation.completion_tokens:
                yield generation.call, generation.prefill_progress
            return
        self._prefilling.remove(generation)
        generation.end_prefill()
        ended = yield from self.emit_token(generation, logits)
        if ended:
            self._store_prefixes(generation)
        else:
            self._decoding.append(generation)
            self._batch.add(sequence)

    def _evaluate(self, sequence: TokenSequence, chunk: int, last: int = 1) -> Tensor | None:
        """Evaluate the next `chunk` tokens. Return the logits after the `last`; None if the next step has to retry."""
        begin = sequence.evaluated
        end = min(begin + chunk, len(sequence.tokens))
        try:
            with self.model.long_text(sequence.is_long):
                logits = self.model.forward_interruptible(
                    sequence.tokens[begin:end], sequence.cache, sequence.encoder_output, last
                )
        except (Interrupted, torch.OutOfMemoryError) as error:
            if not isinstance(error, Interrupted) and not self._prefixes.free_memory():
                raise
            # Some layers hold the chunk already, others do not.
            sequence.cache, sequence.evaluated = self.model.truncate(sequence.cache, begin)
            return None
        sequence.evaluated = end
        return logits

    # -- log-likelihoods ------------------------------------------------------------------------------------------

    def loglikelihoods(
        self, tokens: Sequence[int], first: int, keep: str = "", against: str = ""
    ) -> Generator[None, None, Json]:
        """See `engine_protocol.Operations`."""
        if self.model.is_encoder_decoder:
            raise Unsupported(_NO_LOGLIKELIHOODS)
        window = Window(tokens, first, self._context, self.info.vocabulary_size, self.model.vocab_size)
        with TargetScores(self.model.name, window, self.model.used_tokens, keep, against) as scores:
            while not self._has_room:
                yield
            sequence = self._empty_sequence(window)
            self._windows += 1
            try:
                while not window.complete:
                    self._score_piece(sequence, scores)
                    yield
            finally:
                self._windows -= 1
                self._prefixes.store([], self.model.truncate(sequence.cache, 0)[0])
            return scores.result()

    def _empty_sequence(self, window: Window) -> TokenSequence:
        cache, _ = self._prefixes.take(window.tokens[:1])
        return TokenSequence(window.tokens, cache, is_long=self.model.is_long(window.tokens))

    def _score_piece(self, sequence: TokenSequence, scores: TargetScores) -> None:
        """Evaluate a piece of a window. Raises GenerationFailed."""
        window = scores.window
        chunk = self.model.window_chunk
        if self._decoding or self._prefilling:
            chunk = min(chunk, PREFILL_CHUNK_WHILE_DECODING)
        if self.model.computes_all_logits:
            chunk = min(chunk, window.max_rows)
        if self._prefill_at_once:
            sequence.cache, sequence.evaluated = self.model.truncate(sequence.cache, 0)
            chunk = len(window.tokens)
        tokens, targets = window.next_piece(sequence.evaluated, chunk)
        try:
            logits = self._evaluate(sequence, len(tokens), max(targets, 1))
            if logits is not None and targets:
                add_logits(scores, logits)
        except (RuntimeError, MemoryError) as error:
            traceback.print_exception(error)
            raise GenerationFailed(self.model.name, f"{type(error).__name__}: {error}") from error

    # -- decode ---------------------------------------------------------------------------------------------------

    def _decode(self) -> Iterator[tuple[int, Event]]:
        """Decode one token of every answer in the batch, and more of a single answer if its draft tokens are right."""
        draft = self._decoding[0].draft() if self._batch.can_verify_draft else []
        logits = self._forward(draft)
        if logits is None:
            return
        if draft:
            yield from self._verify_draft(self._decoding[0], draft, logits)
            return
        ended = []
        for row, generation in enumerate(self._decoding):
            if (yield from self.emit_token(generation, logits[row : row + 1])):
                ended.append(generation)
        self._end_decoding(ended)

    def _forward(self, draft: Sequence[int]) -> Tensor | None:
        """Return the logits after the batch's last tokens and after `draft`, or None if the next step has to retry."""
        try:
            return self._batch.forward_draft(draft) if draft else self._batch.forward()
        except torch.OutOfMemoryError:
            if not self._batch.roll_back() or not self._prefixes.free_memory():
                raise
        return None

    def _verify_draft(
        self, generation: Generation, draft: Sequence[int], logits: Tensor
    ) -> Iterator[tuple[int, Event]]:
        """Sample a token after the last one and after every draft token, up to the first draft token that is wrong."""
        ended = False
        generation.drafted_tokens += len(draft)
        for row, expected in enumerate([*draft, -1]):
            ended = yield from self.emit_token(generation, logits[row : row + 1])
            if ended or generation.sequence.tokens[-1] != expected:
                break
            generation.accepted_tokens += 1
        self._batch.truncate(len(generation.sequence.tokens) - 1)
        if ended:
            self._end_decoding([generation])

    def emit_token(self, generation: Generation, logits: Tensor) -> Generator[tuple[int, Event], None, bool]:
        """Sample the next token from `logits` [1, vocabulary] and yield its events. True if the answer ends with it."""
        try:
            if generation.candidates:
                yield generation.call, generation.next_tokens(logits)
                return True
            text, reason = generation.sample(logits)
        except (NoTokenLeft, WebUIError) as error:  # the other answers continue
            failure = error if isinstance(error, WebUIError) else GenerationFailed(self.model.name, str(error))
            yield generation.call, Failed(failure)
            return True
        if text is not None:
            yield generation.call, text
        if reason:
            for event in generation.finish(reason):
                yield generation.call, event
        return bool(reason)
