"""One answer: how it is written and saved."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from modules.chat.errors import NothingToAnswer
from modules.chat.modes import ConversationPrompts, Parser, PromptOptions, ReplyPrompt
from modules.chat.participants import CHAT
from modules.chat.pictures import refuse_pictures
from modules.chat.prompt import room
from modules.chat.receipt import receipt
from modules.conversations.conversation import Attachment, ChatMessage, Conversation
from modules.conversations.errors import ConversationError, ConversationNotFound, VisitorMemoryFull
from modules.conversations.store import ConversationStore
from modules.core.errors import InternalError, WebUIError
from modules.core.events import Done, Event, Failed, Json, Progress, Text, Waiting
from modules.core.pieces import REASONING, Piece
from modules.core.product import LOG_FILE
from modules.core.prompt import PRIVATE
from modules.runtime.loaded_model import LoadedModel, Stop
from modules.runtime.model_source import ModelSource, wait_for_lease
from modules.system.cancellation import Cancelled, CancelToken

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.5
"""How often an answer is saved while it is being written: with the time that saving takes, at most 2 s of it are lost
if the process is killed."""
IMPERSONATE = "impersonate"


@dataclass(frozen=True)
class ReplyRequest:
    """A request for an answer in a conversation.

    `action` is "send" (answer `text`), "edit" (answer `text` in place of `message`, a question, which is kept as
    another version), "regenerate" (answer the question of `message` again), "continue" (extend `message`) or
    "impersonate" (write the user's next message, which begins with `text`; nothing is stored). `seen` is the rev of the
    conversation that the user saw. The answer begins with `start_with`. `template_kwargs` are variables of the model's
    template, such as enable_thinking.
    """

    action: str
    params: Mapping[str, Json]
    text: str = ""
    message: str = ""
    attachments: tuple[Attachment, ...] = ()
    start_with: str = ""
    seen: int | None = None
    template_kwargs: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """An answer as far as it is written. `phase` is one of "preparing", "waking" (the model was asleep), "waiting" (at
    `position` in the queue), "reading" (the prompt, up to `progress` of it, from 0 to 1), "thinking", "writing" and
    "ended".

    `tokens` were decoded in `seconds` since the first of them. `rev` is that of the conversation's last save. A draft
    of the user's next message has the `message` "".
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


class Run:
    """One answer: where it goes, and how far it is. `state` is replaced as a whole, so that any thread may read it."""

    def __init__(
        self,
        store: ConversationStore,
        conversation: Conversation,
        answer: ChatMessage,
        request: ReplyRequest,
        model: ModelSource,
        prompts: ConversationPrompts,
        notify: Callable[[ConversationStore, str], None],
    ) -> None:
        self.key = (store, conversation.id)
        self._store, self._id, self._request = store, conversation.id, request
        self._source, self._prompts, self._notify = model, prompts, notify
        self._model: LoadedModel
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
        self._preparing = CancelToken()
        self._stop_worker: Stop = partial(Done, "cancelled")
        self._inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._first_token = self._thought_since = 0.0
        self._parser: Parser

    def stop(self) -> None:
        """Let the worker stop, which sends nothing more; what is written so far becomes the answer."""
        self._stopped.set()
        self._preparing.cancel()
        end, state = self._stop_worker(), self.state
        self._inbox.put(replace(end, completion_tokens=state.tokens, decode_seconds=state.seconds, seed=self._seed))

    def write(self) -> None:
        """Generate the answer and save it, at last with its receipt."""
        error: WebUIError | None = InternalError(LOG_FILE)
        how_made: Json = None
        try:
            lease = wait_for_lease(self._source, self._stopped, partial(self._update, phase="waking"))
            if lease is not None:
                with lease as self._model:
                    refuse_pictures(self._model, self._request.attachments)
                    how_made = self._generate()
            error = None
        except Cancelled:  # nothing has been written yet
            error = None
        except WebUIError as known:
            error = known
        finally:
            unsaved = self._save(lambda conversation: self._finish(conversation, how_made, error), is_last=True)
            self._update(phase="ended", error=error or unsaved)
            self.ended.set()

    # -- saving -------------------------------------------------------------------------------------------------------

    def _finish(self, conversation: Conversation, how_made: Json, error: WebUIError | None) -> None:
        state = self.state
        if not state.content and not state.reasoning:
            conversation.remove(state.message)
        elif (error is not None or self._stopped.is_set()) and not self._has_added():
            conversation.replace(state.message, incomplete=self._before.incomplete)
        else:
            self._write_text(conversation)
            conversation.replace(state.message, incomplete=error is not None, receipt=how_made)

    def _has_added(self) -> bool:
        """Return whether the answer is longer than it was before."""
        state, before = self.state, self._before
        return (state.content, state.reasoning) != (before.content, before.reasoning)

    def _write_text(self, conversation: Conversation) -> None:
        state = self.state
        conversation.replace(
            state.message,
            content=state.content,
            reasoning=state.reasoning,
            reasoning_seconds=round(state.reasoning_seconds, 1),
        )

    def _save(self, edit: Callable[[Conversation], None], is_last: bool = False) -> ConversationError | None:
        """Change the conversation if it is still there, and the answer in it. Return why it was not saved."""

        def guarded(conversation: Conversation) -> Conversation:
            if self.state.message in conversation.messages:
                edit(conversation)
            return conversation

        try:
            self._update(rev=self._store.change(self._id, None, guarded, touch=is_last).rev)
        except ConversationNotFound:
            self.stop()  # it was deleted
        except ConversationError as error:
            log.warning("%s", error)
            return error
        return None

    # -- generating ----------------------------------------------------------------------------------------------------

    def _generate(self) -> Json:
        """Write the answer, and return its receipt."""
        conversation = self._store.read(self._id)
        path = conversation.path(self.state.message)
        continues = bool(self._before.content or self._before.reasoning)
        options = PromptOptions(
            continues=continues,
            start_with="" if continues else self._request.start_with,
            template_kwargs=self._request.template_kwargs,
        )
        space = room(self._model, self._params)
        dropped = conversation.dropped_until if space <= conversation.dropped_room else ""
        shown = path if continues else path[:-1]
        prompt = self._prepared(conversation, shown, options, dropped)
        self._parser = prompt.parser()
        self._read(options.start_with)
        done = self._answer(prompt)
        if done is None:
            return None
        record = self._receipt(prompt, done, conversation.mode)
        if self._stopped.is_set() and not done.prompt_tokens and prompt.chat.starts:
            # It was stopped before it was known which of the shorter prompts the worker has taken.
            return record | {"prompt_sha256": ""}
        if (first := prompt.first_message(done)) is not None:
            dropped = first
        if dropped != conversation.dropped_until:
            self._save(partial(_remember_dropped, dropped=dropped, space=space))
        with suppress(VisitorMemoryFull):  # the answer is worth more than the prompt of its receipt
            self._store.blobs.put(prompt.prompt.used_text(done.shortened).encode("utf-8", "surrogatepass"))
        return record

    def _prepared(
        self, conversation: Conversation, path: Sequence[ChatMessage], options: PromptOptions, dropped: str
    ) -> ReplyPrompt:
        """Return the prompt of the reply. Raises Cancelled if it is stopped meanwhile."""
        return self._preparing.run(
            self._prompts.reply,
            self._model, conversation, path, self._params, options, dropped, self._store.blobs.find,
        )  # fmt: skip

    def _receipt(self, prompt: ReplyPrompt, done: Done, mode: str) -> dict[str, Json]:
        kwargs = self._request.template_kwargs if mode != CHAT else None  # a script's template gets none
        template = prompt.chat.template
        made = receipt(
            self._prompts.templates, self._model, prompt.prompt, self._params, done,
            template=template, template_kwargs=kwargs,
        )  # fmt: skip
        images = [image.id for image in prompt.prompt.images if image.data]
        pictures = {"images": images} if images else {}
        left_out = {"images_left_out": prompt.left_out} if prompt.left_out else {}
        return made | {"mode": mode} | pictures | left_out

    def _answer(self, prompt: ReplyPrompt) -> Done | None:
        """Write what the model replies to the prompt. Return None if it was stopped before."""
        if self._stopped.is_set():
            return None
        private = {} if self._store.is_kept else {PRIVATE: True}
        self._stop_worker = self._model.start(prompt.prompt, {**self._params, **private}, self._inbox.put)
        if self._stopped.is_set():
            self._stop_worker()
        return self._follow()

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


class Draft(Run):
    """The user's next message, written by the model. Nothing of it is stored."""

    def __init__(
        self,
        store: ConversationStore,
        conversation: Conversation,
        request: ReplyRequest,
        model: ModelSource,
        prompts: ConversationPrompts,
        notify: Callable[[ConversationStore, str], None],
    ) -> None:
        begun = ChatMessage("", conversation.current, "user", request.text)
        super().__init__(store, conversation, begun, request, model, prompts, notify)

    def _generate(self) -> Json:
        conversation = self._store.read(self._id)
        options = PromptOptions(
            start_with=self._request.text, impersonates=True, template_kwargs=self._request.template_kwargs
        )
        space = room(self._model, self._params)
        dropped = conversation.dropped_until if space <= conversation.dropped_room else ""
        path = conversation.path()
        prompt = self._prepared(conversation, path, options, dropped)
        self._parser = prompt.parser()
        self._answer(prompt)
        return None

    def _save(self, edit: Callable[[Conversation], None], is_last: bool = False) -> None:
        """Change nothing."""


def _remember_dropped(conversation: Conversation, dropped: str, space: int) -> None:
    """Note which messages a prompt of at most `space` tokens left out."""
    conversation.dropped_until, conversation.dropped_room = dropped, space if dropped else 0


def place_answer(conversation: Conversation, request: ReplyRequest) -> ChatMessage:
    """Add the messages that `request` asks for and return the answer: a new one, or the one to continue as it was."""
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
        conversation.replace(message.id, incomplete=True)
        return message
    question = message if message.role == "user" else conversation.messages.get(message.parent)
    if question is None or question.role != "user":
        raise NothingToAnswer()
    if request.action == "edit":
        if not request.text.strip() and not question.attachments:
            raise NothingToAnswer()
        question = conversation.add("user", request.text, question.parent, attachments=question.attachments)
    return conversation.add("assistant", "", question.id, incomplete=True)
