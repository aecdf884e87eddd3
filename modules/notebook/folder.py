"""Files of the notebook: `<name>.txt`, beside them `.history/<name>.json`, and a bin."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Protocol

from modules.config.named_files import is_valid_name
from modules.conversations.folder import DiskFolder, Folder, MemoryFolder
from modules.conversations.ids import is_utf8_name
from modules.notebook.errors import InvalidNotebookName, NotebookNotFound

SUFFIX = ".txt"
_HISTORY = ".history"
_SHOWN_NAME = 100


class NotebookFolder(Folder, Protocol):
    """A folder whose files can get other names."""

    def move(self, old: PurePosixPath, new: PurePosixPath) -> None:
        """Rename a file. Raises FileExistsError if there is one of the new name."""


class DiskNotebooks(DiskFolder):
    suffix = SUFFIX

    def _folders(self) -> list[Path]:
        return [self.root, self.root / _HISTORY]

    def move(self, old: PurePosixPath, new: PurePosixPath) -> None:
        source, target = self.root / old, self.root / new
        if target.exists() and not (source.exists() and target.samefile(source)):
            raise FileExistsError(str(new))
        os.rename(source, target)


class MemoryNotebooks(MemoryFolder):
    def move(self, old: PurePosixPath, new: PurePosixPath) -> None:
        if str(new) in self._files and new != old:
            raise FileExistsError(str(new))
        file = self._file(old)
        del self._files[str(old)]
        self._files[str(new)] = file


def text_path(name: str) -> PurePosixPath:
    """Return the path of the text of that name below the folder. Raises NotebookNotFound for what names no file."""
    if not is_utf8_name(name):
        raise NotebookNotFound(name.encode("utf-8", "replace").decode()[:_SHOWN_NAME])
    return PurePosixPath(name + SUFFIX)


def history_path(name: str) -> PurePosixPath:
    """Return the path of what is remembered of the generations of that text."""
    return PurePosixPath(_HISTORY, name + ".json")


def name_of(path: str) -> str | None:
    """Return the name of the text at `path` below the folder, None if it is none or has no name in UTF-8."""
    name = path.removesuffix(SUFFIX)
    return None if "/" in path or name == path or not is_utf8_name(name) else name


def checked_name(name: str) -> str:
    """Return the name for a text without surrounding space. Raises InvalidNotebookName."""
    name = unicodedata.normalize("NFC", name.strip())
    if not is_valid_name(name):
        raise InvalidNotebookName()
    return name
