"""Keep what the list shows of each conversation: it is read once, and again when a file changes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import PurePosixPath

from modules.conversations import ids, reader
from modules.conversations.errors import InvalidConversation
from modules.conversations.folder import Folder, Stamp
from modules.conversations.reader import Summary, summarize

_Cache = dict[str, tuple[Stamp, Summary]]  # by path


class SummaryCache:
    """The summaries of the conversations in `folder`. `changed` is called if another process has changed the list.

    `version` grows whenever the list changes. All methods may be called from any thread.
    """

    def __init__(self, folder: Folder, changed: Callable[[], None]) -> None:
        self.version = 0
        self._folder, self._changed = folder, changed
        self._lock = threading.Lock()  # of `version` and the field below; held for moments only
        self._summaries: _Cache = {}

    def refresh(self) -> dict[str, Summary]:
        """Return the summaries by path, of which those of changed files are read again."""
        with self._lock:
            known = dict(self._summaries)  # before the scan, so that changes of this process after it are noticed
        fresh: dict[str, tuple[Stamp, Summary]] = {}
        for path, stamp in self._folder.scan().items():
            cached = known.get(path)
            if cached is not None and cached[0] == stamp:
                fresh[path] = cached
            elif (read := self._summarize(PurePosixPath(path), stamp)) is not None:
                fresh[path] = read
        summaries = {path: summary for path, (_, summary) in fresh.items()}
        if fresh != known:
            self._publish(known, fresh, differs=summaries != {path: summary for path, (_, summary) in known.items()})
        return summaries

    def put(self, path: PurePosixPath, stamp: Stamp, summary: Summary) -> None:
        """Take in what this process has written. The list changes unless only the revision does."""
        with self._lock:
            before = self._summaries.get(str(path))
            self._summaries[str(path)] = (stamp, summary)
            if before is None or before[1] != dataclasses.replace(summary, rev=before[1].rev):
                self.version += 1

    def remove(self, path: PurePosixPath) -> None:
        """Forget a file that this process has removed."""
        with self._lock:
            self._summaries.pop(str(path), None)
            self.version += 1

    def note_change(self) -> None:
        """Note a change of what is shown with the list, such as the bin."""
        with self._lock:
            self.version += 1

    def _publish(self, known: _Cache, fresh: _Cache, differs: bool) -> None:
        """Put what was read into the cache, except for files that this process has changed in the meantime."""
        with self._lock:
            for path in known.keys() | fresh.keys():
                if self._summaries.get(path) != known.get(path):
                    continue
                if path in fresh:
                    self._summaries[path] = fresh[path]
                else:
                    del self._summaries[path]
            self.version += differs
        if differs:
            self._changed()

    def _summarize(self, path: PurePosixPath, stamp: Stamp) -> tuple[Stamp, Summary] | None:
        """Return the summary of a file; None if it is not a conversation's, or was deleted at this moment."""
        id, modified = ids.id_of(path), stamp.modified / 1e9
        if id is None:
            return None
        try:
            return stamp, summarize(id, path, reader.read_content(self._folder, path, stamp), modified)
        except InvalidConversation as error:
            return stamp, reader.damaged(id, path, modified, error.problem)
        except FileNotFoundError:
            return None
        except OSError as error:  # to be tried again each time: permissions change without the file changing
            return stamp._replace(inode=-1), reader.damaged(id, path, modified, reader.unreadable(error))
