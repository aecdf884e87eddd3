"""Which models are the same: links to the same files, or copies of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from modules.system.directory_walk import Files

_PIECES, _PIECE = 16, 1 << 16  # of a file of weights, spread over it: tuning a model changes all of its tensors

Sample = Callable[[Path, os.stat_result], str]


def originals(models: Sequence[Files], sample: Sample) -> Mapping[int, int]:
    """For every one of `models` whose files are those of an earlier one: its place, and the place of the first such.

    `sample` tells apart files of equal size, "" if it cannot; it is asked only where links do not answer.
    """
    found: dict[int, int] = {}
    for alike in _groups(range(len(models)), lambda at: _sizes(models[at])):
        links = _groups(alike, lambda at: tuple(map(_place, models[at].items())), least=1)
        linked = {group[0]: group for group in links}
        for same in _by_content(list(linked), models, sample):
            first, *others = sorted(at for leader in same for at in linked[leader])
            found |= dict.fromkeys(others, first)
    return found


def read_sample(path: Path) -> str:
    """A hash of a few pieces of the file, of all of it if it is small. OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        last = max(os.fstat(file.fileno()).st_size - _PIECE, 0)
        for place in sorted({last * number // (_PIECES - 1) for number in range(_PIECES)}):
            file.seek(place)
            digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _sizes(files: Files) -> tuple[int, ...] | None:
    return tuple(facts.st_size for facts in files.values()) or None


def _place(file: tuple[Path, os.stat_result]) -> Hashable:
    """The same for all names of one file; not every file system numbers its files."""
    path, facts = file
    return (facts.st_dev, facts.st_ino) if facts.st_ino else os.path.realpath(path)


def _by_content(places: list[int], models: Sequence[Files], sample: Sample) -> list[list[int]]:
    """`places` in groups of models with the same content. The next file is looked at only while all before agree."""
    groups = [places]
    for number in range(len(models[places[0]])):

        def content(at: int, number: int = number) -> Hashable:
            return sample(*list(models[at].items())[number]) or at

        groups = [finer for group in groups for finer in (_groups(group, content, 1) if len(group) > 1 else [group])]
    return groups


def _groups(places: Iterable[int], key: Callable[[int], Hashable], least: int = 2) -> list[list[int]]:
    """The `places` for which `key` is the same, where it is not None and there are at least so many."""
    found: dict[Hashable, list[int]] = {}
    for at in places:
        if (same := key(at)) is not None:
            found.setdefault(same, []).append(at)
    return [group for group in found.values() if len(group) >= least]
