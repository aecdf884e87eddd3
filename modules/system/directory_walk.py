"""The folders below a folder of models, with their files. Links are followed, and come to an end."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_UNFINISHED = (".part", ".incomplete", ".tmp")
_WHOLE = "model_index.json"  # of diffusers: all folders below belong to this one

Files = Mapping[Path, os.stat_result]


def walk(top: Path) -> Iterator[tuple[Path, Files]]:
    """Every folder from `top` down with its files. Links are followed, but never into a folder that holds them.

    Below a linked folder, further links are followed only to places not seen yet: a link to `/` must come to an end.
    """
    seen: set[str] = set()
    waiting = [(top, frozenset[str](), False)]
    while waiting:
        folder, above, below_link = waiting.pop()
        place, is_link = os.path.realpath(folder), folder.is_symlink()
        if place in above or (below_link and is_link and place in seen):
            continue
        seen.add(place)
        folders, files = listing(folder)
        yield folder, files
        if folder / _WHOLE in files and folder != top:
            continue
        waiting += [(each, above | {place}, below_link or (is_link and folder != top)) for each in reversed(folders)]


def descend(top: Path, names: Sequence[str]) -> Path | None:
    """The folder below `top` that `names` lead to, one in the other, if `walk` would come there; nothing is walked.

    Only names that a listing has are followed, as they are spelt there, so that none leads out ("..").
    """
    folder, above = top, {os.path.realpath(top)}
    for name in names:
        present = _names(folder)
        folder /= name
        if name not in present or (_WHOLE in present and folder.parent != top) or os.path.realpath(folder) in above:
            return None
        above.add(os.path.realpath(folder))
    return folder


def listing(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> tuple[list[Path], Files]:
    """The folders and the files in `folder`, by name; neither hidden ones nor unfinished downloads. Only names that
    are `wanted` are looked at."""
    folders: list[Path] = []
    files: dict[Path, os.stat_result] = {}
    for entry in sorted(folder / name for name in _names(folder) if wanted(name)):
        try:
            facts = entry.stat()
        except OSError:  # a link that leads nowhere
            continue
        if stat.S_ISDIR(facts.st_mode):
            folders.append(entry)
        elif stat.S_ISREG(facts.st_mode):
            files[entry] = facts
    return folders, files


def _names(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:  # not there, no folder, or not ours to read
        return []
    return [name for name in names if not name.startswith(".") and not name.lower().endswith(_UNFINISHED)]
