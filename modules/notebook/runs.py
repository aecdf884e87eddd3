"""Let a model write into texts: one run for each text, which goes on when its page is closed."""

from __future__ import annotations

import codecs
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from modules.core.errors import InternalError, WebUIError
from modules.core.events import Done, Event, Failed, Json, Progress, Text, TokenLogprobs, Waiting
from modules.core.product import LOG_FILE
from modules.core.prompt import Prompt
from modules.core.recent import Recent
from modules.notebook.errors import NotebookBusy, NotebookError, NotebookNotFound, StaleNotebook
from modules.notebook.notebook import Beginning, Notebook, State, Token
from modules.notebook.prompts import prompt_of
from modules.notebook.store import NotebookStore
from modules.runtime.loaded_model import LoadedModel, Stop
from modules.runtime.run_table import RunTable

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.5
"""How often a text is saved while a model writes: with the time that saving takes, at most 2 s of it are lost if the
process is killed."""
CANDIDATES = 10
"""Most likely tokens that are kept for each position."""

MAX_ENDED = 20
"""Runs that have ended and are remembered with all that they have written."""

Begin = Callable[[State], Beginning]
"""Returns where the model is to write in a text. Raises NotebookError."""
Key = tuple[NotebookStore, str]


@dataclass(frozen=True)
class RunState:
    """The text of a run so far: `text`, written into `base` at the position `start`.

    `phase` is one of "preparing", "waiting" (at `position` in the queue), "reading" (the prompt, up to `progress` of
    it, from 0 to 1), "writing" and "ended". `tokens` are those of the text; None if the loader does not tell them.
    `count` tokens were decoded in `seconds` since the first of them. `rev` is that of the last save, `reason` why the
    run ended, as in `Done`.
    """

    name: str
    start: int
    base: State
    phase: str = "preparing"
    position: int = 0
    progress: float = 0.0
    text: str = ""
    tokens: tuple[Token, ...] | None = ()
    count: int = 0
    seconds: float = 0.0
    rev: str = ""
    reason: str = ""
    prompt_tokens: int = 0
    error: WebUIError | None = None


class NotebookRuns(RunTable[NotebookStore, "_Run"]):
    """Starts and stops the runs of all texts, and knows what they have written. Any thread may call."""

    def __init__(self) -> None:
        super().__init__()
        self._ended: Recent[Key, RunState] = Recent(MAX_ENDED)

    def start(
        self, store: NotebookStore, name: str, rev: str | None, begin: Begin, model: LoadedModel, params: Json
    ) -> RunState:
        """Let the model write where `begin` says, which gets the present text.

        Raises NotebookBusy, and what `NotebookStore.change` raises; nothing has changed then.
        """
        key = (store, name)
        with self._lock:
            if self._is_busy(store, name):
                raise NotebookBusy(name)
            self._starting.add(key)
        try:
            run = _Run(store, name, rev, begin, model, params, self._notify)
            with self._lock:
                self._runs[key] = run
                self._ended.pop(key, None)
        finally:
            with self._lock:
                self._starting.discard(key)
        threading.Thread(target=self._work, args=(run,), name="notebook run", daemon=True).start()
        self._notify(store, name, begun_or_ended=True)
        return run.state

    def _work(self, run: _Run) -> None:
        try:
            run.write()
        finally:
            with self._lock:
                del self._runs[run.key]
                self._ended[run.key] = run.state
            self._notify(*run.key, begun_or_ended=True)

    def state(self, store: NotebookStore, name: str) -> RunState | None:
        """Return what the run of a text has written, None if there is none."""
        with self._lock:
            run = self._runs.get((store, name))
        return run.state if run is not None else None

    def last(self, store: NotebookStore, name: str) -> RunState | None:
        """Return how the last run of a text has ended, None if there was none, or if it is long ago."""
        with self._lock:
            return self._ended.get((store, name))

    def running(self, store: NotebookStore) -> set[str]:
        """Return the names of the texts into which a model is writing."""
        with self._lock:
            return {name for of, name in (*self._runs, *self._starting) if of is store}

    def refuse_if_running(self, store: NotebookStore, name: str) -> None:
        """Raise NotebookBusy if a model is writing into the text."""
        if name in self.running(store):
            raise NotebookBusy(name)


