"""Answers of ExLlamaV2's dynamic generator: as many at once as its cache has pages for, one token of each a step.

Without flash-attention its cache cannot be shared out, and it writes one answer after the other.

A job of the generator takes all the pages that it may need when it begins, and an answer may fill the context; so a job
writes no further than to the end of a page, and the next one goes on from there. Requests that find too few pages wait
and are told their place; answers under way go before them.
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

from modules.core.errors import GenerationFailed, OptionError, PromptTooLong
from modules.core.events import Done, Event, Failed, Info, Json, Progress, Text, Waiting
from modules.engines.engine_protocol import Operations, Report
from modules.engines.exllamav2.arguments import GENERATOR, PAGE_SIZE, Environment, context_length, generator_arguments
from modules.engines.exllamav2.build import loaded
from modules.engines.exllamav2.job import FAULTS, GrammarFilter, Job, settings
from modules.engines.exllamav2.lora import ExLlamaAdapters
from modules.engines.exllamav2.notes import NO_PAGED_CACHE_NOTE, generator_notes
from modules.engines.hf.arguments import TOKENIZER
from modules.engines.hf.evaluator import token_chances
from modules.engines.hf.model import load_tokenizer
from modules.engines.hf.sampling.vocabulary import TokenizerVocabulary
from modules.engines.hf.token_text import Detokenizer, TextTokenizer
from modules.engines.lora_set import LoraSet
from modules.engines.text_stream import TextStream
from modules.options.option import Value
from modules.system import cpu_memory

NAME = "ExLlamav2"
SHORTEST = 32
"""Tokens at the end of a page for which a job is not worth its beginning."""
_NO_GUIDANCE = {
    "en": "1, unless the model is loaded with cfg-cache, and flash-attention is installed",
    "zh": "1（除非已安装 flash-attention，且加载模型时勾选“CFG缓存”）",
}


@dataclass(eq=False)
class Answer:
    """One request, which ends after `limit` tokens: `earlier` ones, and `taken` of those that `job` has drawn."""

    call: int
    job: Job
    limit: int
    prompt: list[int]
    params: Mapping[str, Json]
    stream: TextStream
    detokenizer: Detokenizer
    began: float
    place: int = 0
    earlier: int = 0
    taken: int = 0
    cached: int = 0
    answering: float = 0.0


class Engine:
    def __init__(self, path: Path, options: Mapping[str, Value], environment: Environment, report: Report) -> None:
        calls = generator_arguments(path, options, environment)
        self.texts = TextTokenizer(load_tokenizer(calls[TOKENIZER]))
        made = loaded(calls, report)
        self._model, self._config = made.model, made.config
        own = self.texts.tokenizer.eos_token_id
        self._ends = sorted(made.ends | ({own} if own is not None else set()))
        self._context = context_length(path, options)
        self._vocabulary = TokenizerVocabulary(self.texts.tokenizer, made.config.vocab_size, self._ends)
        self._native_tokenizer = ExLlamaV2Tokenizer(made.config)
        words = dict(calls[GENERATOR])
        told = [*generator_notes(path, options, environment)]
        if words["paged"] and made.config.no_flash_attn:  # the model is one that it does not suit
            words["paged"] = False
            told += [NO_PAGED_CACHE_NOTE] if options["cfg_cache"] else []
        self._generator: Any = ExLlamaV2DynamicGenerator(made.model, made.caches[0], self._native_tokenizer, **words)
        self._can_guide = words["paged"] and bool(options["cfg_cache"])
        self._answers: list[Answer] = []
        self.questions = self.texts.questions
        loras = LoraSet(ExLlamaAdapters(made.model, self.texts, self._put_in)).apply
        self.operations: Operations = {"forget": self.forget, "apply_loras": loras}
        self.info = Info(
            context_length=self._context,
            bos_token=self.texts.special_token("bos"),
            eos_token=self.texts.special_token("eos"),
            chat_template=self.texts.chat_template,
            memory=cpu_memory.resident_memory(),
            notes=tuple(told),
        )

    # -- requests -------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return self.texts.encode(text, params["add_bos_token"])

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        tokens = self._checked(prompt)
        guided = params["guidance_scale"] != 1
        if guided and not self._can_guide:
            raise OptionError("guidance_scale", params["guidance_scale"], _NO_GUIDANCE)
        sequences = [tokens, self._checked(self.tokenize(params["negative_prompt"], params))] if guided else [tokens]
        room = self._context - max(map(len, sequences))
        limit = min(params["max_new_tokens"] or room, room)
        job = self._job(sequences, params, limit)
        self._generator.enqueue(job)
        detokenizer = Detokenizer(self.texts, tokens, not params["skip_special_tokens"])
        stream = TextStream(params["stop"])
        self._answers.append(Answer(call, job, limit, tokens, params, stream, detokenizer, time.monotonic()))

    def _checked(self, prompt: list[int]) -> list[int]:
        """Return the tokens of a prompt; of an empty one a single token, for there must be something to continue.

        Raises PromptTooLong if there would be no room for an answer.
        """
        bos = self.texts.tokenizer.bos_token_id
        tokens = list(prompt) or [(self._ends or [0])[0] if bos is None else bos]
        if len(tokens) >= self._context:
            raise PromptTooLong(len(tokens), self._context - 1)
        return tokens

    def _job(self, sequences: list[list[int]], params: Mapping[str, Json], limit: int) -> Job:
        """One of several sequences draws the same token for all."""
        size = self._generator.padded_vocab_size
        sampling = settings(params, self.texts, self._vocabulary, self._ends, size)
        sampling.cfg_scale = params["guidance_scale"] if len(sequences) > 1 else None
        filters = []
        if params["grammar_string"]:
            matcher = self._vocabulary.grammar(params["grammar_string"])()
            filters.append(GrammarFilter(self._model, self._native_tokenizer, matcher))
        return Job(
            params["top_logprobs"] is not None,
            self._ends,
            input_ids=[torch.tensor([tokens], dtype=torch.long) for tokens in sequences],
            max_new_tokens=self._share(max(map(len, sequences)), limit),
            min_new_tokens=params["min_length"],
            gen_settings=sampling,
            seed=params["seed"] if params["seed"] >= 0 else None,
            filters=filters,
        )

    def _share(self, length: int, limit: int) -> int:
        """How many of `limit` tokens a job writes after `length`: to the end of this page, or of the next one."""
        if not self._generator.paged:
            return limit
        rest = PAGE_SIZE - length % PAGE_SIZE
        return min(limit, rest if rest >= SHORTEST else rest + PAGE_SIZE)

    def _go_on(self, answer: Answer) -> None:
        """Its job has come to the end of its pages."""
        answer.earlier += answer.taken
        answer.taken = 0
        length = max(len(each.sequence_ids) for each in answer.job.sequences)
        answer.job = answer.job.continued(self._share(length, answer.limit - answer.earlier))
        self._generator.enqueue(answer.job)
        pending = self._generator.pending_jobs
        pending.insert(0, pending.pop())

    def forget(self) -> None:
        """Keep nothing of what was computed, unless somebody needs it."""
        if self.idle:
            self._generator.reset_page_table()

    def _put_in(self, loras: list[Any]) -> None:
        # Not by `set_loras`, which makes an empty list of none: 0.3.2 then looks for the first of them.
        self._generator.current_loras = loras or None
        self._generator.reset_page_table()

    def cancel(self, call: int) -> None:
        for answer in [each for each in self._answers if each.call == call]:
            self._generator.cancel(answer.job)
            self._answers.remove(answer)

    @property
    def idle(self) -> bool:
        return not self._answers

    def interrupt(self, urgent: bool) -> None:
        """A step is one token of each answer and a piece of each prompt; there is nothing to break off."""

    def resume(self) -> None:
        """Nothing was interrupted."""

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, Event]]:
        """Begin what there is room for, read a piece of each prompt, write a token of each answer."""
        try:
            said = self._generator.iterate()
        except (*FAULTS, MemoryError) as error:
            traceback.print_exception(error)
            yield from self._give_up(f"{type(error).__name__}: {error}")
            return
        yield from self._places()
        reading = {id(each["job"]): each for each in said if each["stage"] == "prefill"}
        for answer in list(self._answers):
            if (read := reading.get(id(answer.job))) and not answer.job.drawn and not answer.earlier:
                yield answer.call, _progress(read, answer.job.cached)
            yield from self._advance(answer)

    def _places(self) -> Iterator[tuple[int, Event]]:
        """Tell those who wait how many go before them, whenever that has changed."""
        pending = self._generator.pending_jobs
        waiting = [each for each in self._answers if each.job in pending]
        for place, answer in enumerate(waiting, 1):
            if answer.place != place:
                answer.place = place
                yield answer.call, Waiting(place)

    def _give_up(self, words: str) -> Iterator[tuple[int, Event]]:
        """The cache is in an unknown state: nobody can go on, but those who have not begun can begin."""
        lost = [each for each in self._answers if each.job not in self._generator.pending_jobs]
        self._generator.active_jobs.clear()
        self._generator.reset_page_table()
        for answer in lost:
            self._answers.remove(answer)
            yield answer.call, Failed(GenerationFailed(NAME, words))

    def _advance(self, answer: Answer) -> Iterator[tuple[int, Event]]:
        """What its job has drawn since the last step."""
        for token, logits in answer.job.drawn[answer.taken :]:
            answer.taken += 1
            if not answer.answering:
                answer.answering, answer.cached = time.monotonic(), min(answer.job.cached, len(answer.prompt) - 1)
            if answer.job.fault:
                yield answer.call, Failed(GenerationFailed(NAME, answer.job.fault))
                self.cancel(answer.call)
                return
            text, reason = self._told(answer, token, logits)
            if text is not None:
                yield answer.call, text
            if reason:
                yield from self._end(answer, reason)
                return
        if answer.job.is_finished:
            self._go_on(answer)

    def _told(self, answer: Answer, token: int, logits: torch.Tensor | None) -> tuple[Text | None, str]:
        """The token's text, and why the answer ends with it: "" if it does not."""
        if token in self._ends:
            return None, "stop"
        top = answer.params["top_logprobs"]
        chances = None
        if logits is not None:
            chances = token_chances(self.texts, logits[: self._config.vocab_size], token, top)
        text = answer.stream.feed(answer.detokenizer.feed(token), chances)
        if answer.stream.stopped:
            return text, "stop"
        return text, "length" if answer.earlier + answer.taken >= answer.limit else ""

    def _end(self, answer: Answer, reason: str) -> Iterator[tuple[int, Event]]:
        last = answer.stream.finish(answer.detokenizer.flush())
        if last is not None:
            yield answer.call, last
        self.cancel(answer.call)
        yield (
            answer.call,
            Done(
                reason,
                prompt_tokens=len(answer.prompt),
                cached_tokens=answer.cached,
                completion_tokens=answer.earlier + answer.taken,
                prompt_seconds=answer.answering - answer.began,
                decode_seconds=time.monotonic() - answer.answering,
            ),
        )


def _progress(read: Mapping[str, Any], cached: int) -> Progress:
    """What need not be read does not count."""
    return Progress("prompt", max(read["curr_progress"] - cached, 0) / max(read["max_progress"] - cached, 1))
