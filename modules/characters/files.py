"""Files by stem in a folder, with their pictures, and a bin from which what was deleted can be brought back.

A file is written under a temporary name and renamed. Deleted files are moved to .trash/<time of deletion>/.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from modules.characters.errors import CharacterExists, CharacterNotSaved
from modules.config.named_files import WINDOWS_DEVICES
from modules.config.yaml_file import lock_of
from modules.conversations.ids import is_utf8_name
from modules.core.errors import BinNotEmptied
from modules.system.bin_folder import BIN
from modules.system.leftovers import sweep
from modules.system.moves import move_all

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_TIME = re.compile(r"([0-9]{8})-[0-9]{6}(-[0-9]+)?")
_FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f\ud800-\udfff]+')
_MAX_STEM_BYTES = 120
_DAY = 86400.0


class FileFolder:
    """The files in `folder`, which need not exist, with one of `suffixes`. Of several, the first one counts."""

    def __init__(self, folder: Path, suffixes: tuple[str, ...]) -> None:
        self.folder = folder
        self._suffixes = suffixes

    def stems(self) -> list[str]:
        """Return the stems of all files, sorted as people expect it."""
        found = {path.stem for path in self._paths() if path.suffix in self._suffixes}
        return sorted(filter(is_utf8_name, found), key=lambda stem: (stem.casefold(), stem))

    def find(self, stem: str, suffixes: tuple[str, ...] = ()) -> Path | None:
        """Return the file with that stem, None if there is none. `suffixes` are others than those of the folder."""
        if not is_utf8_name(stem):
            return None
        paths = (self.folder / f"{stem}{suffix}" for suffix in suffixes or self._suffixes)
        return next((path for path in paths if path.is_file()), None)

    def unused_stem(self, name: str) -> str:
        """Return a stem like `name` that no file has yet, in upper or lower case, and that all systems accept."""
        stem = _FORBIDDEN.sub(" ", name).strip(" .")
        stem = stem.encode()[:_MAX_STEM_BYTES].decode("utf-8", "ignore").strip(" .") or "character"
        if WINDOWS_DEVICES.fullmatch(stem):
            stem = f"{stem}_"
        taken = {path.stem.casefold() for path in self._paths()}
        names = (stem if number == 1 else f"{stem} {number}" for number in range(1, 1_000_000))
        return next(one for one in names if one.casefold() not in taken)

    def discard(self, stem: str) -> None:
        """Move all files with that stem to the bin. Raises CharacterNotSaved."""
        with self.saving():
            started = time.strftime("%Y%m%d-%H%M%S")
            names = (f"{started}-{number}" if number else started for number in range(100_000))
            target = next(self.folder / BIN / name for name in names if not (self.folder / BIN / name).exists())
            paths = self._files_of(stem)
            try:
                move_all([(path, target / path.name) for path in paths])
            except OSError:
                with contextlib.suppress(OSError):
                    target.rmdir()
                raise
            for path in paths:
                with contextlib.suppress(OSError):  # another program has it open
                    lock_of(path).unlink(missing_ok=True)

    def restore(self, stem: str) -> bool:
        """Bring back what was deleted last under that stem; return False if there is none. Raises CharacterExists."""
        for deleted in reversed(self._deletions()):
            paths = [path for path in deleted.iterdir() if path.stem == stem]
            if not any(path.suffix in self._suffixes for path in paths):
                continue
            if self._files_of(stem):
                raise CharacterExists(stem)
            with self.saving():
                move_all([(path, self.folder / path.name) for path in paths])
                with contextlib.suppress(OSError):  # of another deletion in the same second
                    deleted.rmdir()
            return True
        return False

    def deleted(self) -> dict[str, str]:
        """Return the stems in the bin, with the day of deletion as YYYYMMDD; those deleted last come first."""
        found: dict[str, str] = {}
        for deletion in reversed(self._deletions()):
            stems = {path.stem for path in deletion.iterdir() if path.suffix in self._suffixes}
            found |= {stem: deletion.name[:8] for stem in sorted(stems) if stem not in found}
        return found

    def empty_bin(self, days: int) -> None:
        """Delete what was moved to the bin at least `days` days ago, and what killed saves have left behind.

        Raises BinNotEmptied.
        """
        sweep(self.folder, [path.name for path in self._paths()])
        until = time.strftime("%Y%m%d", time.localtime(time.time() - days * _DAY))
        try:
            for deletion in self._deletions():
                if deletion.name[:8] <= until:
                    shutil.rmtree(deletion)
        except OSError as error:
            raise BinNotEmptied(str(self.folder / BIN), error.strerror or str(error)) from error

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Create the folder, and raise CharacterNotSaved where the disk refuses to write."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise CharacterNotSaved(str(self.folder), error.strerror or str(error)) from error

    def _files_of(self, stem: str) -> list[Path]:
        return [path for path in self._paths() if path.stem == stem and path.suffix in (*self._suffixes, *PICTURES)]

    def _paths(self) -> list[Path]:
        try:
            return [Path(entry.path) for entry in os.scandir(self.folder) if entry.is_file() and entry.name[0] != "."]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _deletions(self) -> list[Path]:
        """Return the folders of the bin, oldest first."""
        if not (self.folder / BIN).is_dir():
            return []
        found = [path for path in (self.folder / BIN).iterdir() if _TIME.fullmatch(path.name)]
        return sorted(found, key=lambda path: (path.name[:15], int(path.name[16:] or 0)))
