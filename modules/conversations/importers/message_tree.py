"""Build the tree of a conversation from the messages of a file, whatever their links are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from modules.conversations.conversation import ROOT, Attachment, ChatMessage, Conversation
from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.values import as_line
from modules.core.events import Json

USER, ASSISTANT, SYSTEM, HIDDEN = "user", "assistant", "system", ""
"""Roles of drafts. A HIDDEN one is not shown: the answer after it gets its thought, its attachments and `extra`."""

MAX_HIDDEN_IN_A_ROW = 100
MAX_SYSTEM_MESSAGES = 100
_HEX_DIGITS = frozenset("0123456789abcdef")


@dataclass
class Draft:
    """A message as a file has it. `parent` is the key of the message before it, None at the beginning.

    `children` are keys in the order in which versions are shown, if the file has such a list.
    """

    key: str
    parent: str | None
    role: str
    content: str = ""
    reasoning: str = ""
    reasoning_seconds: float = 0.0
    attachments: tuple[Attachment, ...] = ()
    created: float = 0.0
    incomplete: bool = False
    extra: dict[str, Json] = field(default_factory=dict)
    children: tuple[str, ...] = ()


@dataclass
class Header:
    """The facts of a file on a conversation as a whole. `current` is the key of the last message that is shown."""

    title: str = ""
    created: float = 0.0
    updated: float = 0.0
    pinned: bool = False
    system: str = ""
    current: str = ""
    extra: dict[str, Json] = field(default_factory=dict)


def chain(header: Header, steps: Iterable[tuple[Sequence[Draft], int]]) -> list[Draft]:
    """Link messages one after the other, and set in the header which one is the last.

    Each step has the versions of one message, and which of them the next one follows.
    """
    linked: list[Draft] = []
    last: str | None = None
    for versions, chosen in steps:
        for version in versions:
            version.parent = last
        linked += versions
        if versions:
            last = header.current = versions[chosen if 0 <= chosen < len(versions) else -1].key
    return linked


def build(context: ImportContext, header: Header, drafts: list[Draft], losses: Losses) -> None:
    """Add a conversation to the import, and report what it has lost. One without messages is left out."""
    title = as_line(header.title)
    builder = _Builder(drafts, losses)
    builder.build()
    losses["tools"] += sum(len(message.extra.get("tool_calls", ())) for message in builder.messages.values())
    if builder.messages:
        conversation = Conversation(
            id="",
            title=title,
            created=header.created or min(filter(None, builder.times()), default=0.0),
            updated=header.updated or max(builder.times(), default=0.0) or header.created,
            pinned=header.pinned,
            messages=builder.messages,
            extra=header.extra,
        )
        conversation.select(builder.ids.get(header.current, ROOT) or builder.last)
        first = conversation.path()[0].id
        used = (header.system,) if header.system else builder.system[first]
        conversation.system = "\n\n".join(used)
        if unused := [text for text in builder.all_system_texts if text not in used]:
            losses["system"] += len(unused)
            conversation.extra["system_messages"] = unused
        context.add(conversation)
    context.report_losses(title, losses)


@dataclass
class _State:
    """The state that the messages before a draft leave to it."""

    parent: str = ROOT
    system: tuple[str, ...] = ()
    hidden: tuple[Draft, ...] = ()


class _Builder:
    """`ids` has the message for the key of a draft, or the message before it if the draft is not shown."""

    def __init__(self, drafts: list[Draft], losses: Losses) -> None:
        self._drafts: dict[str, Draft] = {}
        self._losses = losses
        self.messages: dict[str, ChatMessage] = {}
        self.ids: dict[str, str] = {}
        self.system: dict[str, tuple[str, ...]] = {}
        self.all_system_texts: list[str] = []
        self.last = ROOT
        for number, draft in enumerate(drafts):
            if draft.key in self._drafts or not draft.key:
                self._losses["duplicates"] += 1 if draft.key else 0
                draft.key = f"{draft.key}#{number}"
            self._drafts[draft.key] = draft
        self._reserved = {key for key in self._drafts if _is_id(key)}
        self._count = 0

    def times(self) -> list[float]:
        return [message.created for message in self.messages.values()]

    def build(self) -> None:
        following = self._links()
        stack = [(key, _State()) for key in reversed(following[""])]
        while stack:
            key, state = stack.pop()
            left = self._read(self._drafts[key], state, is_last=key not in following)
            stack += [(child, left) for child in reversed(following.get(key, []))]

    def _links(self) -> dict[str, list[str]]:
        """Return the keys that follow each key, and at "" those at the beginning; without cycles."""
        listed = {child: draft.key for draft in self._drafts.values() for child in draft.children}
        parents = {key: self._parent(draft, listed.get(key)) for key, draft in self._drafts.items()}
        self._cut_cycles(parents)
        following: dict[str, list[str]] = {"": []}
        for key, parent in parents.items():
            following.setdefault(parent or "", []).append(key)
        for key, children in following.items():
            if key and (order := {child: rank for rank, child in enumerate(self._drafts[key].children)}):
                children.sort(key=lambda child: order.get(child, len(order)))
        return following

    def _parent(self, draft: Draft, listed: str | None) -> str | None:
        for parent in (draft.parent, listed):
            if parent is not None and parent in self._drafts and parent != draft.key:
                return parent
        if draft.parent is not None:
            self._losses["orphans"] += 1
        return None

    def _cut_cycles(self, parents: dict[str, str | None]) -> None:
        reached: set[str] = set()
        for key in parents:
            walked = set()
            at: str | None = key
            while at is not None and at not in reached:
                walked.add(at)
                parent = parents[at]
                if parent in walked:
                    parents[at] = None
                    self._losses["orphans"] += 1
                    break
                at = parent
            reached |= walked

    def _read(self, draft: Draft, state: _State, is_last: bool) -> _State:
        """Take over one draft; return what it leaves to those that follow it."""
        self.ids[draft.key] = state.parent
        if draft.role == SYSTEM:
            return self._read_system(draft, state)
        if draft.role == HIDDEN:
            state = self._read_hidden(draft, state)
            return self._add_empty_answer(state) if is_last else state
        if draft.role == USER:
            state = self._add_empty_answer(state)
        return self._add(self._message(draft, state), state, draft.key)

    def _add_empty_answer(self, state: _State) -> _State:
        """Let an empty answer carry what is hidden, if anything must not be lost: there is no other answer for it."""
        if not any(draft.extra or draft.attachments or draft.reasoning for draft in state.hidden):
            return state
        last = state.hidden[-1]
        return self._add(self._message(Draft("", None, ASSISTANT, created=last.created), state), state, last.key)

    def _add(self, message: ChatMessage, state: _State, key: str) -> _State:
        self.messages[message.id] = message
        self.ids[key] = self.last = message.id
        if state.parent == ROOT:
            self.system[message.id] = state.system
        return _State(message.id, state.system)

    def _read_system(self, draft: Draft, state: _State) -> _State:
        if not draft.content.strip():
            return state
        self.all_system_texts.append(draft.content)
        if state.parent != ROOT or len(state.system) == MAX_SYSTEM_MESSAGES:
            return state
        return _State(ROOT, (*state.system, draft.content), state.hidden)

    def _read_hidden(self, draft: Draft, state: _State) -> _State:
        if not (draft.reasoning or draft.reasoning_seconds or draft.attachments or draft.extra):
            return state
        if len(state.hidden) == MAX_HIDDEN_IN_A_ROW:
            self._losses["unreadable"] += 1
            return state
        return _State(state.parent, state.system, (*state.hidden, draft))

    def _message(self, draft: Draft, state: _State) -> ChatMessage:
        parts = (*state.hidden, draft)
        extra = {key: value for part in parts for key, value in part.extra.items()}
        if calls := [call for part in parts for call in part.extra.get("tool_calls", ())]:
            extra["tool_calls"] = calls
        return ChatMessage(
            id=self._new_id(draft.key),
            parent=state.parent,
            role=draft.role,
            content=draft.content,
            reasoning="\n\n".join(part.reasoning for part in parts if part.reasoning),
            reasoning_seconds=max(part.reasoning_seconds for part in parts),
            attachments=tuple(attachment for part in parts for attachment in part.attachments),
            created=draft.created,
            incomplete=draft.incomplete,
            extra=extra,
        )

    def _new_id(self, key: str) -> str:
        """Keep an id that looks like ours, so that a conversation comes back from another program as it was."""
        if _is_id(key):
            return key
        while (id := f"{self._count:08x}") in self._reserved or id in self.messages:
            self._count += 1
        self._count += 1
        return id


def _is_id(key: str) -> bool:
    return len(key) == 8 and _HEX_DIGITS.issuperset(key)
