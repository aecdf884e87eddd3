"""A conversation as a tree of messages: every version of every message, and which of them are shown.

Answering again or editing a question adds a sibling; nothing is lost by it.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from modules.core.events import Json

ROOT = ""
"""The parent of first messages."""
MODES = ("instruct", "chat-instruct", "chat")


@dataclass(frozen=True)
class Attachment:
    """A file that was sent with a message. Its bytes are stored once, by `sha256`; `text` is what a model reads."""

    name: str
    kind: str  # "text" or "image"
    sha256: str
    size: int
    text: str = ""


@dataclass(frozen=True)
class ChatMessage:
    """One version of a message. `parent` is the message before it, or ROOT. Times are seconds since the epoch.

    `reasoning` is what the model thought before `content`, in `reasoning_seconds`. An `incomplete` message is being
    written, or its writer was killed. `receipt` says how an answer came about. `extra` has keys of the file that this
    version of the program does not know; they are written back.
    """

    id: str
    parent: str
    role: str  # "user" or "assistant"
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
    messages before `dropped_until`; "" means it gets all. `title` is "" until one is given or derived.
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
    current: str = ROOT
    shown: dict[str, str] = field(default_factory=dict)
    messages: dict[str, ChatMessage] = field(default_factory=dict)
    extra: dict[str, Json] = field(default_factory=dict)

    def path(self, last: str | None = None) -> list[ChatMessage]:
        """Return the messages from the first one to `last`, by default to the last one that is shown."""
        found = []
        at = self.current if last is None else last
        while at != ROOT:
            found.append(self.messages[at])
            at = self.messages[at].parent
        return found[::-1]

    def children(self, parent: str) -> list[str]:
        """Return the versions of what follows `parent`, in the order in which they were made."""
        return [message.id for message in self.messages.values() if message.parent == parent]

    def versions(self, id: str) -> list[str]:
        """Return the versions of a message, itself among them."""
        return self.children(self.messages[id].parent)

    def add(self, role: str, content: str, parent: str | None = None, **fields: Json) -> ChatMessage:
        """Add a message after `parent`, by default after the last one that is shown, and show it."""
        after = self.current if parent is None else parent
        message = ChatMessage(self._new_id(), after, role, content, created=time.time(), **fields)
        self.messages[message.id] = message
        self._show(message.id)
        return message

    def replace(self, id: str, **changes: Json) -> ChatMessage:
        """Change fields of a message; what follows it stays."""
        self.messages[id] = dataclasses.replace(self.messages[id], **changes)
        return self.messages[id]

    def select(self, id: str) -> None:
        """Show that version of a message, and after it what was shown last."""
        self._show(id)
        while following := self.children(self.current):
            remembered = self.shown.get(self.current, "")
            self._show(remembered if remembered in following else following[-1])

    def remove(self, id: str) -> None:
        """Remove a message. What follows it moves up, unless there are other versions of it: then that goes as well."""
        message = self.messages[id]
        others = [version for version in self.versions(id) if version != id]
        following = self.children(id)
        if others:
            self._forget(id)
            if self.current not in self.messages:
                self.select(others[-1])
            return
        for child in following:
            self.replace(child, parent=message.parent)
        chosen = self.shown.get(id, "")
        self._drop(id)
        if self.current == id:
            self.current = message.parent
        if chosen:
            self.shown[message.parent] = chosen
        else:
            self.shown.pop(message.parent, None)

    def _show(self, id: str) -> None:
        self.current = id
        at = id
        while at != ROOT:
            parent = self.messages[at].parent
            self.shown[parent] = at
            at = parent

    def _forget(self, id: str) -> None:
        """Remove a message and all that follows it."""
        for child in self.children(id):
            self._forget(child)
        self._drop(id)

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
