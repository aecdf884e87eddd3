"""Files of one kind in a folder, by name: what the user saves, renames, deletes and brings back."""

from __future__ import annotations

import os
import re
from pathlib import Path

from modules.config.yaml_file import lock_of
from modules.core.errors import NameTaken, OptionError, SettingsError, UnknownName, both
from modules.options.option import nearest
from modules.system.atomic_write import replace_file
from modules.system.bin_folder import BIN

MAX_NAME_BYTES = 200  # file systems allow 255 bytes, and the name of the lock file is longer
_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]|^[. ]|[. ]$')
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are reserved on Windows."""
VALID_NAME = {
    "en": r'a name of at most 200 bytes without \ / : * ? " < > |',
    "zh": r'不含 \ / : * ? " < > | 且不超过 200 字节的名称',
}


class NamedFiles:
    """The files with `suffix` in `folder`, which need not exist. Names are those of files without the suffix.

    What was deleted or overwritten last under a name is kept in a bin. `missing` is the error for a name that does not
    exist; `option` names the kind in an error about an invalid name. Methods raise SettingsError if the disk fails.
    """

    def __init__(self, folder: Path, suffix: str, missing: type[UnknownName], option: str) -> None:
        self.folder, self._suffix, self._missing, self._option = folder, suffix, missing, option

    def names(self) -> list[str]:
        """Return all names; numbers in them are sorted by their values."""
        stems = (
            path.name.removesuffix(self._suffix) for path in self.folder.glob(f"*{self._suffix}") if path.is_file()
        )
        return sorted(filter(is_valid_name, stems), key=_natural)

    def existing(self, name: str) -> Path:
        """Return the path of a file. Raises the error for missing names."""
        path = self.folder / f"{name}{self._suffix}"
        if not is_valid_name(name) or not path.is_file():
            raise self._missing(name, nearest(name, self.names()))
        return path

    def path_for(self, name: str) -> Path:
        """Return the path of a file that may not exist yet. Raises OptionError for an invalid name."""
        if not is_valid_name(name):
            raise OptionError(self._option, name[:80], VALID_NAME)
        return self.folder / f"{name}{self._suffix}"

    def free_name(self, name: str) -> str:
        """Return `name`, with a number behind it if there is a file of that name. Raises OptionError."""
        taken = {other.casefold() for other in self.names()}
        numbered = (f"{name} ({number})" for number in range(2, len(taken) + 3))
        return next(free for free in (name, *numbered) if free.casefold() not in taken and self.path_for(free))

    def write(self, name: str, content: bytes) -> None:
        """Write a file; what it replaces is kept in the bin. Raises OptionError for an invalid name."""
        path = self.path_for(name)
        self.keep(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def keep(self, name: str) -> None:
        """Copy a file into the bin before it is overwritten. Does nothing if there is none."""
        path = self.path_for(name)
        try:
            if path.is_file():
                self._binned(path).parent.mkdir(exist_ok=True)
                replace_file(self._binned(path), path.read_bytes())
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def delete(self, name: str) -> None:
        """Move a file into the bin. Raises the error for missing names."""
        path = self.existing(name)
        try:
            self._binned(path).parent.mkdir(exist_ok=True)
            os.replace(path, self._binned(path))
            lock_of(path).unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def restore(self, name: str, overwritten: bool = False) -> None:
        """Bring back what was deleted last under that name, or with `overwritten` what was replaced.

        Raises the error for missing names if there is nothing in the bin, or if there is a file of that name again.
        With `overwritten`, the present content is moved to the bin.
        """
        path = self.folder / f"{name}{self._suffix}"
        if not is_valid_name(name) or path.exists() != overwritten or not self._binned(path).is_file():
            raise self._missing(name)
        try:
            if overwritten:
                kept = self.folder / BIN / f".{path.name}.new"  # first of all: the disk may be full
                replace_file(kept, path.read_bytes())
                os.replace(self._binned(path), path)
                os.replace(kept, self._binned(path))
            else:
                os.rename(self._binned(path), path)
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def rename(self, name: str, new: str) -> None:
        """Rename a file. Raises the error for missing names, NameTaken, or OptionError for an invalid name."""
        path, target = self.existing(name), self.path_for(new)
        if target.exists() and not (target.samefile(path) and name != new):
            raise NameTaken(new)
        try:
            os.rename(path, target)
            lock_of(path).unlink(missing_ok=True)
        except OSError as error:
            raise SettingsError(str(path), both(str(error))) from error

    def _binned(self, path: Path) -> Path:
        """Return where the file at `path` is kept once it is deleted or overwritten."""
        return self.folder / BIN / path.name


def is_valid_name(name: str) -> bool:
    """Whether a file can have this name on every operating system."""
    try:
        short = 0 < len(name.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return short and not _FORBIDDEN.search(name) and not WINDOWS_DEVICES.fullmatch(name)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key by which "v2" comes before "v10"."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part) for part in parts], name
