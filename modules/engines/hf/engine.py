"""Answers under transformers' samplers: several at once where the model allows it, one token of each a step.

We drive the model ourselves instead of having `generate` do so in a thread: the thread that serves requests is the only
one that computes (a second one would cost both a third of their speed), an answer ends at once when nobody wants it any
more, and what was computed stays for the next turn. A step reads a piece of one prompt and writes a token of each
answer under way.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modules.core.errors import GenerationFailed, OptionError, PromptTooLong
from modules.core.events import Done, Event, Failed, Info, Json, Note, Progress, Text, Waiting
from modules.engines.engine_protocol import Operations
from modules.engines.hf.batch import Batch, Passage
from modules.engines.hf.kv_cache import Shelf
from modules.engines.hf.prompt_lookup import guess
from modules.engines.hf.sampling.pipeline import NoTokenLeft, choose, guided, processors, seeded
from modules.engines.hf.sampling.vocabulary import Vocabulary
from modules.engines.hf.token_text import Evaluator, Interrupted, Words
from modules.engines.text_stream import TextStream
from modules.system import cpu_memory

BESIDE = 96
"""Tokens of a prompt that a step reads beside answers under way."""
ROWS = 4
"""Answers at once; the others wait."""
SPARE_BYTES = 2 << 30
"""Memory for the caches of answers that have ended, at most."""

_NO_GUIDANCE = {"en": "1, unless the model is loaded with cfg-cache", "zh": "1（除非加载模型时勾选“CFG缓存”）"}


@dataclass(eq=False)
class Answer:
    """One request. `passage.tokens` are those of the prompt and then those drawn."""

    call: int
    prompt: list[int]
    params: Mapping[str, Json]
    stream: TextStream
    words: Words
    process: Any  # what acts on the logits
    luck: torch.Generator
    negative: Passage | None  # the negative prompt, and then the same answer
    began: float
    seen: Tensor  # all tokens so far, shape (1, room), for those who look back
    unwanted: Tensor | None = None  # the logits after `negative`
    passage: Passage = field(default_factory=lambda: Passage([], None))
    cached: int = 0
    drawn: int = 0
    answering: float = 0.0
    place: int = 0


class Engine:
    def __init__(self, model: Evaluator, vocabulary: Vocabulary, context: int, notes: Iterable[Note]) -> None:
        self.model = model
        self._vocabulary = vocabulary
        self._context = context
        self._shelf = model.shelf(_spare_bytes(model.device))
        self._waiting: deque[Answer] = deque()
        self._reading: deque[Answer] = deque()
        self._writing: list[Answer] = []  # in the order of the batch
        self._batch = Batch(self.model)
        self._warm_up()
        self.questions = self.model.questions
        self.operations: Operations = {"forget": self.forget}
        self.info = Info(
            context_length=self._context,
            bos_token=self.model.special("bos"),
            eos_token=self.model.special("eos"),
            chat_template=self.model.chat_template,
            memory=cpu_memory.resident_memory(),
            notes=tuple(notes),
        )

    def _warm_up(self) -> None:
        """Evaluate one token, so that the first answer does not wait for threads and pages; see what cache it takes."""
        model = self.model
        cache = model.fresh() if model.writes_apart else self._shelf.take([0])[0]
        model.forward([0], cache, model.read([0]) if model.writes_apart else None)
        self._rows = ROWS if model.can_batch and model.can_cut(cache) else 1
        self._reads_whole = model.sums_up(cache)
        self._shelf.clear()

    # -- requests -------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return self.model.encode(text, params["add_bos_token"])

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        tokens = list(prompt) or self._first()
        if len(tokens) >= self._context and not self.model.writes_apart:
            raise PromptTooLong(len(tokens), self._context - 1)
        luck = seeded(params, self.model.device)
        process = processors(
            params,
            prompt_tokens=tokens,
            vocabulary=self._vocabulary,
            eos=sorted(self.model.ends),
            device=self.model.device,
            generator=luck,
        )
        negative = None
        if params["guidance_scale"] != 1:
            negative = self._negative(params)
        words = Words(self.model, [] if self.model.writes_apart else tokens, not params["skip_special_tokens"])
        seen = torch.empty(1, 0, dtype=torch.long, device=self.model.device)
        stream = TextStream(params["stop"])
        made = Answer(call, tokens, params, stream, words, process, luck, negative, time.monotonic(), seen)
        self._waiting.append(made)

    def _negative(self, params: Mapping[str, Json]) -> Passage:
        if not self.model.can_guide:
            raise OptionError("guidance_scale", params["guidance_scale"], _NO_GUIDANCE)
        tokens = self.tokenize(params["negative_prompt"], params) or self._first()
        if len(tokens) >= self._context:
            raise PromptTooLong(len(tokens), self._context - 1)
        return Passage(tokens, None)

    def _first(self) -> list[int]:
        """Return the token that an empty prompt stands for: there must be something to continue."""
        ends = sorted(self.model.ends) or [0]
        bos = self.model.tokenizer.bos_token_id
        return [ends[0] if bos is None else bos]

    def forget(self) -> None:
        """Keep no cache of answers that have ended, unless another is under way."""
        if self.idle:
            self._shelf.clear()

    def cancel(self, call: int) -> None:
        for queue in (self._waiting, self._reading):
            for answer in [each for each in queue if each.call == call]:
                queue.remove(answer)
                self._put_away(answer)
        self._leave([each for each in self._writing if each.call == call])

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._reading or self._writing)

    def interrupt(self, urgent: bool) -> None:
        """From another thread: what is urgent need not wait until a piece of a prompt has been read."""
        if urgent:
            self.model.interrupt(True)

    def resume(self) -> None:
        self.model.interrupt(False)

    def _leave(self, leaving: list[Answer]) -> None:
        self._batch.remove([answer.passage for answer in leaving])
        for answer in leaving:
            self._writing.remove(answer)
            self._put_away(answer)

    def _put_away(self, answer: Answer) -> None:
        """Keep what was computed for a later turn."""
        if self.model.writes_apart:
            return
        for passage in (answer.passage, answer.negative):
            if passage is not None and passage.cache is not None:
                self._shelf.keep(passage.tokens[: passage.evaluated], passage.cache)

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, Event]]:
        """Admit who can be admitted, write a token of each answer, read a piece of a prompt."""
        self._admit()
        yield from self._places()
        under_way = [*self._reading, *self._writing]
        sound = False
        try:
            yield from self._compute()
            sound = True
        except (RuntimeError, MemoryError) as error:
            traceback.print_exception(error)
            for answer in under_way:
                yield answer.call, Failed(GenerationFailed(self.model.name, f"{type(error).__name__}: {error}"))
        finally:
            if not sound:  # the caches are in an unknown state: nobody can go on
                self._start_anew()

    def _compute(self) -> Iterator[tuple[int, Event]]:
        if self._writing:
            yield from self._write()
        if self._reading:
            yield from self._read(min(self._reading, key=lambda each: each.passage.left))

    def _start_anew(self) -> None:
        self._reading.clear()
        self._writing.clear()
        self._batch = Batch(self.model)
        self._shelf.clear()

    def _admit(self) -> None:
        while self._waiting and len(self._reading) + len(self._writing) < self._rows:
            answer = self._waiting.popleft()
            self._begin(answer)
            self._reading.append(answer)

    def _begin(self, answer: Answer) -> None:
        if self.model.writes_apart:
            source = self.model.read(answer.prompt)
            answer.passage = Passage([self.model.first_written], self.model.fresh(), source=source)
        else:
            cache, evaluated = self._shelf.take(answer.prompt)
            answer.passage = Passage(list(answer.prompt), cache, evaluated)
            answer.cached = evaluated
        if answer.negative is not None:
            answer.negative.cache, answer.negative.evaluated = self._beginning(answer.negative)

    def _beginning(self, negative: Passage) -> tuple[Any, int]:
        return (self.model.fresh(), 0) if self.model.writes_apart else self._shelf.take(negative.tokens)

    def _places(self) -> Iterator[tuple[int, Event]]:
        """Tell those who wait how many go before them, whenever that has changed."""
        for place, answer in enumerate(self._waiting, 1):
            if answer.place != place:
                answer.place = place
                yield answer.call, Waiting(place)

    def _read(self, answer: Answer) -> Iterator[tuple[int, Event]]:
        """Read a piece of its prompts; if that was the last one, draw the first token."""
        negative = answer.negative
        passage = negative if negative is not None and negative.left else answer.passage
        piece = BESIDE if self._writing else self.model.piece
        try:
            logits = self._evaluate(passage, passage.left if self._reads_whole else piece)
        except (Interrupted, torch.OutOfMemoryError) as error:
            if not isinstance(error, Interrupted) and not self._make_room():
                raise
            self._read_again(passage)
            return
        if passage is negative:
            answer.unwanted = logits
            return
        if answer.passage.left:
            done = (answer.passage.evaluated - answer.cached) / max(len(answer.prompt) - answer.cached, 1)
            yield answer.call, Progress("prompt", done)
            return
        self._reading.remove(answer)
        answer.answering = time.monotonic()
        ended = yield from self._go_on(answer, logits)
        if ended:
            self._put_away(answer)
        else:
            self._writing.append(answer)
            self._batch.add(answer.passage)

    def _evaluate(self, passage: Passage, piece: int) -> Tensor:
        begin = passage.evaluated
        end = min(begin + piece, len(passage.tokens))
        logits = self.model.forward_or_break_off(passage.tokens[begin:end], passage.cache, passage.source)
        passage.evaluated = end
        return logits

    def _read_again(self, passage: Passage) -> None:
        """The piece was broken off in some layer."""
        passage.cache, passage.evaluated = self.model.cut_back(passage.cache, passage.evaluated)

    def _write(self) -> Iterator[tuple[int, Event]]:
        """A token of each answer in the batch; more of one alone, if guesses come true."""
        guesses = self._guesses(self._writing[0]) if self._batch.can_guess else []
        logits = self._logits(guesses)
        if logits is None:
            return
        if guesses:
            yield from self._write_guesses(self._writing[0], guesses, logits)
            return
        ended = []
        for place, answer in enumerate(self._writing):
            if (yield from self._go_on(answer, logits[place : place + 1])):
                ended.append(answer)
        self._leave(ended)

    def _logits(self, guesses: list[int]) -> Tensor | None:
        """After the batch's last tokens, and after `guesses`; None if the next step is to try it again."""
        try:
            return self._batch.forward_guesses(guesses) if guesses else self._batch.forward()
        except torch.OutOfMemoryError:
            if not self._batch.go_back() or not self._make_room():
                raise
        return None

    def _make_room(self) -> bool:
        """On a GPU, where answers that have ended may stand in the way of one under way. False if none do.

        Only for our own kind of cache: all others have had their memory from the beginning."""
        if not isinstance(self._shelf, Shelf) or not len(self._shelf):
            return False
        self._shelf.clear()
        return True

    def _guesses(self, answer: Answer) -> list[int]:
        wanted = answer.params["prompt_lookup_num_tokens"]
        room = self._context - len(answer.passage.tokens)
        if limit := answer.params["max_new_tokens"]:
            room = min(room, limit - answer.drawn - 1)
        return guess(answer.passage.tokens, min(wanted, room)) if wanted and room > 0 else []

    def _write_guesses(self, answer: Answer, guesses: list[int], logits: Tensor) -> Iterator[tuple[int, Event]]:
        """Draw a token after the last one and after each guess, up to the first guess that was wrong."""
        ended = False
        for place, guessed in enumerate([*guesses, -1]):
            ended = yield from self._go_on(answer, logits[place : place + 1])
            if ended or answer.passage.tokens[-1] != guessed:
                break
        self._batch.keep(len(answer.passage.tokens) - 1)
        if ended:
            self._leave([answer])

    def _go_on(self, answer: Answer, logits: Tensor) -> Generator[tuple[int, Event], None, bool]:
        """The next token, drawn from logits of shape (1, size). True if the answer ends with it."""
        try:
            text, reason = self._draw(answer, logits)
        except NoTokenLeft as error:  # the others go on
            yield answer.call, Failed(GenerationFailed(self.model.name, str(error)))
            return True
        if text is not None:
            yield answer.call, text
        if reason:
            yield from self._end(answer, reason)
        return bool(reason)

    def _draw(self, answer: Answer, logits: Tensor) -> tuple[Text | None, str]:
        """The next token's text, and why the answer ends with it: "" if it does not."""
        token = self._choose(answer, logits)
        answer.drawn += 1
        if token in self.model.ends:
            return None, "stop"
        top = answer.params["top_logprobs"]
        chances = None if top is None else self.model.chances(logits[0], token, top)
        text = answer.stream.feed(answer.words.feed(token), chances)
        answer.passage.tokens.append(token)
        if answer.stream.stopped:
            return text, "stop"
        unwanted = answer.negative.tokens if answer.negative is not None else ()
        full = max(len(answer.passage.tokens), len(unwanted) + 1) > self._context
        enough = answer.drawn == answer.params["max_new_tokens"]
        return text, "length" if full or enough else ""

    def _choose(self, answer: Answer, logits: Tensor) -> int:
        if answer.negative is not None:
            logits = guided(logits, self._unwanted(answer), answer.params["guidance_scale"])
        if len(answer.process):
            logits = answer.process(self._seen(answer), logits)
        return int(choose(logits, answer.params, answer.luck))

    def _seen(self, answer: Answer) -> Tensor:
        """All its tokens so far, the prompt's among them, as the processors want them."""
        known = answer.seen.shape[1]
        told = answer.passage.tokens if not self.model.writes_apart else [*answer.prompt, *answer.passage.tokens[1:]]
        new = torch.tensor([told[known:]], dtype=torch.long, device=self.model.device)
        answer.seen = torch.cat([answer.seen, new], dim=1)
        return answer.seen

    def _unwanted(self, answer: Answer) -> Tensor:
        """The logits of the same answer after the negative prompt, which has been read before the answer's own."""
        passage = answer.negative
        assert passage is not None and answer.unwanted is not None
        if answer.drawn:
            passage.tokens.append(answer.passage.tokens[-1])
            passage.evaluated += 1
            answer.unwanted = self.model.forward(passage.tokens[-1:], passage.cache)
        return answer.unwanted

    def _end(self, answer: Answer, reason: str) -> Iterator[tuple[int, Event]]:
        last = answer.stream.finish(answer.words.rest())
        if last is not None:
            yield answer.call, last
        yield (
            answer.call,
            Done(
                reason,
                prompt_tokens=len(answer.prompt),
                cached_tokens=answer.cached,
                completion_tokens=answer.drawn,
                prompt_seconds=answer.answering - answer.began,
                decode_seconds=time.monotonic() - answer.answering,
            ),
        )


def _spare_bytes(device: torch.device) -> int:
    """For caches of answers that have ended, which lie where the model does: of a GPU a quarter of what that leaves."""
    if device.type == "cuda":
        return min(SPARE_BYTES, int(torch.cuda.mem_get_info(device)[0]) // 4)
    return min(SPARE_BYTES, cpu_memory.total_memory() // 16)
