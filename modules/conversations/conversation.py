"""A conversation as a tree of messages: every version of every message, and which of them are shown.

Answering again or editing a question adds a sibling; nothing is lost by it.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.conversations.errors import MessageNotFound
from modules.core.events import Json

ROOT = ""
"""The parent of first messages."""
MODES = ("instruct", "chat-instruct", "chat")
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Attachment:
    """A file that was sent with a message. Its bytes are stored once, by `sha256`; `text` is what a model reads.

    `extra` has keys of the file that this version of the program does not know; they are written back.
    """

    name: str
    kind: str  # "text" or "image"
    sha256: str
    size: int
    text: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatMessage:
    """One version of a message. `parent` is the message before it, or ROOT. Times are seconds since the epoch.

    `reasoning` is what the model thought before `content`, in `reasoning_seconds`. An `incomplete` message is being
    written, or its writer was killed. `receipt` says how an answer came about. `extra` has keys of the file that this
    version of the program does not know; they are written back.
    """

    id: str
    parent: str
    role: str  # one of ROLES
    content: str
    reasoning: str = ""
    reasoning_seconds: float = 0.0
    attachments: tuple[Attachment, ...] = ()
    created: float = 0.0
    edited: float = 0.0
    incomplete: bool = False
    receipt: Json = None
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass
class Conversation:
    """`current` is the last message that is shown, ROOT if there are none. `rev` counts the writes of the file.

    `shown` has the version shown last of what follows a message, by the message's id. The model no longer gets the
    messages before `dropped_until`, "" for none, unless a prompt may have more than `dropped_room` tokens. `title` is
    "" until one is given. Change `messages` by the methods; a message that does not exist raises MessageNotFound.
    """

    id: str
    title: str = ""
    created: float = 0.0
    updated: float = 0.0
    rev: int = 0
    pinned: bool = False
    mode: str = MODES[0]
    character: str = ""
    persona: str = ""
    system: str = ""
    dropped_until: str = ""
    dropped_room: int = 0
    current: str = ROOT
    shown: dict[str, str] = field(default_factory=dict)
    messages: dict[str, ChatMessage] = field(default_factory=dict)
    extra: dict[str, Json] = field(default_factory=dict)
    _children: dict[str, list[str]] | None = field(default=None, init=False, repr=False, compare=False)

    def message(self, id: str) -> ChatMessage:
        """Return the message. Raises MessageNotFound."""
        if id not in self.messages:
            raise MessageNotFound(id)
        return self.messages[id]

    def path(self, last: str | None = None) -> list[ChatMessage]:
        """Return the messages from the first one to `last`, by default to the last one that is shown."""
        found = []
        at = self.current if last is None else last
        while at != ROOT:
            found.append(self.message(at))
            at = found[-1].parent
        return found[::-1]

    def children(self, parent: str) -> list[str]:
        """Return the versions of what follows `parent`, in the order in which they were made."""
        return list(self._index().get(parent, ()))

    def versions(self, id: str) -> list[str]:
        """Return the versions of a message, itself among them."""
        return self.children(self.message(id).parent)

    def add(
        self, role: str, content: str, parent: str | None = None, id: str | None = None, **fields: Json
    ) -> ChatMessage:
        """Add a message after `parent`, by default after the last one that is shown, and show it.

        `id` must be new; by default it is random.
        """
        after = self.current if parent is None else parent
        if after != ROOT:
            self.message(after)
        fields.setdefault("created", time.time())
        message = ChatMessage(id or self._new_id(), after, role, content, **fields)
        index = self._index()
        self.messages[message.id] = message
        index.setdefault(after, []).append(message.id)
        if after == self.current:  # all before it is shown already
            self.shown[after] = self.current = message.id
        else:
            self.show(message.id)
        return message

    def replace(self, id: str, **changes: Json) -> ChatMessage:
        """Change fields of a message, but not its place; what follows it stays."""
        self.messages[id] = dataclasses.replace(self.message(id), **changes)
        return self.messages[id]

    def select(self, id: str) -> None:
        """Show that version of a message, and after it what was shown last."""
        self.message(id)
        if id != self.current:
            self.show(id)
        while following := self.children(self.current):
            remembered = self.shown.get(self.current, "")
            chosen = remembered if remembered in following else following[-1]
            self.shown[self.current] = self.current = chosen

    def remove(self, id: str) -> None:
        """Remove a message. What follows it moves up, unless there are other versions of it: then that goes as well."""
        versions = self.versions(id)
        if len(versions) == 1:
            self._splice(id)
            return
        parent, position = self.messages[id].parent, versions.index(id)
        neighbor = versions[position - 1] if position else versions[1]
        self._forget(id)
        if self.current not in self.messages:
            self.select(neighbor)
        elif self.shown.get(parent) == id:
            self.shown[parent] = neighbor

    def copy(self) -> Conversation:
        """Return a copy that shares the messages, which never change, but can be changed independently."""
        return dataclasses.replace(self, shown=dict(self.shown), messages=dict(self.messages), extra=dict(self.extra))

    def branch(self, id: str, last: str) -> Conversation:
        """Return a new conversation `id` that has the messages up to `last` alone."""
        path = self.path(last)
        messages = {message.id: message for message in path}
        shown = {message.parent: message.id for message in path}
        dropped_until = self.dropped_until if self.dropped_until in messages else ""
        now = time.time()
        return dataclasses.replace(
            self, id=id, created=now, updated=now, rev=0, pinned=False, dropped_until=dropped_until,
            current=last, shown=shown, messages=messages, extra=dict(self.extra),
        )  # fmt: skip

    def _index(self) -> dict[str, list[str]]:
        """Return the ids of what follows each message."""
        if self._children is None:
            self._children = {}
            for message in self.messages.values():
                self._children.setdefault(message.parent, []).append(message.id)
        return self._children

    def show(self, id: str) -> None:
        """Show the messages up to that one, and nothing after it."""
        self.current = id
        at = id
        while at != ROOT:
            parent = self.messages[at].parent
            self.shown[parent] = at
            at = parent

    def _splice(self, id: str) -> None:
        """Remove the only version of a message; what follows it moves up."""
        parent, following = self.messages[id].parent, self.children(id)
        for child in following:
            self.messages[child] = dataclasses.replace(self.messages[child], parent=parent)
        next_shown = self.shown.get(id, "")
        if self.dropped_until == id:
            self.dropped_until = next_shown
        self._drop(id)
        self._index().pop(id, None)
        self._index()[parent] = following
        if self.current == id:
            self.current = parent
        if next_shown in following:
            self.shown[parent] = next_shown
        else:
            self.shown.pop(parent, None)

    def _forget(self, id: str) -> None:
        """Remove a message and all that follows it."""
        index = self._index()
        index[self.messages[id].parent].remove(id)
        pending = [id]
        while pending:
            at = pending.pop()
            pending += index.pop(at, ())
            self._drop(at)

    def _drop(self, id: str) -> None:
        del self.messages[id]
        self.shown.pop(id, None)
        if self.dropped_until == id:
            self.dropped_until = ""

    def _new_id(self) -> str:
        while (id := secrets.token_hex(4)) in self.messages:
            pass
        return id


def new_id(now: float | None = None) -> str:
    """Return the id of a new conversation: the local time, and four hexadecimal digits against collisions."""
    at = time.localtime(time.time() if now is None else now)
    return f"{time.strftime('%Y%m%d-%H-%M-%S', at)}-{secrets.token_hex(2)}"
