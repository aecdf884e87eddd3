"""All conversations of one person: their files, what the list shows of them, and search.

Several processes may use the same folder: changes take a lock, and the files of other processes are noticed by their
time and size when they are asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from modules.conversations import ids, reader
from modules.conversations.blobs import BlobStore
from modules.conversations.conversation import Conversation, new_id
from modules.conversations.errors import (
    ConversationExists,
    ConversationNotFound,
    ConversationNotSaved,
    InvalidConversation,
    ReadOnlyConversation,
    StaleConversation,
    VisitorMemoryFull,
)
from modules.conversations.file_format import to_bytes
from modules.conversations.folder import DiskFolder, Folder, MemoryFolder, Stamp
from modules.conversations.reader import Opened, Summary, summarize, summary_of
from modules.conversations.search import Query
from modules.conversations.summary_cache import SummaryCache
from modules.conversations.titles import checked_title
from modules.core.errors import Words
from modules.core.events import Json
from modules.core.recent import Recent

T = TypeVar("T")
Listener = Callable[[str], None]
Summaries = list[Summary]

SEARCH_LIMIT = 100
_MAX_OPENED = 16
"""Conversations that are kept parsed."""
_SHA256 = re.compile(rb"[0-9a-f]{64}")


class ConversationStore:
    """The conversations in `folder`, which need not exist; in memory alone if it is None.

    Methods with an id raise ConversationNotFound; those that open a file, InvalidConversation; those that change one,
    also ReadOnlyConversation and ConversationNotSaved. All methods may be called from any thread. `is_kept` is whether
    they are on the disk.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder: Folder = MemoryFolder() if folder is None else DiskFolder(folder)
        self._name = "" if folder is None else str(folder)
        self.is_kept = folder is not None
        self.blobs = BlobStore(None if folder is None else folder / "attachments")
        self._summaries = SummaryCache(self._folder, partial(self._notify, ""))
        self._lock = threading.Lock()  # of the fields below; held for moments only
        self._opened: Recent[str, tuple[Stamp, Opened]] = Recent(_MAX_OPENED)  # by id
        self._listeners: list[Listener] = []

    @property
    def version(self) -> int:
        """Grows whenever the list changes."""
        return self._summaries.version

    # -- notifications -------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the id of a conversation after each of its changes, and return how to stop that.

        It is called in the thread of the change, so it must be quick, and must not raise. The id is "" if another
        process has changed files.
        """
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def _notify(self, id: str) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(id)

    # -- the list ------------------------------------------------------------------------------------------------------

    def list(self) -> Summaries:
        """Return what the list shows: pinned conversations first, then the newest."""
        return sorted(self._summaries.refresh().values(), key=_order)

    def search(self, text: str, limit: int = SEARCH_LIMIT) -> Summaries:
        """Return the first `limit` conversations of the list in whose title or texts all words of `text` occur."""
        query = Query(text)
        if not query.words:
            return self.list()
        found: Summaries = []
        for path, summary in sorted(self._summaries.refresh().items(), key=lambda item: _order(item[1])):
            snippet = query.match(summary.title, self._texts(PurePosixPath(path), query))
            if snippet is not None:
                found.append(dataclasses.replace(summary, snippet=snippet))
            if len(found) == limit:
                break
        return found

    def _texts(self, path: PurePosixPath, query: Query) -> Iterator[str]:
        with contextlib.suppress(OSError):
            content = self._folder.read(path)
            if query.may_match(content):
                yield from reader.texts(content)

    # -- one conversation ----------------------------------------------------------------------------------------------

    def read(self, id: str) -> Conversation:
        """Return a copy of the conversation, which the caller may keep and change."""
        return self._open(id)[1].conversation.copy()

    def _open(self, id: str) -> tuple[PurePosixPath, Opened]:
        path = ids.path_of(id)
        try:
            stamp = self._folder.stamp(path)
            with self._lock:
                cached = self._opened.get(id)
                if cached is not None and cached[0] == stamp:
                    self._opened[id] = cached
                    return path, cached[1]
            content = reader.read_content(self._folder, path, stamp)
        except FileNotFoundError:
            raise ConversationNotFound(id) from None
        except OSError as error:
            raise InvalidConversation(path.name, reader.unreadable(error)) from error
        opened = reader.open_conversation(id, path, content, stamp.modified / 1e9, self._put_blob)
        self._remember(id, stamp, opened)
        return path, opened

    def _put_blob(self, content: bytes) -> str:
        """Store an attachment of a history of the original, which has it in itself; reading needs no writable disk."""
        try:
            return self.blobs.put(content)
        except ConversationNotSaved:
            return hashlib.sha256(content).hexdigest()

    def has(self, id: str) -> bool:
        """Return whether there is such a conversation, whose file can be found."""
        try:
            self._folder.stamp(ids.path_of(id))
        except (ConversationNotFound, OSError):
            return False
        return True

    def problem(self, id: str) -> Words | None:
        """Return why the conversation must not be changed, as the end of a sentence; None if it may be."""
        return self._open(id)[1].problem

    def _remember(self, id: str, stamp: Stamp, opened: Opened) -> None:
        with self._lock:
            self._opened[id] = (stamp, opened)

    def create(self, **fields: Json) -> Conversation:
        """Create an empty conversation with the given fields, and return a copy of it."""
        times: dict[str, Json] = {"created": time.time(), "updated": time.time()}
        return self.add(Conversation("", **(times | fields)))

    def add(self, conversation: Conversation) -> Conversation:
        """Store a conversation under a new id, and return a copy of it. Its times stay as they are, if it has any."""
        with self._changing():
            while True:
                id = ids.id_for(new_id(), conversation.character)
                path = ids.path_of(id)
                with contextlib.suppress(FileNotFoundError):
                    self._folder.stamp(path)
                    continue
                break
            added = conversation.copy()
            added.id, added.rev = id, 1
            added.updated = added.updated or time.time()
            added.created = added.created or added.updated
            self._write(path, added)
        self._notify(id)
        return added.copy()

    def change(self, id: str, rev: int | None, edit: Callable[[Conversation], T], touch: bool = True) -> T:
        """Apply `edit` to the conversation, store it, and return what `edit` returned.

        Raises StaleConversation if `rev` is not its present revision; None stands for any. If `edit` raises, nothing
        changes. `edit` must not use the store. Unless `touch`, the conversation keeps its time and its place in the
        list.
        """
        with self._changing():
            path, opened = self._open(id)
            if rev is not None and rev != opened.conversation.rev:
                raise StaleConversation(id, opened.conversation.rev)
            if opened.problem is not None:
                raise ReadOnlyConversation(opened.problem)
            conversation = opened.conversation.copy()
            result = edit(conversation)
            conversation.id = id
            conversation.rev = opened.conversation.rev + 1
            if touch:
                conversation.updated = time.time()
            if opened.foreign:
                self._folder.back_up(path)
            self._write(path, conversation)
        self._notify(id)
        return result

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with self._folder.locked():
                yield
        except OSError as error:
            raise ConversationNotSaved(self._name, error.strerror or str(error)) from error

    def _write(self, path: PurePosixPath, conversation: Conversation) -> None:
        stamp = self._folder.write(path, to_bytes(conversation))
        self._remember(conversation.id, stamp, Opened(conversation.copy()))
        self._summaries.put(path, stamp, summary_of(conversation))

    def rename(self, id: str, title: str, rev: int | None = None) -> None:
        """Set the title; "" means a derived one. Raises InvalidTitle or StaleConversation."""
        valid = checked_title(title)

        def edit(conversation: Conversation) -> None:
            conversation.title = valid

        self.change(id, rev, edit, touch=False)

    def pin(self, id: str, pinned: bool) -> None:
        """Show the conversation at the top of the list, or no longer."""

        def edit(conversation: Conversation) -> None:
            conversation.pinned = pinned

        self.change(id, None, edit, touch=False)

    def branch(self, id: str, message: str) -> Conversation:
        """Store the messages up to `message` as a new conversation. Raises MessageNotFound."""
        source = self.read(id)
        branch = source.branch("", message)
        branch.title = self._numbered_title(reader.title_of(source))
        return self.add(branch)

    def _numbered_title(self, title: str) -> str:
        """Return the title with the first number from 2 that no other conversation has."""
        taken = {summary.title for summary in self._summaries.refresh().values()}
        base = re.sub(r" \([0-9]+\)$", "", title)
        number = 2
        while f"{base} ({number})" in taken:
            number += 1
        return f"{base} ({number})" if base else ""

    # -- the bin -------------------------------------------------------------------------------------------------------

    def delete(self, id: str) -> None:
        """Move the conversation to the bin."""
        path = ids.path_of(id)
        with self._changing():
            try:
                self._folder.discard(path)
            except FileNotFoundError:
                raise ConversationNotFound(id) from None
            with self._lock:
                self._opened.pop(id, None)
            self._summaries.remove(path)
        self._notify(id)

    def restore(self, id: str) -> None:
        """Move the conversation back from the bin. Raises ConversationExists if another one has taken its place."""
        path = ids.path_of(id)
        with self._changing():
            try:
                self._folder.restore(path)
            except FileNotFoundError:
                raise ConversationNotFound(id) from None
            except FileExistsError:
                raise ConversationExists(path.name) from None
        self._summaries.refresh()
        self._notify(id)

    def deleted(self) -> Summaries:
        """Return the conversations in the bin, the last deleted first."""
        found = []
        for name, (day, content) in self._folder.deleted().items():
            path = PurePosixPath(name)
            if (id := ids.id_of(path)) is not None:
                deleted = time.mktime(time.strptime(day, "%Y%m%d"))
                found.append(dataclasses.replace(summarize(id, path, content, deleted), deleted=deleted))
        return sorted(found, key=lambda summary: (-summary.deleted, -summary.updated, summary.id))

    def count_deleted(self) -> int:
        """Return the number of conversations in the bin."""
        return self._folder.count_deleted()

    def empty_bin(self, older_than_days: int = 30) -> int:
        """Delete for good what was moved to the bin so many days ago, and attachments that nothing uses any more.

        Return the number of deleted conversations.
        """
        until = time.strftime("%Y%m%d", time.localtime(time.time() - older_than_days * 86400))
        with self._changing():
            count = self._folder.empty_bin(until)
            if count:
                self.blobs.forget_unused(self._used_blobs())
        if count:
            self._summaries.note_change()
            self._notify("")
        return count

    def put_unsent(self, content: bytes) -> str:
        """Store the bytes of a file that is about to be sent, and return their SHA-256.

        Raises ConversationNotSaved, or VisitorMemoryFull if there is no room without those that nothing uses either.
        """
        try:
            return self.blobs.put(content, unsent=True)
        except VisitorMemoryFull:
            with self._changing():
                self.blobs.forget_unused(self._used_blobs())
            return self.blobs.put(content, unsent=True)

    def _used_blobs(self) -> set[str]:
        contents = [content for _, content in self._folder.deleted().values()]
        used = {match.decode() for content in contents for match in _SHA256.findall(content)}
        with self._lock:  # histories of the original, whose files do not name the blobs
            opened = [opened.conversation for _, opened in self._opened.values()]
        for conversation in opened:
            used |= {file.sha256 for message in conversation.messages.values() for file in message.attachments}
        for path in self._folder.scan():
            with contextlib.suppress(FileNotFoundError):
                used |= {match.decode() for match in _SHA256.findall(self._folder.read(PurePosixPath(path)))}
        return used


def _order(summary: Summary) -> tuple[bool, float, str]:
    return not summary.pinned, -summary.updated, summary.id
