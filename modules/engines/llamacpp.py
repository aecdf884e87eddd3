"""GGUF models through llama.cpp: one thread evaluates all sequences together, one batch a step.

This form has one slot: a further request waits for its turn. What a slot has evaluated stays, and the next request
that begins with the same tokens does not evaluate them again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules import machine
from modules.engines import llamacpp_native as native
from modules.engines.base import Report
from modules.engines.llamacpp_arguments import Build, arguments, notes
from modules.engines.stream import TextStream
from modules.errors import GenerationFailed, OptionError, PromptTooLong
from modules.events import Done, Event, Failed, Info, Json, Progress, Text, Waiting
from modules.options import Value

SLOTS = 1


def build() -> Build:
    """What the installed library can do."""
    return Build(native.Model.offloads(), native.Model.max_devices(), native.Model.has_amx())


def explain(path: Path, options: Mapping[str, Value]) -> Json:
    """The calls that loading would make, and what becomes of the options that cannot do what they say."""
    told = [{"option": note.option, "text": dict(note.text)} for note in notes(options, build())]
    return {"calls": arguments(path, options, build()), "notes": told}


@dataclass
class Slot:
    """One sequence of the context: `cells` are the tokens whose keys and values the cache holds, in order."""

    number: int
    cells: list[int] = field(default_factory=list)
    busy: bool = False


@dataclass
class Sequence:
    """One generation under way. `todo` are tokens not yet evaluated: of the prompt first, then the last one drawn."""

    call: int
    slot: Slot
    prompt: list[int]
    todo: list[int]
    params: Mapping[str, Json]
    sampler: native.Sampler
    stream: TextStream
    cached: int
    began: float
    drawn: int = 0
    answering: float = 0.0
    row: int = -1


@dataclass(frozen=True)
class Request:
    call: int
    prompt: list[int]
    params: Mapping[str, Json]


class LlamaCpp:
    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        self._model = native.Model(path, arguments(path, options, build()), _whole_percents(report))
        self._batch = native.Batch(self._model.n_batch)
        self._slots = [Slot(number) for number in range(SLOTS)]
        self._waiting: deque[Request] = deque()
        self._untold: list[int] = []
        self._running: list[Sequence] = []
        self._warm_up()
        self.operations = {"encode": self.encode, "decode": self.decode, "count": self.count}
        self.info = Info(
            context_length=self._model.n_ctx,
            bos_token=self._model.special(self._model.bos),
            eos_token=self._model.special(self._model.eos),
            memory=machine.resident_memory(),
            notes=tuple(notes(options, build())),
        )

    def _warm_up(self) -> None:
        """Evaluate one token, so that the first answer does not wait for threads and pages, then forget it."""
        self._batch.clear()
        self._batch.add(max(self._model.bos, self._model.eos, 0), 0, 0, False)
        if self._model.decode(self._batch) != 0:
            raise GenerationFailed("llama.cpp", "it cannot evaluate a single token of this model")
        self._model.clear()

    # -- questions ------------------------------------------------------------------------------------------------

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """The tokens of `text`, with BOS before it if the model wants that and `text` does not have it already."""
        bos = self._model.special(self._model.bos)
        doubled = self._model.adds_bos and bool(bos) and text.startswith(bos)
        return self._model.tokenize(text, add_special and not doubled)

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, special ones by their names. OptionError for a number that is no token."""
        for token in tokens:
            if not 0 <= token < self._model.n_vocab:  # llama.cpp aborts the process
                last = self._model.n_vocab - 1
                raise OptionError("tokens", token, {"en": f"tokens from 0 to {last}", "zh": f" 0 到 {last} 之间的词符"})
        return b"".join(self._model.piece(token, special=True) for token in tokens).decode("utf-8", "replace")

    # -- generation -----------------------------------------------------------------------------------------------

    def submit(self, call: int, prompt: str, params: Mapping[str, Json]) -> None:
        tokens = self.encode(prompt) or [max(self._model.bos, self._model.eos, 0)]
        if len(tokens) >= self._model.n_ctx:
            raise PromptTooLong(len(tokens), self._model.n_ctx - 1)
        self._waiting.append(Request(call, tokens, params))
        self._untold.append(call)

    def cancel(self, call: int) -> None:
        self._waiting = deque(request for request in self._waiting if request.call != call)
        for sequence in [each for each in self._running if each.call == call]:
            self._end(sequence)

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def step(self) -> Iterator[tuple[int, Event]]:
        """Admit who can be admitted, evaluate one batch, and draw a token for each sequence that is ready for one."""
        self._admit()
        yield from self._places()
        self._fill_batch()
        status = self._model.decode(self._batch)
        if status != 0:
            yield from self._give_up(status)
            return
        for sequence in list(self._running):
            yield from self._advance(sequence)

    def _admit(self) -> None:
        for slot in self._slots:
            if not slot.busy and self._waiting:
                self._begin(self._waiting.popleft(), slot)

    def _begin(self, request: Request, slot: Slot) -> None:
        # At least one token is evaluated, for its logits.
        common = min(_common_prefix(slot.cells, request.prompt), len(request.prompt) - 1)
        if not self._model.keep(slot.number, common):
            self._model.keep(slot.number, 0)  # a recurrent memory cannot go back a few tokens, only to its start
            common = 0
        del slot.cells[common:]
        sequence = Sequence(
            request.call,
            slot,
            request.prompt,
            request.prompt[common:],
            request.params,
            native.Sampler(self._model, request.params, request.prompt),
            TextStream(request.params["stop"]),
            cached=common,
            began=time.monotonic(),
        )
        slot.busy = True  # only now: parameters that make no sense must not block the slot
        self._running.append(sequence)

    def _places(self) -> Iterator[tuple[int, Event]]:
        """Tell newcomers who have to wait how many go before them."""
        order = [request.call for request in self._waiting]
        for call in self._untold:
            if call in order:
                yield call, Waiting(order.index(call) + len(self._running))
        self._untold.clear()

    def _fill_batch(self) -> None:
        self._batch.clear()
        for sequence in self._running:
            position = len(sequence.slot.cells)
            chunk = sequence.todo[: self._batch.room]
            complete = len(chunk) == len(sequence.todo)
            sequence.row = -1
            for offset, token in enumerate(chunk):
                wants_logits = complete and offset == len(chunk) - 1
                row = self._batch.add(token, position + offset, sequence.slot.number, wants_logits)
                sequence.row = row if wants_logits else -1
            sequence.slot.cells += chunk
            del sequence.todo[: len(chunk)]

    def _give_up(self, status: int) -> Iterator[tuple[int, Event]]:
        """The batch could not be evaluated: nobody can be served from a cache in an unknown state."""
        words = f"llama_decode answered {status}" + (" (no room in the cache)" if status == 1 else "")
        for sequence in list(self._running):
            self._end(sequence)
            yield sequence.call, Failed(GenerationFailed("llama.cpp", words))
        self._model.clear()
        for slot in self._slots:
            slot.cells.clear()

    def _advance(self, sequence: Sequence) -> Iterator[tuple[int, Event]]:
        if sequence.row < 0:
            done = 1 - len(sequence.todo) / max(len(sequence.prompt) - sequence.cached, 1)
            yield sequence.call, Progress("prompt", done)
            return
        if not sequence.drawn:
            sequence.answering = time.monotonic()
        text, reason = self._draw(sequence)
        if text is not None:
            yield sequence.call, text
        if reason:
            yield from self._finish(sequence, reason)

    def _draw(self, sequence: Sequence) -> tuple[Text | None, str]:
        """The next token's text, and why the answer ends with it: "" if it does not."""
        token = sequence.sampler.sample(sequence.row)
        sequence.drawn += 1
        if self._model.ends(token):
            return None, "stop"
        top = sequence.params["top_logprobs"]
        chances = None if top is None else self._model.chances(sequence.row, token, top)
        text = sequence.stream.feed(self._model.piece(token), chances)
        sequence.todo = [token]
        if sequence.stream.stopped:
            return text, "stop"
        full = len(sequence.slot.cells) >= self._model.n_ctx
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
                prompt_tokens=len(sequence.prompt),
                cached_tokens=sequence.cached,
                completion_tokens=sequence.drawn,
                prompt_seconds=sequence.answering - sequence.began,
                decode_seconds=time.monotonic() - sequence.answering,
            ),
        )

    def _end(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        sequence.slot.busy = False
        sequence.sampler.free()


def _common_prefix(left: list[int], right: list[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))


def _whole_percents(report: Report) -> Callable[[float], None]:
    """llama.cpp's many progress calls, passed on once a percent."""
    last = -1

    def advance(done: float) -> None:
        nonlocal last
        if int(done * 100) > last:
            last = int(done * 100)
            report(Progress("weights", done))

    return advance
