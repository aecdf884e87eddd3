"""Generation by ExLlamaV2's dynamic generator: all requests together, one token of each per step.

A job of the generator allocates all cache pages that it may need when it begins, and an answer may fill the context. A
job therefore samples only up to the end of a page, and another job continues from there. Requests that find too few
pages wait; requests that have begun go before them. Without flash-attention the cache has no pages, and the generator
runs one request after the other.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from exllamav2 import ExLlamaV2Tokenizer
from exllamav2.generator import ExLlamaV2DynamicGenerator

from modules.core.errors import OptionError
from modules.core.events import Done, Event, Failed, Info, Json, Progress, Result, Text, TokenLogprobs, Waiting
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.engines import next_token
from modules.engines.engine_protocol import Operations, Report
from modules.engines.exllamav2.arguments import (
    CACHE,
    GENERATOR,
    PAGE_SIZE,
    Environment,
    context_length,
    generator_arguments,
)
from modules.engines.exllamav2.build import check_config, load_model
from modules.engines.exllamav2.job import SAMPLER_ERRORS, GrammarFilter, Job, sampler_settings
from modules.engines.exllamav2.loglikelihoods import WindowEvaluator
from modules.engines.exllamav2.lora import ExLlamaAdapters
from modules.engines.exllamav2.notes import NO_PAGED_CACHE_NOTE, generator_notes
from modules.engines.grammars import GrammarRequest
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.hf.evaluator import token_logprobs
from modules.engines.hf.model import load_tokenizer
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.hf.token_text import Detokenizer, TextTokenizer
from modules.engines.lora_set import LoraSet
from modules.engines.text_stream import TextStream
from modules.options.option import Value
from modules.system import cpu_memory

NAME = "ExLlamav2"
MIN_JOB_TOKENS = 32
"""A job gets at least so many tokens: with fewer left in its page, it continues to the end of the next one."""
_NO_GUIDANCE = {
    "en": "1, unless the model is loaded with cfg-cache, and flash-attention is installed",
    "zh": "1（除非已安装 flash-attention，且加载模型时勾选“CFG 缓存”）",
}


@dataclass(eq=False)
class Request:
    """One generation of at most `limit` tokens, sampled by one job after the other.

    Earlier jobs have sampled `earlier_tokens`; `taken` of the current job's have become text. `reused_tokens` counts
    prompt tokens that were in the cache. Times are monotonic, in seconds.
    """

    call: int
    job: Job
    limit: int
    prompt: list[int]
    params: Mapping[str, Json]
    stream: TextStream
    detokenizer: Detokenizer
    submitted_at: float
    queue_position: int = 0
    earlier_tokens: int = 0
    taken: int = 0
    reused_tokens: int = 0
    first_token_at: float = 0.0

    @property
    def sampled_tokens(self) -> int:
        return self.earlier_tokens + self.taken


class Engine:
    """A BatchingEngine on one EXL2 or GPTQ folder."""

    def __init__(self, path: Path, options: Mapping[str, Value], environment: Environment, report: Report) -> None:
        check_config(NAME, path)
        calls = generator_arguments(path, options, environment)
        self.texts = TextTokenizer(load_tokenizer(calls[TOKENIZER]))
        loaded = load_model(calls, report)
        self._model, self._config = loaded.model, loaded.config
        eos = self.texts.tokenizer.eos_token_id
        self._ends = sorted(loaded.ends | ({eos} if eos is not None else set()))
        self._context = context_length(path, options)
        self._vocabulary = TokenizerVocabulary(self.texts.tokenizer, loaded.config.vocab_size, self._ends)
        self._native_tokenizer = ExLlamaV2Tokenizer(loaded.config)
        arguments = dict(calls[GENERATOR])
        notes = [*generator_notes(path, options, environment)]
        if arguments["paged"] and loaded.config.no_flash_attn:  # the model does not support flash-attention
            arguments["paged"] = False
            notes += [NO_PAGED_CACHE_NOTE] if options["cfg_cache"] else []
        self._generator: Any = ExLlamaV2DynamicGenerator(
            loaded.model, loaded.caches[0], self._native_tokenizer, **arguments
        )
        self._can_guide = arguments["paged"] and bool(options["cfg_cache"])
        self._requests: list[Request] = []
        self.questions = self.texts.questions
        apply_loras = LoraSet(ExLlamaAdapters(loaded.model, self.texts, self._activate_loras)).apply
        self.info = Info(
            context_length=self._context,
            special_tokens=self.texts.special_tokens,
            chat_template=self.texts.chat_template,
            memory=cpu_memory.resident_memory(),
            notes=tuple(notes),
            vocabulary_size=min(self.texts.vocabulary_size, loaded.config.vocab_size),
            fim=self.texts.fim_tokens,
            slots=arguments["max_batch_size"] if arguments["paged"] else 1,
        )
        windows = WindowEvaluator(loaded.model, calls[CACHE], self.info, lambda: self._generator.current_loras)
        self.operations: Operations = {
            "forget": self.forget,
            "apply_loras": apply_loras,
            "loglikelihoods": windows.loglikelihoods,
        }

    # -- requests -------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return self.texts.encode(text, params["add_bos_token"])

    def prepare_grammars(self) -> None:
        self._vocabulary.prepare_grammars()

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        tokens = self._check_prompt(prompt)
        guided = params["guidance_scale"] != 1
        if guided and not self._can_guide:
            raise OptionError("guidance_scale", params["guidance_scale"], _NO_GUIDANCE)
        negative = [self._check_prompt(self.tokenize(params["negative_prompt"], params))] if guided else []
        sequences = [tokens, *negative]
        room = self._context - max(map(len, sequences))
        limit = min(params["max_new_tokens"] or room, room)
        job = self._create_job(sequences, params, limit)
        self._generator.enqueue(job)
        detokenizer = Detokenizer(self.texts, tokens, not params["skip_special_tokens"], params.get("visible", ()))
        stream = TextStream(params["stop"])
        self._requests.append(Request(call, job, limit, tokens, params, stream, detokenizer, time.monotonic()))

    def _check_prompt(self, prompt: list[int]) -> list[int]:
        """Return the tokens of a prompt; for an empty one a single token, because there must be something to continue.

        Raises PromptTooLong if there would be no room for an answer.
        """
        bos = self.texts.tokenizer.bos_token_id
        tokens = list(prompt) or [(self._ends or [0])[0] if bos is None else bos]
        if len(tokens) >= self._context:
            raise PromptTooLong(len(tokens), self._context - 1)
        return tokens

    def _create_job(self, sequences: list[list[int]], params: Mapping[str, Json], limit: int) -> Job:
        """Create the first job of a request. All `sequences` (prompt, negative prompt) get the same sampled tokens."""
        settings = sampler_settings(
            params, self._vocabulary, self.texts.vocabulary_size, self._ends, self._generator.padded_vocab_size
        )
        settings.cfg_scale = params["guidance_scale"] if len(sequences) > 1 else None
        filters = []
        if request := GrammarRequest.of(params):
            matcher = self._vocabulary.grammar(request)()
            filters.append(GrammarFilter(self._model, self._native_tokenizer, matcher))
        candidates = next_token.candidate_count(params)
        return Job(
            params["top_logprobs"] is not None or candidates > 0,
            self._ends,
            return_top_tokens=candidates,
            input_ids=[torch.tensor([tokens], dtype=torch.long) for tokens in sequences],
            max_new_tokens=self._job_tokens(max(map(len, sequences)), limit),
            min_new_tokens=params["min_length"],
            gen_settings=settings,
            seed=params["seed"] if params["seed"] >= 0 else None,
            filters=filters,
        )

    def _job_tokens(self, length: int, limit: int) -> int:
        """Return how many of `limit` tokens a job samples after `length`: to the end of its page or of the next one."""
        if not self._generator.paged:
            return limit
        rest = PAGE_SIZE - length % PAGE_SIZE
        return min(limit, rest if rest >= MIN_JOB_TOKENS else rest + PAGE_SIZE)

    def _continue_job(self, request: Request) -> None:
        """Give a request whose job has reached the end of its pages another job, ahead of those that wait."""
        request.earlier_tokens += request.taken
        request.taken = 0
        length = max(len(sequence.sequence_ids) for sequence in request.job.sequences)
        request.job = request.job.continuation(self._job_tokens(length, request.limit - request.earlier_tokens))
        self._generator.enqueue(request.job)
        pending = self._generator.pending_jobs
        pending.insert(0, pending.pop())

    def forget(self) -> None:
        """Empty the cache, unless a request is running."""
        if self.idle:
            self._generator.reset_page_table()

    def _activate_loras(self, loras: list[Any]) -> None:
        # Not by `set_loras`, which keeps an empty list as it is: 0.3.2 then takes the first element of it.
        self._generator.current_loras = loras or None
        self._generator.reset_page_table()

    def cancel(self, call: int) -> None:
        for request in [request for request in self._requests if request.call == call]:
            self._generator.cancel(request.job)
            self._requests.remove(request)

    @property
    def idle(self) -> bool:
        return not self._requests

    def interrupt(self, urgent: bool) -> None:
        """Do nothing: a step is short, one token of each answer and one chunk of each prompt."""

    def resume(self) -> None:
        """Do nothing: no step is ever interrupted."""

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, Event]]:
        """Begin the requests that have room, prefill one chunk of each prompt, sample a token for each answer."""
        try:
            results = self._generator.iterate()
        except (*SAMPLER_ERRORS, MemoryError) as error:
            traceback.print_exception(error)
            yield from self._fail_running(f"{type(error).__name__}: {error}")
            return
        yield from self._queue_positions()
        prefills = {id(result["job"]): result for result in results if result["stage"] == "prefill"}
        for request in list(self._requests):
            prefill = prefills.get(id(request.job))
            if prefill and not request.job.sampled and not request.earlier_tokens:
                yield request.call, _prompt_progress(prefill, request.job.reused_tokens)
            yield from self._advance(request)

    def _queue_positions(self) -> Iterator[tuple[int, Event]]:
        """Report the positions of waiting requests that have changed, counted from 1."""
        pending = self._generator.pending_jobs
        waiting = [request for request in self._requests if request.job in pending]
        for position, request in enumerate(waiting, 1):
            if request.queue_position != position:
                request.queue_position = position
                yield request.call, Waiting(position)

    def _fail_running(self, message: str) -> Iterator[tuple[int, Event]]:
        """Fail the requests that have begun and empty the cache, whose state is unknown. The others stay queued."""
        failed = [request for request in self._requests if request.job not in self._generator.pending_jobs]
        self._generator.active_jobs.clear()
        self._generator.reset_page_table()
        for request in failed:
            self._requests.remove(request)
            yield request.call, Failed(GenerationFailed(NAME, message))

    def _advance(self, request: Request) -> Iterator[tuple[int, Event]]:
        """Turn what its job has sampled since the last step into events."""
        for token, logits in request.job.sampled[request.taken :]:
            request.taken += 1
            if not request.first_token_at:
                request.first_token_at = time.monotonic()
                request.reused_tokens = min(request.job.reused_tokens, len(request.prompt) - 1)
            if error := request.job.error:
                yield request.call, Failed(GenerationFailed(NAME, error) if isinstance(error, str) else error)
                self.cancel(request.call)
                return
            if logits is not None and request.job.likely:
                self.cancel(request.call)
                yield request.call, self._next_tokens(request, token, logits)
                return
            text, reason = self._emit_token(request, token, logits)
            if text is not None:
                yield request.call, text
            if reason:
                yield from self._finish(request, reason)
                return
        if request.job.is_finished:
            self._continue_job(request)

    def _emit_token(self, request: Request, token: int, logits: torch.Tensor | None) -> tuple[Text | None, str]:
        """Return the token's text, and the reason if the answer ends with it, else ""."""
        if token in self._ends:
            return None, "stop"
        logprobs = None
        if logits is not None:
            logprobs = self._logprobs(token, logits, request.params["top_logprobs"])
        text = request.stream.feed(request.detokenizer.feed(token), logprobs)
        if request.stream.stopped:
            return text, "stop"
        return text, "length" if request.sampled_tokens >= request.limit else ""

    def _next_tokens(self, request: Request, token: int, logits: torch.Tensor) -> Result:
        plain = self._logprobs(token, logits, next_token.candidate_count(request.params)).top
        return next_token.result(plain, request.job.likely, self.texts.shown_text)

    def _logprobs(self, token: int, logits: torch.Tensor, top: int) -> TokenLogprobs:
        return token_logprobs(self.texts, logits[: self._config.vocab_size], token, top)

    def _finish(self, request: Request, reason: str) -> Iterator[tuple[int, Event]]:
        rest = request.stream.finish(request.detokenizer.flush())
        if rest is not None:
            yield request.call, rest
        self.cancel(request.call)
        yield (
            request.call,
            Done(
                reason,
                prompt_tokens=len(request.prompt),
                cached_tokens=request.reused_tokens,
                completion_tokens=request.sampled_tokens,
                prompt_seconds=request.first_token_at - request.submitted_at,
                decode_seconds=time.monotonic() - request.first_token_at,
                stop_string=request.stream.stop_string,
            ),
        )


def _prompt_progress(prefill: Mapping[str, Any], reused_tokens: int) -> Progress:
    """Return the evaluated fraction of the prompt, not counting what was in the cache."""
    done, total = prefill["curr_progress"] - reused_tokens, prefill["max_progress"] - reused_tokens
    return Progress("prompt", max(done, 0) / max(total, 1))
