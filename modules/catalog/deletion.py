"""Delete models into a bin inside the folder of models, from which they can be restored for 30 days.

A deletion is one folder in `.trash`: `entry.json` and, under `files`, what was moved, at its path below the folder of
models. Moving within one file system takes no time and no space. Links are moved as links, so nothing outside the
folder of models is ever touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from modules.catalog.errors import NotDeletable, NotInBin, NotRestorable
from modules.catalog.projectors import projectors_of
from modules.catalog.record import ModelRecord
from modules.core.errors import BinNotEmptied, Words, both
from modules.system.moves import move_all

BIN = ".trash"
KEEP_SECONDS = 30 * 86400.0

_ENTRY, _FILES = "entry.json", "files"
_ID = re.compile(r"[0-9]{10}-[0-9a-f]{8}")

_OUTSIDE: Words = {
    "en": "It is not in the folder of models. Delete its files yourself.",
    "zh": "它不在模型文件夹中，请自行删除其文件。",
}
_BEHIND_LINK: Words = {
    "en": "It is in a folder behind a symbolic link. Delete it there, or remove the link.",
    "zh": "它位于符号链接指向的文件夹中。请在原处删除，或移除该链接。",
}
_TAKEN: Words = {
    "en": "A file or folder of the same name exists again. Rename or delete that one first.",
    "zh": "已存在同名的文件或文件夹，请先将其重命名或删除。",
}


@dataclass(frozen=True)
class BinEntry:
    """One deletion: the `names` of the models, the `paths` moved, both below the folder of models.

    `deleted` is in seconds since 1970, `size` the bytes of the weights and vision parts. `settings` are those that were
    saved for each name.
    """

    id: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    size: int
    deleted: float
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Deletion:
    """The files that deleting a model moves: whole `paths`, and all `models` that lose files by it, itself first.

    `projectors` are the vision parts in `paths`.
    """

    models: tuple[ModelRecord, ...]
    paths: tuple[Path, ...]
    projectors: tuple[Path, ...] = ()


def plan_deletion(
    top: Path, record: ModelRecord, records: Iterable[ModelRecord], kept: Collection[Path] = ()
) -> Deletion:
    """Return what has to be moved to delete `record`, one of the `records` in the folder of models `top`.

    A folder of weights goes as a whole, with all models in it. GGUF files go with their folder if no other model is
    in it, else with their vision parts alone, without those that belong to other models, too, or are `kept`. Raises
    NotDeletable for a model outside `top` or behind a link.
    """
    others = [other for other in records if other.name != record.name]
    paths = _moved_paths(top, record, others)
    projectors = _projectors(record)
    if not all(_is_within(path, paths) for path in projectors):
        projectors -= {path for other in others for path in _projectors(other)}.union(kept)
        paths = (*paths, *sorted(projectors))
    for path in paths:
        if not path.is_relative_to(top) or path == top:
            raise NotDeletable(record.name, _OUTSIDE)
        if any(parent.is_symlink() for parent in path.parents if parent != top and parent.is_relative_to(top)):
            raise NotDeletable(record.name, _BEHIND_LINK)
    affected = [other for other in others if any(_is_within(part, paths) for part in [other.path, *other.files])]
    return Deletion((record, *affected), paths, tuple(sorted(projectors)))


def _projectors(record: ModelRecord) -> set[Path]:
    return {record.path.parent / name for name in projectors_of(record)}


def _moved_paths(top: Path, record: ModelRecord, others: Sequence[ModelRecord]) -> tuple[Path, ...]:
    if record.path not in record.files and os.path.isdir(record.path):
        return (record.path,)
    files = tuple(sorted(record.files)) or (record.path,)
    folder = record.path.parent
    alone = not any(_is_within(part, (folder,)) for other in others for part in [other.path, *other.files])
    inside = folder != top and folder.is_relative_to(top)
    return (folder,) if inside and alone and not _has_subfolders(folder) else files


def _has_subfolders(folder: Path) -> bool:
    """Whether other folders lie in `folder`, which then is an author's folder and not a model's."""
    with contextlib.suppress(OSError):
        return any(entry.is_dir() for entry in os.scandir(folder))
    return True


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


class ModelBin:
    """The bin of the folder of models `top`. What is on the disk is the only state, so processes may share it."""

    def __init__(self, top: Path) -> None:
        self._top, self._folder = top, top / BIN

    def delete(
        self, deletion: Deletion, settings: Mapping[str, Mapping[str, Any]], now: float | None = None
    ) -> BinEntry:
        """Move the files of `deletion` to the bin.

        Raises NotDeletable, and then everything is as it was, but for files that cannot be moved back: those are in
        the bin.
        """
        deleted = time.time() if now is None else now
        entry = BinEntry(
            id=f"{int(deleted):010}-{secrets.token_hex(4)}",
            names=tuple(model.name for model in deletion.models),
            paths=tuple(path.relative_to(self._top).as_posix() for path in deletion.paths),
            size=sum(_sizes(deletion.models).values()) + sum(map(_size, deletion.projectors)),
            deleted=deleted,
            settings=settings,
        )
        folder = self._folder / entry.id
        try:
            _write_entry(folder, entry)
            move_all(list(zip(deletion.paths, [folder / _FILES / name for name in entry.paths], strict=True)))
        except OSError as error:
            if not any(os.path.lexists(folder / _FILES / name) for name in entry.paths):
                shutil.rmtree(folder, ignore_errors=True)
            raise NotDeletable(entry.names[0], _reason(error)) from error
        return entry

    def restore(self, entry_id: str) -> BinEntry:
        """Move the files of an entry back.

        Raises NotInBin or NotRestorable, and then nothing has been moved, but for files that cannot be moved to the
        bin again: the rest can still be restored.
        """
        entry = self._find(entry_id)
        files = self._folder / entry.id / _FILES
        moves = [(files / name, self._top / name) for name in entry.paths if os.path.lexists(files / name)]
        if any(os.path.lexists(target) for _, target in moves):
            raise NotRestorable(entry.names[0], _TAKEN)
        try:
            move_all(moves)
        except OSError as error:
            raise NotRestorable(entry.names[0], _reason(error)) from error
        shutil.rmtree(self._folder / entry.id, ignore_errors=True)
        return entry

    def entries(self) -> list[BinEntry]:
        """Return what is in the bin, the latest deletion first."""
        with contextlib.suppress(OSError):
            names = sorted((name for name in os.listdir(self._folder) if _ID.fullmatch(name)), reverse=True)
            return [entry for name in names if (entry := self._read(name)) is not None]
        return []

    def empty(self, older_than: float = 0.0, now: float | None = None) -> int:
        """Delete for good what was deleted at least `older_than` seconds ago, and return how many bytes that was.

        Raises BinNotEmptied once everything has been tried.
        """
        limit = (time.time() if now is None else now) - older_than
        expired = [entry for entry in self.entries() if entry.deleted <= limit]
        problems = []
        for entry in expired:
            try:
                _delete_for_good(self._folder / entry.id)
            except OSError as error:
                problems.append(error)
        if problems:
            reason = problems[0].strerror or str(problems[0])
            raise BinNotEmptied(str(self._folder), reason) from problems[0]
        return sum(entry.size for entry in expired)

    def _find(self, entry_id: str) -> BinEntry:
        entry = self._read(entry_id) if _ID.fullmatch(entry_id) else None
        if entry is None:
            raise NotInBin()
        return entry

    def _read(self, name: str) -> BinEntry | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return _parse(name, json.loads((self._folder / name / _ENTRY).read_bytes()))
        return None


def _sizes(models: Iterable[ModelRecord]) -> dict[Path, int]:
    """Return the bytes of all weight files; a file that several models use counts once."""
    return {path: status.st_size for model in models for path, status in model.files.items()}


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def _delete_for_good(folder: Path) -> None:
    """Delete an entry, its description last, without which files that cannot be deleted would no longer be listed."""
    for path in (folder,) if folder.is_symlink() else (folder / _FILES, folder):
        with contextlib.suppress(FileNotFoundError):  # another process deletes it, too
            shutil.rmtree(path)


def _write_entry(folder: Path, entry: BinEntry) -> None:
    folder.mkdir(parents=True)
    temporary = folder / f".{_ENTRY}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        content = {key: value for key, value in asdict(entry).items() if key != "id"}
        json.dump(content, file, ensure_ascii=False, default=str)  # YAML has dates, JSON has none
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / _ENTRY)


def _parse(name: str, data: Mapping[str, Any]) -> BinEntry:
    """Return the entry that a file describes. Raises ValueError for a path that leads out of the folder of models."""
    names, paths = tuple(map(str, data["names"])), tuple(map(str, data["paths"]))
    if not names or any(not _is_plain(path) for path in paths):
        raise ValueError(name)
    settings = {str(model): dict(values) for model, values in data["settings"].items()}
    return BinEntry(name, names, paths, int(data["size"]), float(data["deleted"]), settings)


def _is_plain(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not PurePosixPath(path).is_absolute() and ".." not in parts and parts[0] != BIN


def _reason(error: OSError) -> Words:
    return both(f"{error.strerror or type(error).__name__}.")
