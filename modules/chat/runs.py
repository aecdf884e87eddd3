"""Write answers into conversations: one run for each conversation, which goes on when its page is closed."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from modules.chat.conversation_messages import id_at, index_of, template_messages
from modules.chat.errors import ConversationBusy, NothingToAnswer
from modules.chat.prompt import chat_prompt, room
from modules.chat.receipt import receipt
from modules.chat.templates import ChatTemplates
from modules.conversations.conversation import Attachment, ChatMessage, Conversation
from modules.conversations.errors import ConversationNotFound, ConversationNotSaved
from modules.conversations.store import ConversationStore
from modules.core.errors import InternalError, WebUIError
from modules.core.events import Done, Event, Failed, Json, Progress, Text, Waiting
from modules.core.product import LOG_FILE
from modules.core.reasoning import REASONING, Piece
from modules.runtime.loaded_model import LoadedModel

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.5
"""How often an answer is saved while it is being written: with the time that saving takes, at most 2 s of it are lost
if the process is killed."""

Listener = Callable[[ConversationStore, str, bool], None]
"""Gets the store and the id of a conversation, and whether its run has just begun or ended."""


@dataclass(frozen=True)
class ReplyRequest:
    """A request for an answer in a conversation.

    `action` is "send" (answer `text`), "edit" (answer `text` in place of `message`, a question, which is kept as
    another version), "regenerate" (answer the question of `message` again) or "continue" (extend `message`). `seen` is
    the rev of the conversation that the user saw. The answer begins with `start_with`.
    """

    action: str
    params: Mapping[str, Json]
    text: str = ""
    message: str = ""
    attachments: tuple[Attachment, ...] = ()
    start_with: str = ""
    seen: int | None = None


@dataclass(frozen=True)
class RunState:
    """An answer as far as it is written. `phase` is one of "preparing", "waiting" (at `position` in the queue),
    "reading" (the prompt, up to `progress` of it, from 0 to 1), "thinking", "writing" and "ended".

    `tokens` were decoded in `seconds` since the first of them. `rev` is that of the conversation's last save.
    """

    conversation: str
    message: str
    phase: str = "preparing"
    position: int = 0
    progress: float = 0.0
    content: str = ""
    reasoning: str = ""
    reasoning_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    rev: int = 0
    error: WebUIError | None = None


class Runs:
    """Starts and stops the runs of all conversations, and knows what they have written. Any thread may call."""

    def __init__(self, templates: ChatTemplates) -> None:
        self._templates = templates
        self._lock = threading.Lock()  # guards the fields below
        self._running: dict[tuple[ConversationStore, str], Run] = {}
        self._starting: set[tuple[ConversationStore, str]] = set()
        self._errors: dict[tuple[ConversationStore, str], RunState] = {}
        self._listeners: set[Listener] = set()

    def start(
        self, store: ConversationStore, id: str, request: ReplyRequest, model: LoadedModel, system: str = ""
    ) -> RunState:
        """Add the messages that `request` asks for, and begin to write the answer.

        With "" as `id`, a new conversation with the `system` message is created. Raises ConversationBusy,
        NothingToAnswer, and what `ConversationStore.change` raises; nothing has changed then.
        """
        if not id:
            conversation = Conversation("", created=time.time(), updated=time.time(), system=system)
            answer = _place(conversation, request)
            run = Run(store, store.add(conversation), answer, request, model, self._templates, self._notify)
            return self._begin(run)
        with self._lock:
            if (store, id) in self._running or (store, id) in self._starting:
                raise ConversationBusy()
            self._starting.add((store, id))
        try:
            conversation, answer = store.change(id, request.seen, lambda tree: (tree, _place(tree, request)))
            return self._begin(Run(store, conversation, answer, request, model, self._templates, self._notify))
        finally:
            with self._lock:
                self._starting.discard((store, id))
            self._notify(store, id)

    def _begin(self, run: Run) -> RunState:
        with self._lock:
            self._running[run.key] = run
            self._errors.pop(run.key, None)
        threading.Thread(target=self._work, args=(run,), name="chat run", daemon=True).start()
        self._notify(*run.key, begun_or_ended=True)
        return run.state

    def _work(self, run: Run) -> None:
        try:
            run.write()
        finally:
            with self._lock:
                del self._running[run.key]
                if run.state.error is not None:
                    self._errors[run.key] = run.state
            self._notify(*run.key, begun_or_ended=True)

    def state(self, store: ConversationStore, id: str) -> RunState | None:
        """Return what the run of a conversation has written, None if there is none."""
        with self._lock:
            run = self._running.get((store, id))
        return run.state if run is not None else None

    def is_starting(self, store: ConversationStore, id: str) -> bool:
        """Whether the messages of a run are being added, which is not to be shown before the run itself."""
        with self._lock:
            return (store, id) in self._starting

    def failure(self, store: ConversationStore, id: str) -> RunState | None:
        """Return the last run of a conversation if it failed."""
        with self._lock:
            return self._errors.get((store, id))

    def running(self, store: ConversationStore) -> set[str]:
        """Return the ids of the conversations in which an answer is being written."""
        with self._lock:
            return {id for of, id in self._running if of is store}

    def stop(self, store: ConversationStore, id: str) -> None:
        """Stop the run of a conversation; what it has written stays."""
        with self._lock:
            run = self._running.get((store, id))
        if run is not None:
            run.stop()

    def close(self) -> None:
        """Stop all runs and wait a moment until they are saved."""
        with self._lock:
            runs = list(self._running.values())
        for run in runs:
            run.stop()
        deadline = time.monotonic() + SAVE_SECONDS
        for run in runs:
            run.ended.wait(max(0.0, deadline - time.monotonic()))

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` whenever a run has made progress, in any thread. Return a function that ends this.

        It must be quick: it is called for every token.
        """
        with self._lock:
            self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _notify(self, store: ConversationStore, id: str, begun_or_ended: bool = False) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(store, id, begun_or_ended)


