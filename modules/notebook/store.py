"""All texts of one person: plain files that any editor can change, and what is remembered of their generations.

A text that another program has changed is taken as it is: only what was remembered of it is dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from modules.conversations.errors import VisitorMemoryFull
from modules.conversations.folder import Stamp
from modules.conversations.search import Query
from modules.core.errors import NameTaken, Words
from modules.core.recent import Recent
from modules.notebook import history_file
from modules.notebook.errors import (
    NotebookMemoryFull,
    NotebookNotFound,
    NotebookNotSaved,
    NotebookTooLong,
    StaleNotebook,
    UnreadableNotebook,
)
from modules.notebook.folder import (
    DiskNotebooks,
    MemoryNotebooks,
    NotebookFolder,
    checked_name,
    history_path,
    name_of,
    text_path,
)
from modules.notebook.notebook import Notebook, State

Listener = Callable[[str], None]

MAX_LENGTH = 2_000_000
"""Characters of a text."""
MAX_BYTES = 4 * MAX_LENGTH
SEARCH_LIMIT = 100
_MAX_OPENED = 8
_BOM = "\ufeff"


@dataclass(frozen=True)
class Entry:
    """A text as the list shows it. `problem` says why it cannot be opened, as the end of a sentence."""

    name: str
    updated: float
    size: int
    snippet: str = ""
    problem: Words | None = None


Entries = list[Entry]


class NotebookStore:
    """The texts in `folder`, which need not exist; in memory alone if it is None. `prompts` is a folder of texts to
    begin with, which are never changed.

    Methods with a name raise NotebookNotFound; those that open a text, UnreadableNotebook; those that change one, also
    NotebookNotSaved. `version` grows whenever the list changes. All methods may be called from any thread.
    """

    def __init__(self, folder: Path | None, prompts: Path | None = None) -> None:
        self._folder: NotebookFolder = MemoryNotebooks() if folder is None else DiskNotebooks(folder)
        self._label = "" if folder is None else str(folder)
        self._prompts = None if prompts is None else DiskNotebooks(prompts)
        self.version = 0
        self._lock = threading.Lock()  # of the fields below; held for moments only
        self._opened: Recent[str, tuple[Stamp, Notebook]] = Recent(_MAX_OPENED)
        self._listeners: list[Listener] = []

    # -- notifications -------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the name of a text after each of its changes, and return how to stop that.

        It is called in the thread of the change, so it must be quick, and must not raise.
        """
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def _notify(self, name: str, listed: bool = False) -> None:
        with self._lock:
            self.version += listed
            listeners = list(self._listeners)
        for listener in listeners:
            listener(name)

    # -- the list ------------------------------------------------------------------------------------------------------

    def list(self, query: str = "") -> Entries:
        """Return the texts, those changed last first: with a query, those in whose name or text all its words occur."""
        entries = _entries(self._folder)
        return self._search(entries, Query(query)) if query.strip() else entries

    def _search(self, entries: Entries, query: Query) -> Entries:
        found: Entries = []
        for entry in entries:
            snippet = query.match(entry.name, self._content(entry))
            if snippet is not None:
                found.append(replace(entry, snippet=snippet))
            if len(found) == SEARCH_LIMIT:
                break
        return found

    def _content(self, entry: Entry) -> Iterator[str]:
        if entry.problem is None:
            with contextlib.suppress(OSError):
                yield self._folder.read(text_path(entry.name)).decode("utf-8", "replace")

    def prompts(self) -> Entries:
        """Return the texts to begin with, in alphabetical order."""
        return sorted(_entries(self._prompts), key=lambda entry: entry.name.lower()) if self._prompts else []

    def read_prompt(self, name: str) -> str:
        """Return a text to begin with."""
        if self._prompts is None:
            raise NotebookNotFound(name)
        return _decoded(text_path(name), _read_file(self._prompts, name)[1])

    # -- one text ------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> Notebook:
        path = text_path(name)
        try:
            stamp = self._folder.stamp(path)
        except FileNotFoundError:
            raise NotebookNotFound(name) from None
        except OSError as error:
            raise UnreadableNotebook(path.name, _unreadable(error)) from error
        with self._lock:
            cached = self._opened.get(name)
            if cached is not None and cached[0] == stamp:
                self._opened[name] = cached
                return cached[1]
        stamp, content = _read_file(self._folder, name)
        text = _decoded(path, content)
        notebook = replace(self._with_history(name, text), rev=_rev(content))
        self._remember(stamp, notebook)
        return notebook

    def _with_history(self, name: str, text: str) -> Notebook:
        try:
            content = self._folder.read(history_path(name))
        except OSError:
            return Notebook(name, State(text))
        return history_file.from_bytes(name, text, content) or Notebook(name, State(text), forgotten=True)

    def _remember(self, stamp: Stamp, notebook: Notebook) -> None:
        with self._lock:
            self._opened[notebook.name] = (stamp, notebook)

    def create(self, text: str, name: str = "") -> Notebook:
        """Store a new text. Its name is the time, or `name`; with a number, if there is a text of that name."""
        wanted = checked_name(name) if name.strip() else time.strftime("%Y-%m-%d %H-%M-%S")
        with self._changing():
            free, number = wanted, 1
            while self._exists(free):
                number += 1
                free = f"{wanted} ({number})"
            notebook = self._write(Notebook(free, State(_normalized(text))), None)
        self._notify(free, listed=True)
        return notebook

    def _exists(self, name: str) -> bool:
        try:
            self._folder.stamp(text_path(name))
        except FileNotFoundError:
            return False
        return True

    def change(
        self,
        name: str,
        rev: str | None,
        edit: Callable[[Notebook], Notebook],
        writing: tuple[int, int] | None = None,
        text_only: bool = False,
    ) -> Notebook:
        """Apply `edit` to the notebook, store and return it.

        Raises StaleNotebook if `rev` is not its present revision; None stands for any. While a model writes into the
        text, `writing` is the length of what is before and after that; the history is stored when it begins and when it
        has ended, not with `text_only`.
        """
        with self._changing():
            present = self.read(name)
            if rev is not None and rev != present.rev:
                raise StaleNotebook(name, present.rev)
            notebook = self._write(replace(edit(present), forgotten=False), self._folder, writing, text_only)
        self._notify(name)
        return notebook

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            with self._folder.locked():
                yield
        except VisitorMemoryFull as error:
            raise NotebookMemoryFull(error.megabytes) from None
        except OSError as error:
            raise NotebookNotSaved(self._label, error.strerror or str(error)) from error

    def _write(
        self,
        notebook: Notebook,
        before: NotebookFolder | None,
        writing: tuple[int, int] | None = None,
        text_only: bool = False,
    ) -> Notebook:
        """Store the text, then its history. With `before`, it is written as the file that is there was."""
        if len(notebook.text) > MAX_LENGTH:
            raise NotebookTooLong(len(notebook.text), MAX_LENGTH)
        path = text_path(notebook.name)
        old = before.read(path) if before is not None else b""
        content = _encoded(notebook.text, like=old)
        kept = replace(history_file.trimmed(notebook), rev=_rev(content))
        if writing is not None and not text_only:  # it fits whatever is stored of the new text afterwards
            self._folder.write(history_path(notebook.name), history_file.to_bytes(kept, writing))
        stamp = self._folder.stamp(path) if before is not None and content == old else self._folder.write(path, content)
        if writing is None:
            self._folder.write(history_path(notebook.name), history_file.to_bytes(kept))
        self._remember(stamp, kept)
        return kept

    # -- names, and the bin --------------------------------------------------------------------------------------------

    def rename(self, name: str, new: str) -> str:
        """Give the text another name, and return it. Raises InvalidNotebookName or NameTaken."""
        wanted = checked_name(new)
        with self._changing():
            try:
                self._folder.move(text_path(name), text_path(wanted))
            except FileNotFoundError:
                raise NotebookNotFound(name) from None
            except FileExistsError:
                raise NameTaken(wanted) from None
            with contextlib.suppress(FileNotFoundError), contextlib.suppress(FileExistsError):
                self._folder.move(history_path(name), history_path(wanted))
            self._forget(name)
            self._forget(wanted)
        self._notify(name, listed=True)
        return wanted

    def delete(self, name: str) -> None:
        """Move the text to the bin."""
        with self._changing():
            try:
                self._folder.discard(text_path(name))
            except FileNotFoundError:
                raise NotebookNotFound(name) from None
            with contextlib.suppress(FileNotFoundError):
                self._folder.discard(history_path(name))
            self._forget(name)
        self._notify(name, listed=True)

    def restore(self, name: str) -> None:
        """Move the text back from the bin. Raises NameTaken if another one has taken its place."""
        with self._changing():
            try:
                self._folder.restore(text_path(name))
            except FileNotFoundError:
                raise NotebookNotFound(name) from None
            except FileExistsError:
                raise NameTaken(name) from None
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self._folder.restore(history_path(name))
        self._notify(name, listed=True)

    def empty_bin(self, days: float = 30) -> int:
        """Delete texts for good that have been in the bin for so many days, and return how many."""
        until = time.strftime("%Y%m%d", time.localtime(time.time() - days * 86400))
        with self._changing():
            return self._folder.empty_bin(until)

    def count_deleted(self) -> int:
        return self._folder.count_deleted()

    def _forget(self, name: str) -> None:
        with self._lock:
            self._opened.pop(name, None)


