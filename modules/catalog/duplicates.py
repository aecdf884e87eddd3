"""Find models with the same weights: links to the same files, or copies of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from modules.system.directory_walk import Files

# Pieces of a weight file, spread all over it: fine-tuning a model changes all of its tensors.
_SAMPLE_PIECES, _PIECE_BYTES = 16, 1 << 16

Sample = Callable[[Path, os.stat_result], str]


def find_duplicates(models: Sequence[Files], sample: Sample) -> Mapping[int, int]:
    """Return, for each model with the files of an earlier one, the indices of both: its own, the earliest one's.

    `sample` distinguishes files of equal size; it returns "" if it cannot. It is called only where links do not settle
    the question.
    """
    duplicates: dict[int, int] = {}
    for same_sizes in _group_by(range(len(models)), lambda index: _sizes(models[index])):
        linked = _group_by(same_sizes, lambda index: tuple(map(_file_identity, models[index].items())), min_members=1)
        group_of = {group[0]: group for group in linked}
        for same_content in _group_by_content(list(group_of), models, sample):
            original, *others = sorted(index for leader in same_content for index in group_of[leader])
            duplicates |= dict.fromkeys(others, original)
    return duplicates


def read_sample(path: Path) -> str:
    """Return a hash of a few pieces of the file; of all of it if it is small. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        last = max(os.fstat(file.fileno()).st_size - _PIECE_BYTES, 0)
        for offset in sorted({last * number // (_SAMPLE_PIECES - 1) for number in range(_SAMPLE_PIECES)}):
            file.seek(offset)
            digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def _sizes(files: Files) -> tuple[int, ...] | None:
    return tuple(status.st_size for status in files.values()) or None


def _file_identity(file: tuple[Path, os.stat_result]) -> Hashable:
    """Return the same key for all names of one file. Not every file system numbers its files."""
    path, status = file
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _group_by_content(indices: list[int], models: Sequence[Files], sample: Sample) -> list[list[int]]:
    """Group models of equal file sizes by content. A file is sampled only while all files before it agree."""
    groups = [indices]
    for number in range(len(models[indices[0]])):

        def content(index: int, number: int = number) -> Hashable:
            return sample(*list(models[index].items())[number]) or index

        groups = [finer for group in groups for finer in (_group_by(group, content, 1) if len(group) > 1 else [group])]
    return groups


def _group_by(indices: Iterable[int], key: Callable[[int], Hashable], min_members: int = 2) -> list[list[int]]:
    """Group `indices` by `key`; leave out those whose key is None, and groups of fewer than `min_members`."""
    groups: dict[Hashable, list[int]] = {}
    for index in indices:
        if (value := key(index)) is not None:
            groups.setdefault(value, []).append(index)
    return [group for group in groups.values() if len(group) >= min_members]
