"""The worker process: one engine, driven by JSON lines from the parent. Run as `python -m modules.worker`.

A request is one line, `[call, operation, arguments]`; `[call, "cancel", {}]` drops an earlier call. Answers are lines
of `events.to_line`. The main thread does all the work of the engine: a second thread that called into ggml would start
a second OpenMP team and halve the speed of both for good. A reading thread takes requests in; it tokenizes prompts,
answers questions that need nothing a step uses, and interrupts a long step for a request that should not wait. Large
requests are tokenized by a third thread, so that the others do not wait for them. A `TextEngine` computes nothing here:
it waits for its server in threads of its own, and the main thread hands on what has come.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from modules.core import quick_json, request_route
from modules.core.errors import NoModelLoaded, Unsupported, WebUIError
from modules.core.events import (
    ENDS,
    NO_CALL,
    Begun,
    Done,
    Event,
    Failed,
    Json,
    Result,
    Text,
    Waiting,
    text_item,
    texts_line,
    to_line,
)
from modules.core.prompt import PRIVATE, Prompt
from modules.core.worker_errors import LoadFailed
from modules.engines import next_token
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import BatchingEngine, TextEngine, saves_prompts, takes_text
from modules.engines.error_edge import as_error
from modules.engines.failure_causes import cause
from modules.engines.prompt_cache.saving import CLOSING_SECONDS, FINISH_SECONDS, next_request, save_at_end
from modules.engines.request_prompt import as_text, has_grammar, measured, tokenized
from modules.engines.serial_adapter import SerialAdapter
from modules.options.option import Value
from modules.system import child_process
from modules.system.cancellation import Cancelled, CancelToken

PAUSE_SECONDS = 0.05
"""Time between two writes of text; the first text of an answer goes at once. Twenty writes a second look as smooth as a
hundred, but each one wakes the parent on the processors that the model fills, and all compute threads wait for the one
that is interrupted."""
LARGE_REQUEST = 50_000
"""Bytes. Tokenizing that much takes a tenth of a second at most, Chinese the longest."""
EXCLUSIVE = ("apply_loras",)
"""Operations that change what a generation would answer: they wait for running ones, and later ones wait for them."""
ALONE = ("load", "explain")
"""Operations of the worker itself."""
AFFECTED = ("generate", "loglikelihoods")
"""Operations whose results the EXCLUSIVE ones change."""

PASSED = "passed"
"""The argument with the programs that a request has passed, for engines of servers: see `core.request_route`."""

Request = tuple[int, str, dict[str, Json]]
GENERATIONS = ("generate", "next")
FINISH = "finish"
"""The request that the parent makes by closing the pipe: save prompts, and end."""


def main() -> None:
    requests, channel = child_process.take_stdin(), child_process.take_stdout()
    worker = Worker(channel)
    child_process.end_with_parent(requests.fileno(), worker.finish)
    threading.Thread(target=_read, args=(requests, worker), daemon=True).start()
    worker.run()


def _read(pipe: BinaryIO, worker: Worker) -> None:
    try:
        for line in pipe:
            call, operation, args = quick_json.decode(line)
            worker.receive(call, operation, args, large=len(line) > LARGE_REQUEST)
    except BaseException:  # a worker that hears nothing any more must not stay
        traceback.print_exc()
        os._exit(1)
    worker.finish()  # the parent closed the pipe or died


Engine = BatchingEngine | SerialAdapter | TextEngine


class Worker:
    """Serve requests with one engine. `run` is called by the main thread, `receive` by the reading thread."""

    def __init__(self, channel: BinaryIO) -> None:
        self._inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._channel = channel
        self._writing = threading.Lock()
        self._texts: list[str] = []  # items of the next line
        self._unsent: list[bytes] = []
        self._sent_at = 0.0
        self._engine: Engine | None = None
        self._running: dict[int, dict[str, Json]] = {}  # generations that have not ended, and facts for their `Done`
        self._silent: set[int] = set()  # generations without any text yet
        self._evaluations: dict[int, Generator[None, None, Json]] = {}  # operations that run in parts, by their calls
        self._deferred: deque[Request] = deque()  # the first one is EXCLUSIVE, except while a step runs
        self._large: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._has_vocabulary = False  # whether the engine has prepared grammars
        self._is_private = False  # whether a prompt is in the cache that must not be stored
        self._tokenizing: dict[int, CancelToken] = {}  # generations that are not in the inbox yet
        self._queueing, self._finishing = threading.Lock(), threading.Lock()
        threading.Thread(target=self._run_large, daemon=True).start()

    def receive(self, call: int, operation: str, args: dict[str, Json], large: bool = False) -> None:
        """Answer a request at once or queue it for the main thread, with its prompt tokenized.

        A `large` one is left to a thread that serves one of them after the other, as is one with images, and the first
        with a grammar: the file of a picture may be small, and take seconds to decode, and a vocabulary is long.
        """
        params = args.get("params", {})
        self._is_private |= bool(params.pop(PRIVATE, False))
        engine, large = self._engine, large or Prompt.has_images(args.get("prompt")) or self._lacks_vocabulary(params)
        if operation == "next":
            args = {"top": next_token.DEFAULT_CANDIDATES} | args
        if takes_text(engine):
            self._tokenizing[call] = CancelToken()
            serve, large = partial(self._queue, call, operation, args), False
        elif engine is not None and operation in engine.questions:
            serve = partial(self._reply, call, operation, args, lambda: engine.questions[operation](**args))
        elif engine is not None and operation in GENERATIONS:
            self._tokenizing[call] = token = CancelToken()
            serve = partial(self._tokenize, engine, call, token, args)
        elif engine is not None and operation == "measure":
            serve = partial(self._reply, call, operation, args, lambda: measured(engine, **args))
        else:
            serve, large = partial(self._queue, call, operation, args), False
        self._large.put(serve) if large else serve()

    def _lacks_vocabulary(self, params: Mapping[str, Json]) -> bool:
        """Whether the vocabulary has to be read for the grammar of a generation."""
        return has_grammar(params) and not self._has_vocabulary

    def finish(self) -> None:
        """Have the main thread save prompts and end the process, which ends in any case. Any thread may call.

        Native code in the main thread cannot be asked to stop.
        """
        with self._finishing:
            engine = self._engine
            if engine is not None and saves_prompts(engine):
                self._inbox.put((NO_CALL, FINISH, {"deadline": time.monotonic() + FINISH_SECONDS}))
                engine.interrupt(True)
                time.sleep(FINISH_SECONDS + CLOSING_SECONDS)
            child_process.end()

    def _run_large(self) -> None:
        while True:
            self._large.get()()

    def _tokenize(
        self, engine: BatchingEngine | SerialAdapter, call: int, token: CancelToken, args: dict[str, Json]
    ) -> None:
        try:
            self._queue(call, "generate", token.run(partial(tokenized, engine, **args)))
            self._has_vocabulary |= has_grammar(args["params"])
        except Cancelled:
            return
        except Exception as error:  # part of the worker's error edge
            self._tokenizing.pop(call, None)
            self._send(call, Failed(as_error(error)))

    def _queue(self, call: int, operation: str, args: dict[str, Json]) -> None:
        """Queue a request for the main thread, and interrupt a step that should not delay it."""
        with self._queueing:  # a cancellation comes after its generation, or prevents it
            token = self._tokenizing.pop(call, None)
            wanted = operation != "generate" or self._engine is None or token is not None
            if token is not None and operation == "cancel":
                token.cancel()
            if wanted:
                self._inbox.put((call, operation, args))
        if wanted and self._engine is not None:
            self._engine.interrupt(operation == "cancel")

    def run(self) -> None:
        while True:
            self._take_requests()
            if self._engine is not None and not self._engine.idle:
                self._step(self._engine)
            self._continue_evaluations()
            self._run_deferred()

    def _run_deferred(self) -> None:
        """Serve deferred requests in order: an EXCLUSIVE one once the engine is idle, those after it at once."""
        while self._deferred and (self._idle or self._deferred[0][1] not in EXCLUSIVE):
            self._flush()
            self._serve_now(*self._deferred.popleft())

    @property
    def _idle(self) -> bool:
        return (self._engine is None or self._engine.idle) and not self._evaluations

    def _continue_evaluations(self) -> None:
        """Run one part of every evaluation, and send the results of those that have ended."""
        for call, evaluation in list(self._evaluations.items()):
            try:
                next(evaluation)
            except StopIteration as end:
                self._end_evaluation(call, Result(end.value))
            except Exception as error:  # part of the worker's error edge
                self._end_evaluation(call, Failed(as_error(error)))

    def _end_evaluation(self, call: int, event: Event) -> None:
        del self._evaluations[call]
        self._flush()
        self._send(call, event)

    def _step(self, engine: Engine) -> None:
        begun = False
        try:
            for call, event in engine.step():
                if isinstance(event, Text) and call in self._silent:
                    self._silent.remove(call)
                    begun = True
                if isinstance(event, Text) and not event.logprobs:
                    self._texts.append(text_item(call, event))
                    continue
                if isinstance(event, Begun):
                    self._unsent.append(to_line(call, event))  # goes with the text that follows
                    continue
                self._end_texts()
                self._unsent.append(self._line(call, event))
                if not isinstance(event, Text):
                    self._flush()
        except Exception as error:  # a fault of the engine's loop: every call under way fails
            self._flush()
            for call in list(self._running):
                engine.cancel(call)
                self._send(call, Failed(as_error(error)))
        if begun or takes_text(engine) or time.monotonic() - self._sent_at >= PAUSE_SECONDS:
            self._flush()

    def _take_requests(self) -> None:
        """Serve all requests that have arrived; wait for one if there is nothing to do."""
        if self._idle:
            self._serve(*next_request(self._inbox, None if self._is_private else self._engine))
        if self._engine is not None:
            self._engine.resume()  # before looking: requests from now on interrupt again
        while not self._inbox.empty():
            self._flush()  # the next step may take long
            self._serve(*self._inbox.get())

    def _save_and_end(self, deadline: float) -> None:
        """Save prompts until `deadline`, also those of generations under way, and end the process."""
        for call in [*self._running, *self._evaluations]:
            self._cancel(call)
        save_at_end(None if self._is_private else self._engine, deadline)
        child_process.end()

    def _line(self, call: int, event: Event) -> bytes:
        if isinstance(event, ENDS):
            facts = self._running.pop(call, {})
            self._silent.discard(call)
            event = dataclasses.replace(event, **facts) if isinstance(event, Done) else event
        return to_line(call, event)

    def _flush(self) -> None:
        self._end_texts()
        if self._unsent:
            self._write(b"".join(self._unsent))
            self._unsent.clear()
            self._sent_at = time.monotonic()

    def _end_texts(self) -> None:
        """Turn the texts that are held back into a line: what follows comes after them."""
        if self._texts:
            self._unsent.append(texts_line(self._texts))
            self._texts.clear()

    def _send(self, call: int, event: Event) -> None:
        self._write(self._line(call, event))

    def _write(self, lines: bytes) -> None:
        try:
            with self._writing:
                self._channel.write(lines)
        except OSError:  # the parent does not read any more: nobody is left to report to
            child_process.end()

    def _reply(self, call: int, operation: str, args: Mapping[str, Json], answer: Callable[[], Json]) -> None:
        try:
            value = answer()
            if isinstance(value, Generator):
                self._evaluations[call] = value
            else:
                self._send(call, Result(value))
        except Exception as error:  # one of the three error edges
            self._send(call, Failed(_load_failed(args, error) if operation == "load" else as_error(error)))

    def _serve(self, call: int, operation: str, args: dict[str, Json]) -> None:
        if operation == FINISH:
            self._save_and_end(**args)
        waits = bool(self._deferred) or (operation in EXCLUSIVE and not self._idle)
        if waits and operation in (*AFFECTED, *EXCLUSIVE):
            self._deferred.append((call, operation, args))
            if operation == "generate":
                position = sum(request[1] == "generate" for request in self._deferred)
                self._send(call, Waiting(position))
        else:
            self._serve_now(call, operation, args)

    def _serve_now(self, call: int, operation: str, args: dict[str, Json]) -> None:
        is_elsewhere = takes_text(self._engine) and operation not in (*EXCLUSIVE, *ALONE)
        if operation not in ("generate", "cancel") and not is_elsewhere:
            self._reply(call, operation, args, lambda: self._answer(call, operation, args))
            return
        try:
            self._cancel(call) if operation == "cancel" else self._begin(call, operation, args)
        except Exception as error:  # part of the worker's error edge
            self._send(call, Failed(as_error(error)))

    def _begin(self, call: int, operation: str, args: dict[str, Json]) -> None:
        engine = self._loaded()
        if not takes_text(engine):
            engine.submit(call, args["prompt"], args["params"])
        else:
            with request_route.passing(args.pop(PASSED, ())):
                if operation == "generate":
                    engine.submit_text(call, *as_text(**args))
                else:
                    engine.submit_question(call, operation, args)
        self._running[call] = facts = args.get("facts", {})
        self._silent.add(call)
        if not takes_text(engine):
            self._unsent.append(to_line(call, Begun(len(args["prompt"]), **facts)))  # goes with the next event

    def _cancel(self, call: int) -> None:
        self._deferred = deque(request for request in self._deferred if request[0] != call)
        if call in self._running:
            del self._running[call]
            self._silent.discard(call)
            self._loaded().cancel(call)
        elif call in self._evaluations:
            self._evaluations.pop(call).close()

    def _answer(self, call: int, operation: str, args: dict[str, Json]) -> Json:
        if operation == "load":
            return self._load(call, **args)
        if operation == "explain":
            return _engine_loader(args["engine"]).explain(Path(args["path"]), args["options"])
        engine = self._loaded()
        operations = {**engine.operations, **engine.questions}
        if operation not in operations:
            words = {"en": f"This loader does not support {operation}.", "zh": f"此加载器不支持 {operation}。"}
            raise Unsupported(words)
        return operations[operation](**args)

    def _load(self, call: int, engine: str, path: str, options: Mapping[str, Value]) -> Json:
        loaded: Any = _engine_loader(engine).load(Path(path), options, lambda progress: self._send(call, progress))
        self._engine = loaded if hasattr(loaded, "step") else SerialAdapter(loaded)
        self._has_vocabulary = False
        if takes_text(loaded):
            loaded.notify = lambda state: self._write(to_line(NO_CALL, state))
        return loaded.info.to_json()

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise NoModelLoaded
        return self._engine


def _engine_loader(module: str) -> EngineLoader[Any]:
    loader: EngineLoader[Any] = importlib.import_module(module).LOADER
    return loader


def _loader_name(module: str) -> str:
    """Return the name of the loader in `module`, or of the module if it cannot be imported."""
    try:
        return _engine_loader(module).name
    except ImportError:
        return module


def _load_failed(args: Mapping[str, Json], error: Exception) -> WebUIError:
    if isinstance(error, WebUIError):
        return error
    traceback.print_exception(error)
    words = f"{type(error).__name__}: {error}"
    return LoadFailed(_loader_name(args["engine"]), Path(args["path"]).name, words, cause(words))


if __name__ == "__main__":
    main()