def _entries(folder: NotebookFolder) -> Entries:
    found = [(name, stamp) for path, stamp in folder.scan().items() if (name := name_of(path)) is not None]
    entries = [Entry(name, stamp.modified / 1e9, stamp.size, problem=_size_problem(stamp)) for name, stamp in found]
    return sorted(entries, key=lambda entry: (-entry.updated, entry.name))


def _size_problem(stamp: Stamp) -> Words | None:
    if stamp.size <= MAX_BYTES:
        return None
    size = f"{stamp.size // 1_000_000} MB"
    return {"en": f"it is too large ({size})", "zh": f"文件过大（{size}）"}


def _read_file(folder: NotebookFolder, name: str) -> tuple[Stamp, bytes]:
    path = text_path(name)
    try:
        stamp = folder.stamp(path)
        if problem := _size_problem(stamp):
            raise UnreadableNotebook(path.name, problem)
        return stamp, folder.read(path)
    except FileNotFoundError:
        raise NotebookNotFound(name) from None
    except OSError as error:
        raise UnreadableNotebook(path.name, _unreadable(error)) from error


def _unreadable(error: OSError) -> Words:
    reason = error.strerror or str(error)
    return {"en": f"it cannot be read ({reason})", "zh": f"无法读取（{reason}）"}


def _decoded(path: PurePosixPath, content: bytes) -> str:
    try:
        return _normalized(content.decode("utf-8").removeprefix(_BOM))
    except UnicodeDecodeError as error:
        words = {
            "en": f"it is not text in UTF-8 (byte {error.start:,}). Save it as UTF-8 in an editor",
            "zh": f"不是 UTF-8 文本（第 {error.start:,} 字节）。请在编辑器中另存为 UTF-8",
        }
        raise UnreadableNotebook(path.name, words) from None


def _normalized(text: str) -> str:
    """Return the text as a browser's text field has it: with plain line breaks and without half characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()


def _encoded(text: str, like: bytes) -> bytes:
    """Return the bytes of the text, with the line breaks and the mark at the beginning that the file has had."""
    mark = _BOM if like.startswith(_BOM.encode()) else ""
    return (mark + (text.replace("\n", "\r\n") if b"\r\n" in like else text)).encode("utf-8", "replace")


def _rev(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