class _Run:
    """One run. `state` is replaced as a whole, so that any thread may read it."""

    def __init__(
        self,
        store: NotebookStore,
        name: str,
        rev: str | None,
        begin: Begin,
        model: LoadedModel,
        params: Mapping[str, Json],
        notify: Callable[[NotebookStore, str], None],
    ) -> None:
        self.key = (store, name)
        self._store, self._name, self._model, self._notify = store, name, model, notify
        self._params = {**params, "top_logprobs": CANDIDATES}
        self.ended = threading.Event()
        self._stopped = threading.Event()
        self._stop_worker: Stop = partial(Done, "cancelled")
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._first_token = 0.0
        self._tokens = _TokenReader()

        def begun(notebook: Notebook) -> Notebook:
            self._before, self._beginning = notebook, begin(notebook.state)
            return notebook.changed(self._beginning.state("", ()))

        present = store.read(name)
        if rev is not None and rev != present.rev:
            raise StaleNotebook(name, present.rev)
        where = begin(present.state)  # what surrounds the new text is to be known before anything is stored
        self._around = (len(where.before), len(where.after))
        stored = store.change(name, present.rev, begun, writing=self._around)
        self.state = RunState(name, len(self._beginning.before), self._beginning.state("", ()), rev=stored.rev)

    def stop(self) -> None:
        """Let the worker stop, which sends nothing more; what is written so far stays in the text."""
        self._stopped.set()
        self._inbox.put(self._stop_worker())

    def write(self) -> None:
        """Generate, and store what was written."""
        error: WebUIError | None = InternalError(LOG_FILE)
        reason = ""
        try:
            with self._model.lease():
                reason = self._generate(prompt_of(self._model, self._beginning, self._params))
            error = None
        except WebUIError as known:
            error = known
        finally:
            error = self._finish(error) or error
            self._update(phase="ended", error=error, reason=reason)
            self.ended.set()

    # -- saving -------------------------------------------------------------------------------------------------------

    def _finish(self, error: WebUIError | None) -> WebUIError | None:
        """Store the text as it is at the end: without anything written, as it was before. Return why it was not."""
        end = self._beginning.state(self.state.text, self.state.tokens)
        unchanged = end.text == self._before.text or (error is not None and not self.state.text)
        return self._save(self._before if unchanged else self._before.changed(end))

    def _save_progress(self) -> None:
        state = self._beginning.state(self.state.text, self.state.tokens)
        self._save(self._before.changed(state), writing=self._around)

    def _save(self, notebook: Notebook, writing: tuple[int, int] | None = None) -> NotebookError | None:
        text_only = writing is not None
        try:
            saved = self._store.change(self._name, self.state.rev, lambda _: notebook, writing, text_only)
            self._update(rev=saved.rev)
        except (StaleNotebook, NotebookNotFound) as error:  # it was deleted, or changed by another program
            if writing is not None:
                self.stop()
            return error
        except NotebookError as error:
            log.warning("%s", error)
            return error
        return None

    # -- generating ----------------------------------------------------------------------------------------------------

    def _generate(self, prompt: Prompt) -> str:
        """Take what the worker sends until it is done, and return the reason of its end."""
        if self._stopped.is_set():
            return "cancelled"
        self._stop_worker = self._model.start(prompt, self._params, self._inbox.put)
        if self._stopped.is_set():
            self._stop_worker()
        saved = time.monotonic()
        while not isinstance(event := self._inbox.get(), Done | Failed):
            if isinstance(event, Text):
                self._read(event)
            elif isinstance(event, Waiting):
                self._update(phase="waiting", position=event.position)
            elif isinstance(event, Progress):
                self._update(phase="reading", progress=event.done)
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save_progress()
                saved = time.monotonic()
        if isinstance(event, Failed):
            raise event.error
        self._update(tokens=self._tokens.of(self.state.text), prompt_tokens=event.prompt_tokens)
        return event.reason

    def _read(self, event: Text) -> None:
        now = time.monotonic()
        self._first_token = self._first_token or now
        text = self.state.text + event.text
        self._tokens.feed(event)
        self._update(
            phase="writing",
            text=text,
            tokens=self._tokens.of(text),
            count=self.state.count + event.tokens,
            seconds=now - self._first_token,
        )

    def _update(self, **changes: Json) -> None:
        self.state = replace(self.state, **changes)
        self._notify(*self.key)


class _TokenReader:
    """Tells which characters of a generated text are of which token."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._tokens: list[Token] = []
        self._length = 0  # of the texts of the tokens
        self._known = True

    def feed(self, event: Text) -> None:
        self._known = self._known and (len(event.logprobs) == event.tokens or not event.text)
        for position in event.logprobs:
            self._tokens.append(self._token(position))
            self._length += len(self._tokens[-1].text)

    def _token(self, position: TokenLogprobs) -> Token:
        inner = bool(self._decoder.getstate()[0])
        text = self._decoder.decode(bytes.fromhex(position.piece))
        chosen = position.chosen
        return Token(chosen.id, text, chosen.logprob, position.top, inner)

    def of(self, text: str) -> tuple[Token, ...] | None:
        """Return the tokens of `text`, which is what they say, or a stop string less; None if they are not known."""
        if not self._known:
            return None
        kept, rest = list(self._tokens), self._length - len(text)
        if rest < 0:  # the end of a character that was never completed
            return tuple(kept) if not kept else (*kept[:-1], replace(kept[-1], text=kept[-1].text + text[rest:]))
        while kept and rest >= len(kept[-1].text) > 0:
            rest -= len(kept.pop().text)
        if rest and kept:
            kept[-1] = replace(kept[-1], text=kept[-1].text[:-rest])
        return tuple(kept)