class Run:
    """One answer: where it goes, and how far it is. `state` is replaced as a whole, so that any thread may read it."""

    def __init__(
        self,
        store: ConversationStore,
        conversation: Conversation,
        answer: ChatMessage,
        request: ReplyRequest,
        model: LoadedModel,
        templates: ChatTemplates,
        notify: Callable[[ConversationStore, str], None],
    ) -> None:
        self.key = (store, conversation.id)
        self._store, self._id, self._request = store, conversation.id, request
        self._model, self._templates, self._notify = model, templates, notify
        self._seed = int(request.params.get("seed", -1))
        if self._seed < 0:  # drawn here, so that it is known of a stopped answer as well
            self._seed = secrets.randbelow(2**31)
        self._params = {**request.params, "seed": self._seed}
        self._before = answer
        self.state = RunState(
            conversation.id,
            answer.id,
            content=answer.content,
            reasoning=answer.reasoning,
            reasoning_seconds=answer.reasoning_seconds,
            rev=conversation.rev,
        )
        self.ended = threading.Event()
        self._stopped = threading.Event()
        self._stop_worker: Callable[[], None] = lambda: None
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._first_token = self._thought_since = 0.0

    def stop(self) -> None:
        """Let the worker stop, which sends nothing more; what is written so far becomes the answer."""
        self._stopped.set()
        self._stop_worker()
        state = self.state
        self._inbox.put(
            Done("cancelled", completion_tokens=state.tokens, decode_seconds=state.seconds, seed=self._seed)
        )

    def write(self) -> None:
        """Generate the answer and save it, at last with its receipt."""
        error: WebUIError | None = InternalError(LOG_FILE)
        how_made: Json = None
        try:
            how_made = self._generate()
            error = None
        except WebUIError as known:
            error = known
        finally:
            self._save(lambda conversation: self._finish(conversation, how_made, error), is_last=True)
            self._update(phase="ended", error=error)
            self.ended.set()

    # -- saving -------------------------------------------------------------------------------------------------------

    def _finish(self, conversation: Conversation, how_made: Json, error: WebUIError | None) -> None:
        state = self.state
        if not state.content and not state.reasoning:
            conversation.remove(state.message)
        else:
            self._write_text(conversation)
            conversation.replace(state.message, incomplete=error is not None, receipt=how_made)

    def _write_text(self, conversation: Conversation) -> None:
        state = self.state
        conversation.replace(
            state.message,
            content=state.content,
            reasoning=state.reasoning,
            reasoning_seconds=round(state.reasoning_seconds, 1),
        )

    def _save(self, edit: Callable[[Conversation], None], is_last: bool = False) -> None:
        """Change the conversation if it is still there, and the answer in it."""

        def guarded(conversation: Conversation) -> Conversation:
            if self.state.message in conversation.messages:
                edit(conversation)
            return conversation

        try:
            self._update(rev=self._store.change(self._id, None, guarded, touch=is_last).rev)
        except ConversationNotFound:
            self.stop()  # it was deleted
        except ConversationNotSaved as error:
            if is_last:
                self._update(error=error)
            log.warning("%s", error)

    # -- generating ----------------------------------------------------------------------------------------------------

    def _generate(self) -> Json:
        """Write the answer, and return its receipt."""
        conversation = self._store.read(self._id)
        path = conversation.path(self.state.message)
        continues = bool(self._before.content or self._before.reasoning)
        path = path if continues else path[:-1]
        start_with = "" if continues else self._request.start_with
        space = room(self._model, self._params)
        dropped = conversation.dropped_until if space <= conversation.dropped_room else ""
        prompt = chat_prompt(
            self._templates,
            self._model,
            template_messages(conversation, path),
            self._params,
            continue_last=continues,
            start_with=start_with,
            dropped_until=index_of(conversation, path, dropped),
        )
        self._parser = prompt.parser()
        self._read(start_with)
        if self._stopped.is_set():
            return None
        self._stop_worker = self._model.start(prompt.prompt, self._params, self._inbox.put)
        if self._stopped.is_set():
            self._stop_worker()
        done = self._follow()
        if self._stopped.is_set() and prompt.starts:
            # Which of the shorter prompts the worker had taken is not known.
            return receipt(self._templates, self._model, prompt.prompt, self._params, done) | {"prompt_sha256": ""}
        if (first := prompt.first_message(done)) is not None:
            dropped = id_at(conversation, path, first)
        if dropped != conversation.dropped_until:
            self._save(partial(_remember_dropped, dropped=dropped, space=space))
        self._store.blobs.put(prompt.prompt.used_text(done.shortened).encode("utf-8", "surrogatepass"))
        return receipt(self._templates, self._model, prompt.prompt, self._params, done)

    def _follow(self) -> Done:
        """Take what the worker sends until it is done."""
        saved = time.monotonic()
        while not isinstance(event := self._inbox.get(), Done | Failed):
            if isinstance(event, Text):
                self._read(event.text, event.tokens)
            elif isinstance(event, Waiting):
                self._update(phase="waiting", position=event.position)
            elif isinstance(event, Progress):
                self._update(phase="reading", progress=event.done)
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save(self._write_text)
                saved = time.monotonic()
        self._update(**self._added(self._parser.end()))
        if isinstance(event, Failed):
            raise event.error
        return event

    def _read(self, text: str, tokens: int = 0) -> None:
        """Take a piece of the reply, which was decoded from so many tokens."""
        changes: dict[str, Json] = {}
        if tokens:
            now = time.monotonic()
            self._first_token = self._first_token or now
            changes = {"tokens": self.state.tokens + tokens, "seconds": now - self._first_token}
        self._update(**changes, **self._added(self._parser.feed(text)))

    def _added(self, pieces: Sequence[Piece]) -> dict[str, Json]:
        """Return the fields of the state that change with more pieces of the thought and of the answer."""
        changes: dict[str, Json] = {}
        for kind, text in pieces:
            if kind == REASONING:
                now = time.monotonic()
                self._thought_since = self._thought_since or now
                changes["phase"] = "thinking"
                changes["reasoning"] = changes.get("reasoning", self.state.reasoning) + text
                changes["reasoning_seconds"] = self._before.reasoning_seconds + now - self._thought_since
            else:
                changes["phase"] = "writing"
                changes["content"] = changes.get("content", self.state.content) + text
        return changes

    def _update(self, **changes: Json) -> None:
        self.state = replace(self.state, **changes)
        self._notify(*self.key)


def _remember_dropped(conversation: Conversation, dropped: str, space: int) -> None:
    """Note which messages a prompt of at most `space` tokens left out."""
    conversation.dropped_until, conversation.dropped_room = dropped, space if dropped else 0


def _place(conversation: Conversation, request: ReplyRequest) -> ChatMessage:
    """Add the messages that `request` asks for and return the answer: a new one, or the one to continue."""
    if request.action == "send":
        if not request.text.strip() and not request.attachments:
            raise NothingToAnswer()
        conversation.add("user", request.text, attachments=request.attachments)
        return conversation.add("assistant", "", incomplete=True)
    message = conversation.message(request.message)
    if request.action == "continue":
        if message.role != "assistant":
            raise NothingToAnswer()
        conversation.show(message.id)
        return conversation.replace(message.id, incomplete=True)
    question = message if message.role == "user" else conversation.messages.get(message.parent)
    if question is None or question.role != "user":
        raise NothingToAnswer()
    if request.action == "edit":
        if not request.text.strip() and not question.attachments:
            raise NothingToAnswer()
        question = conversation.add("user", request.text, question.parent, attachments=question.attachments)
    return conversation.add("assistant", "", question.id, incomplete=True)
