"""The child process: one engine, driven by JSON lines from the parent. Run as `python -m modules.worker`.

A request is one line, `[call, operation, arguments]`; `[call, "cancel", {}]` drops an earlier call. What is answered
is written by `events.to_line`. The main thread does all the work of the engine, for a second thread that called into
ggml would start a second OpenMP team and halve the speed of both for good. Another thread reads; it interrupts a long
step for a request that should not wait, and answers questions that have nothing to do with a step by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from modules.core.errors import InternalError, LoadFailed, NoModelLoaded, Unsupported, WebUIError
from modules.core.events import ENDS, Done, Event, Failed, Json, Progress, Result, Text, Waiting, to_line
from modules.core.prompt import Prompt
from modules.engines.engine_protocol import BatchingEngine, SerialEngine
from modules.engines.failure_causes import cause
from modules.engines.prompt_fitting import fit
from modules.options.option import Value
from modules.system import malloc

PAUSE_SECONDS = 0.05
"""Between two pieces of text that we send. Nobody sees whether text comes twenty times a second or a hundred, but each
time the parent wakes, on the processors that the model fills, all of its threads wait."""
ALONE = ("apply_loras",)
"""Operations that change what an answer would be: they wait for those under way, and later ones wait for them."""
_LEAVES_GAPS = ("load_in_8bit", "load_in_4bit", "use_eager_attention")
"""Options with which the C library's heap would grow by half again, and by another half the next time."""

Request = tuple[int, str, dict[str, Json]]


def main() -> None:
    requests, channel = _take_stdin(), _take_stdout()
    worker = Worker(channel)
    threading.Thread(target=_read, args=(requests, worker), daemon=True).start()
    worker.run()


def _take_stdin() -> BinaryIO:
    """The pipe from the parent, for us alone: whoever else reads stdin, such as a library's child, finds nothing."""
    requests = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests


