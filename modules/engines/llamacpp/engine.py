"""GGUF models through llama.cpp: one thread evaluates all requests together, one batch a step.

As many requests run at once as there are slots; the others wait and are told their place. A step evaluates one token of
each answer under way and, beside them, a small piece of the prompts that are still being read, so that no answer
stalls. A prompt that is read alone goes in large pieces, and such a step is broken off when somebody else comes.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import GenerationFailed, PromptTooLong
from modules.core.events import Done, Event, Failed, Info, Json, Note, Progress, Text, Waiting
from modules.engines.engine_protocol import Report
from modules.engines.llamacpp import bindings as native
from modules.engines.llamacpp.arguments import CANNOT_SHIFT, Build, arguments, notes
from modules.engines.llamacpp.kv_cache import Cache, Slot, common
from modules.engines.llamacpp.lora import LlamaAdapters
from modules.engines.llamacpp.sampler import Sampler
from modules.engines.llamacpp.threadpool import ComputeThreads
from modules.engines.lora_set import operation
from modules.engines.progress import whole_percents
from modules.engines.text_stream import TextStream
from modules.options.option import Value
from modules.system import cpu_memory

PIECE = 64
"""Tokens of prompts that a step evaluates beside others: 0.25 s on two slow cores, where 512 take 2.3 s."""
RESERVE = 256
"""Tokens of its answer for which there must be room when a request begins."""
WORTH_WAITING = 64
"""Tokens from which on a request rather waits until another has read the beginning that both have in common."""
SPARE_BYTES = 2 << 30
"""Main memory for conversations that are not in the cache, at most; and no more than a 16th of all there is."""


def build() -> Build:
    """What the installed library can do."""
    return Build(native.Model.offloads(), native.Model.max_devices(), native.Model.has_amx())


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(options, build())]
    return {"calls": arguments(path, options, build()), "notes": told}


@dataclass(eq=False)
class Sequence:
    """One request. `tokens` are those of the prompt and then those drawn, of which `evaluated` are in the cache.

    `taking` of them are in the batch under way; `row` is where its logits will be found, -1 if it asks for none.
    """

    call: int
    tokens: array[int]
    params: Mapping[str, Json]
    sampler: Sampler
    stream: TextStream
    prompt_tokens: int
    began: float
    slot: Slot | None = None
    place: int = 0
    evaluated: int = 0
    cached: int = -1
    taking: int = 0
    row: int = -1
    drawn: int = 0
    answering: float = 0.0

    @property
    def left(self) -> int:
        return len(self.tokens) - self.evaluated

    @property
    def demand(self) -> int:
        """Cells it needs for the time being."""
        limit = self.params["max_new_tokens"] or RESERVE
        return len(self.tokens) + min(max(limit - self.drawn, 1), RESERVE)


class LlamaCpp:
    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        calls = arguments(path, options, build())
        self.model = native.Model(path, calls, whole_percents(report))
        self._batch = native.Batch(self.model.n_batch)
        sinks = calls.get("llama_memory_seq_add", {}).get("attention_sink_size")
        spare = min(SPARE_BYTES, cpu_memory.total_memory() // 16)
        self._cache = Cache(self.model, calls["llama_init_from_model"]["n_seq_max"], sinks, spare)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._warm_up()
        self.questions = {"encode": self.encode, "decode": self.decode, "count": self.count}
        loras = operation(LlamaAdapters(self.model, self._cache.clear))
        bind = ComputeThreads(self.model.context, calls).bind
        own: dict[str, Callable[..., Json]] = {"cache": self._cache.told, "forget": self.forget}
        self.operations = own | {"apply_loras": loras, "bind_threads": bind}
        self.info = Info(
            context_length=self.model.n_ctx,
            bos_token=self.model.special(self.model.bos),
            eos_token=self.model.special(self.model.eos),
            memory=cpu_memory.resident_memory(),
            notes=(*notes(options, build()), *self._cannot_shift(bool(options["streaming_llm"]))),
        )

    def _cannot_shift(self, wanted: bool) -> Iterator[Note]:
        if wanted and not self.model.can_shift:
            yield CANNOT_SHIFT

    def _warm_up(self) -> None:
        """Evaluate one token, so that the first answer does not wait for threads and pages, then forget it."""
        self._batch.add(array("i", [max(self.model.bos, self.model.eos, 0)]), 0, 0, False)
        if self.model.decode(self._batch) != native.DECODED:
            raise GenerationFailed("llama.cpp", "it cannot evaluate a single token of this model")
        self.model.clear()

    # -- questions ------------------------------------------------------------------------------------------------

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """The tokens of `text`, with BOS before it if the model wants that and `text` does not have it already."""
        return self._encode(text, add_special).tolist()

    def _encode(self, text: str, add_special: bool = True) -> array[int]:
        bos = self.model.special(self.model.bos)
        doubled = self.model.adds_bos and bool(bos) and text.startswith(bos)
        return self.model.tokenize(text, add_special and not doubled)

    def count(self, text: str) -> int:
        return len(self._encode(text))

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, special ones by their names. OptionError for a number that is no token."""
        for token in tokens:
            self.model.check_token("tokens", token)
        return b"".join(self.model.piece(token, special=True) for token in tokens).decode("utf-8", "replace")

    # -- requests -------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return self.encode(text)

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        tokens = array("i", prompt or [max(self.model.bos, self.model.eos, 0)])
        if len(tokens) >= self.model.n_ctx:
            raise PromptTooLong(len(tokens), self.model.n_ctx - 1)
        stream = TextStream(params["stop"])
        sampler = Sampler(self.model, params, tokens)
        self._waiting.append(Sequence(call, tokens, params, sampler, stream, len(tokens), time.monotonic()))

    def forget(self) -> None:
        """Empty the cache, unless somebody needs it."""
        if not self._running:
            self._cache.clear()

    def cancel(self, call: int) -> None:
        for sequence in [each for each in (*self._waiting, *self._running) if each.call == call]:
            self._end(sequence)

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def interrupt(self, urgent: bool) -> None:
        """From another thread: a request has come. A step that takes long is broken off; any step if it is `urgent`."""
        lone = len(self._running) == 1 < len(self._cache.slots)
        if urgent or (lone and len(self._batch) > PIECE):
            self.model.interrupt()

    def resume(self) -> None:
        self.model.resume()

    def _end(self, sequence: Sequence) -> None:
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            sequence.slot.busy = False
        sequence.sampler.free()

    # -- who runs -------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let those begin for whom there are a slot and room, in the order they came."""
        for sequence in list(self._waiting):
            if self._cache.full or not self._fits(sequence):
                return
            if not self._gains_by_waiting(sequence):
                self._begin(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether it has room beside those that run. One alone always has."""
        needed = sequence.demand + sum(each.demand for each in self._running)
        return not self._running or needed - self._in_common(sequence) <= self.model.n_ctx

    def _in_common(self, sequence: Sequence) -> int:
        """How many tokens at its beginning it can have in common cells with one that runs."""
        if not self.model.can_share:
            return 0
        return max((common(sequence.tokens, each.tokens) for each in self._running), default=0)

    def _gains_by_waiting(self, sequence: Sequence) -> bool:
        """Whether somebody is just reading what `sequence` begins with, so that it could share that a little later."""
        reading = [each for each in self._running if each.left > 1]
        if not reading or not self.model.can_share:
            return False
        promised = max(common(sequence.tokens, each.tokens) for each in reading)
        return promised >= self._cache.reusable(sequence.tokens).length + WORTH_WAITING

    def _begin(self, sequence: Sequence) -> None:
        sequence.slot, sequence.evaluated = self._cache.take(self._cache.reusable(sequence.tokens))
        if sequence.cached < 0:
            sequence.cached = sequence.evaluated
        self._waiting.remove(sequence)
        self._running.append(sequence)

    def _set_aside(self, sequence: Sequence) -> None:
        """Let it wait before all others, until there is room again."""
        assert sequence.slot is not None
        self._running.remove(sequence)
        sequence.slot.busy = False
        sequence.slot = None
        self._waiting.appendleft(sequence)

    def _places(self) -> Iterator[tuple[int, Event]]:
        """Tell those who wait how many go before them, whenever that has changed."""
        for place, sequence in enumerate(self._waiting, 1):
            if sequence.place != place:
                sequence.place = place
                yield sequence.call, Waiting(place)

    # -- a step ---------------------------------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, Event]]:
        """Admit who can be admitted, evaluate one batch, and draw a token for each sequence that is ready for one."""
        self._admit()
        self._cache.tidy()
        yield from self._places()
        self._fill_batch()
        status = self.model.decode(self._batch)
        if status == native.DECODED:
            for sequence in list(self._running):
                yield from self._advance(sequence)
        elif status == native.ABORTED:
            self._read_back()
        elif status != native.FULL or not self._make_room():
            yield from self._give_up(status)
        self._batch.clear()

    def _fill_batch(self) -> None:
        self._batch.clear()
        writing = [each for each in self._running if each.left == 1]
        reading = sorted((each for each in self._running if each.left > 1), key=lambda each: each.left)
        for sequence in writing:
            assert sequence.slot is not None
            place = (len(sequence.slot.cells), sequence.slot.number)
            sequence.taking, sequence.row = 1, self._batch.add_one(sequence.tokens[-1], *place)
        room = self._batch.capacity - len(writing)
        room = room if len(self._running) == 1 else min(room, PIECE)
        for index, sequence in enumerate(reading):  # in equal parts; what the short ones leave goes to the long ones
            part = min(sequence.left, room // (len(reading) - index))
            self._take(sequence, part)
            room -= part

    def _take(self, sequence: Sequence, count: int) -> None:
        assert sequence.slot is not None
        sequence.taking, sequence.row = count, -1
        if not count:
            return
        tokens = sequence.tokens[sequence.evaluated : sequence.evaluated + count]
        place = (len(sequence.slot.cells), sequence.slot.number)
        sequence.row = self._batch.add(tokens, *place, wants_logits=count == sequence.left)

    def _read_back(self) -> None:
        """The batch was broken off: keep what of it has been evaluated, and leave each a token to get logits from."""
        for sequence in self._running:
            assert sequence.slot is not None
            begin = sequence.evaluated
            done = self._cache.read_back(sequence.slot, sequence.tokens[begin : begin + sequence.taking])
            sequence.evaluated = begin + done if done >= 0 else 0
            if not sequence.left:
                sequence.evaluated -= 1
                self._cache.cut(sequence.slot, len(sequence.slot.cells) - 1)

    def _make_room(self) -> bool:
        """Take cells from who needs them least: from idle slots, then from who came last. False if nobody is left."""
        if self._cache.make_room():
            return True
        if len(self._running) > 1:
            self._set_aside(self._running[-1])
            return self._cache.make_room()
        return False

    def _give_up(self, status: int) -> Iterator[tuple[int, Event]]:
        """The batch could not be evaluated: nobody can be served from a cache in an unknown state."""
        words = f"llama_decode answered {status}" + (" (no room in the cache)" if status == native.FULL else "")
        for sequence in list(self._running):
            self._end(sequence)
            yield sequence.call, Failed(GenerationFailed("llama.cpp", words))
        self._cache.clear()

    # -- a sequence -----------------------------------------------------------------------------------------------

    def _advance(self, sequence: Sequence) -> Iterator[tuple[int, Event]]:
        assert sequence.slot is not None
        end = sequence.evaluated + sequence.taking
        sequence.slot.cells.extend(sequence.tokens[sequence.evaluated : end])
        sequence.evaluated = end
        if sequence.row < 0:
            read = (end - sequence.cached) / max(sequence.prompt_tokens - sequence.cached, 1)
            yield sequence.call, Progress("prompt", min(read, 1.0))
            return
        sequence.answering = sequence.answering or time.monotonic()
        try:
            text, reason = self._draw(sequence)
        except GenerationFailed as error:  # the others go on
            self._end(sequence)
            yield sequence.call, Failed(error)
            return
        if text is not None:
            yield sequence.call, text
        if reason:
            yield from self._finish(sequence, reason)

    def _draw(self, sequence: Sequence) -> tuple[Text | None, str]:
        """The next token's text, and why the answer ends with it: "" if it does not."""
        token = sequence.sampler.sample(sequence.row)
        sequence.drawn += 1
        if self.model.ends(token):
            return None, "stop"
        top = sequence.params["top_logprobs"]
        chances = None if top is None else self.model.chances(sequence.row, token, top)
        text = sequence.stream.feed(self.model.piece(token), chances)
        sequence.tokens.append(token)
        if sequence.stream.stopped:
            return text, "stop"
        assert sequence.slot is not None
        full = len(sequence.slot.cells) >= self.model.n_ctx
        enough = sequence.drawn == sequence.params["max_new_tokens"]
        return text, "length" if full or enough else ""

    def _finish(self, sequence: Sequence, reason: str) -> Iterator[tuple[int, Event]]:
        rest = sequence.stream.finish()
        if rest is not None:
            yield sequence.call, rest
        self._end(sequence)
        yield (
            sequence.call,
            Done(
                reason,
                prompt_tokens=sequence.prompt_tokens,
                cached_tokens=sequence.cached,
                completion_tokens=sequence.drawn,
                prompt_seconds=sequence.answering - sequence.began,
                decode_seconds=time.monotonic() - sequence.answering,
            ),
        )