def _take_stdout() -> BinaryIO:
    """The pipe to the parent, for us alone: from here on whatever a library prints goes to stderr."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return channel


def _read(pipe: BinaryIO, worker: Worker) -> None:
    for line in pipe:
        worker.receive(*json.loads(line))
    os._exit(0)  # the parent is gone or wants us gone; native code in the main thread could not be asked to stop


class Turns:
    """Gives a SerialEngine the verbs of a batching one: calls run one after the other, in the order they came."""

    def __init__(self, engine: SerialEngine) -> None:
        self.info = engine.info
        self.questions, self.operations = engine.questions, engine.operations
        self.tokenize, self._generate = engine.tokenize, engine.generate
        self._calls: OrderedDict[int, Generator[Text | Progress, None, Done]] = OrderedDict()
        self._untold: list[int] = []

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        self._calls[call] = self._generate(prompt, params)
        if len(self._calls) > 1:
            self._untold.append(call)

    def cancel(self, call: int) -> None:
        if call in self._calls:
            self._calls.pop(call).close()

    @property
    def idle(self) -> bool:
        return not self._calls

    def interrupt(self, urgent: bool) -> None:
        """A step is one event of one generator; there is nothing to break off."""

    def resume(self) -> None:
        """Nothing was interrupted."""

    def step(self) -> Iterator[tuple[int, Event]]:
        order = list(self._calls)
        for call in self._untold:
            if call in order[1:]:
                yield call, Waiting(order.index(call))
        self._untold.clear()
        call, generator = next(iter(self._calls.items()))
        event = _advance(generator)
        if isinstance(event, ENDS):
            del self._calls[call]
        yield call, event


def _advance(generator: Generator[Text | Progress, None, Done]) -> Event:
    try:
        return next(generator)
    except StopIteration as end:
        done: Done = end.value
        return done
    except Exception as error:  # part of the worker's edge: one call fails, the others go on
        return Failed(_in_words(error))


class Worker:
    """Serves requests, one engine for all its life. `run` is the main thread's, `receive` the reading one's."""

    def __init__(self, channel: BinaryIO) -> None:
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._channel = channel
        self._writing = threading.Lock()
        self._held: list[bytes] = []  # lines about to be sent
        self._sent = 0.0  # when the last ones were
        self._engine: BatchingEngine | Turns | None = None
        self._open: set[int] = set()  # generations that have not ended
        self._later: deque[Request] = deque()  # between two steps, the first is one of ALONE

    def receive(self, call: int, operation: str, args: dict[str, Json]) -> None:
        """Take in a request: answer it at once, or leave it to the main thread.

        Prompts are tokenized here, once, so that no step waits for it.
        """
        engine = self._engine
        if engine is not None and operation in engine.questions:
            self._reply(call, operation, args, lambda: engine.questions[operation](**args))
            return
        if engine is not None and operation == "generate":
            try:
                args = _tokenized(engine, **args)
            except Exception as error:  # part of the worker's edge
                self._send(call, Failed(_in_words(error)))
                return
        self._inbox.put((call, operation, args))
        if engine is not None:
            engine.interrupt(operation == "cancel")

    def run(self) -> None:
        while True:
            self._take_requests()
            if self._engine is not None and not self._engine.idle:
                self._step(self._engine)
            self._take_up()

    def _take_up(self) -> None:
        """Serve what waited, in the order it came: one of ALONE once the engine is idle, what follows it at once."""
        engine = self._engine
        while self._later and engine is not None and (engine.idle or self._later[0][1] not in ALONE):
            self._send_held()
            self._serve_now(*self._later.popleft())

    def _step(self, engine: BatchingEngine | Turns) -> None:
        try:
            for call, event in engine.step():
                self._held.append(self._line(call, event))
                if not isinstance(event, Text):
                    self._send_held()
        except Exception as error:  # a fault of the engine's loop: nobody is left waiting for an answer
            for call in list(self._open):
                engine.cancel(call)
                self._send(call, Failed(_in_words(error)))
        if time.monotonic() - self._sent >= PAUSE_SECONDS:
            self._send_held()

    def _take_requests(self) -> None:
        """Serve all that has arrived; wait for something to do if there is nothing at all."""
        if self._engine is None or self._engine.idle:
            self._serve(*self._inbox.get())
        if self._engine is not None:
            self._engine.resume()  # before looking: what comes from now on interrupts again
        while not self._inbox.empty():
            self._send_held()  # the next step may take long
            self._serve(*self._inbox.get())

    def _line(self, call: int, event: Event) -> bytes:
        if isinstance(event, ENDS):
            self._open.discard(call)
        return to_line(call, event)

    def _send_held(self) -> None:
        if self._held:
            self._write(b"".join(self._held))
            self._held.clear()
            self._sent = time.monotonic()

    def _send(self, call: int, event: Event) -> None:
        self._write(self._line(call, event))

    def _write(self, lines: bytes) -> None:
        with self._writing:
            self._channel.write(lines)

    def _reply(self, call: int, operation: str, args: Mapping[str, Json], answer: Callable[[], Json]) -> None:
        try:
            self._send(call, Result(answer()))
        except Exception as error:  # one of the three edges: whatever a backend throws becomes words
            self._send(call, Failed(_load_failed(args, error) if operation == "load" else _in_words(error)))

    def _serve(self, call: int, operation: str, args: dict[str, Json]) -> None:
        waits = bool(self._later) or (operation in ALONE and self._engine is not None and not self._engine.idle)
        if waits and operation in ("generate", *ALONE):
            self._later.append((call, operation, args))
            if operation == "generate":
                self._send(call, Waiting(sum(each[1] == "generate" for each in self._later)))
        else:
            self._serve_now(call, operation, args)

    def _serve_now(self, call: int, operation: str, args: dict[str, Json]) -> None:
        if operation not in ("generate", "cancel"):
            self._reply(call, operation, args, lambda: self._answer(call, operation, args))
            return
        try:
            self._begin(call, args) if operation == "generate" else self._cancel(call)
        except Exception as error:  # part of the same edge
            self._send(call, Failed(_in_words(error)))

    def _begin(self, call: int, args: dict[str, Json]) -> None:
        self._loaded().submit(call, **args)
        self._open.add(call)

    def _cancel(self, call: int) -> None:
        self._later = deque(each for each in self._later if each[0] != call)
        if call in self._open:
            self._open.discard(call)
            self._loaded().cancel(call)

    def _answer(self, call: int, operation: str, args: dict[str, Json]) -> Json:
        if operation == "load":
            return self._load(call, **args)
        if operation == "explain":
            return _engine_module(args["engine"]).explain(Path(args["path"]), args["options"])
        engine = self._loaded()
        operations = {**engine.operations, **engine.questions}
        if operation not in operations:
            raise Unsupported({"en": f"This loader cannot {operation}.", "zh": f"此加载器不支持 {operation}。"})
        return operations[operation](**args)

    def _load(self, call: int, engine: str, path: str, options: Mapping[str, Value]) -> Json:
        make = getattr(_engine_module(engine), engine.partition(":")[2])
        gaps = any(options.get(each) for each in _LEAVES_GAPS)
        with malloc.tight() if gaps else contextlib.nullcontext():
            made = make(Path(path), options, lambda progress: self._send(call, progress))
        self._engine = made if hasattr(made, "step") else Turns(made)
        return made.info.to_json()

    def _loaded(self) -> BatchingEngine | Turns:
        if self._engine is None:
            raise NoModelLoaded
        return self._engine


def _tokenized(engine: BatchingEngine | Turns, prompt: Json, params: Mapping[str, Json]) -> dict[str, Json]:
    """Return the arguments of `submit`. Raises PromptTooLong."""
    fitted = Prompt(prompt) if isinstance(prompt, str) else Prompt.from_json(prompt)
    return {"prompt": fit(fitted, lambda text: engine.tokenize(text, params)), "params": params}


def _engine_module(engine: str) -> Any:
    return importlib.import_module(engine.partition(":")[0])


def _load_failed(args: Mapping[str, Json], error: Exception) -> WebUIError:
    if isinstance(error, WebUIError):
        return error
    traceback.print_exception(error)
    words = f"{type(error).__name__}: {error}"
    return LoadFailed(args["engine"].partition(":")[2], Path(args["path"]).name, words, cause(words))


def _in_words(error: Exception) -> WebUIError:
    if isinstance(error, WebUIError):
        return error
    traceback.print_exception(error)
    return InternalError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
