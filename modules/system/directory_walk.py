"""Walk the folders below a folder of models. Links are followed, but the walk always ends."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_UNFINISHED = (".part", ".incomplete", ".tmp")
_DIFFUSERS_INDEX = "model_index.json"  # all folders below belong to this one model
_PSEUDO_FOLDERS = ("/proc", "/sys", "/dev")  # of the kernel; /proc has hundreds of thousands of files

Files = Mapping[Path, os.stat_result]


def walk_folders(top: Path) -> Iterator[tuple[Path, Files]]:
    """Yield every folder from `top` down, with its files; those behind links last, for they may be large or slow.

    A link into a folder that contains it is not followed. Below a linked folder, further links are followed only to
    folders not visited yet: a link to `/` must not make the walk endless.
    """
    visited: set[str] = set()
    pending = [(top, frozenset[str](), False)]
    linked: deque[tuple[Path, frozenset[str], bool]] = deque()
    while pending or linked:
        folder, ancestors, below_link = pending.pop() if pending else linked.popleft()
        real, is_link = os.path.realpath(folder), folder.is_symlink()
        if real in ancestors or real in _PSEUDO_FOLDERS or (below_link and is_link and real in visited):
            continue
        visited.add(real)
        subfolders, files = list_folder(folder)
        yield folder, files
        if folder / _DIFFUSERS_INDEX in files and folder != top:
            continue
        child_below_link = below_link or (is_link and folder != top)
        children = [(subfolder, ancestors | {real}, child_below_link) for subfolder in subfolders]
        linked += [child for child in children if child[0].is_symlink()]
        pending += [child for child in reversed(children) if not child[0].is_symlink()]


def resolve_subfolder(top: Path, names: Sequence[str]) -> Path | None:
    """Return the folder that the path `names` leads to below `top`, or None where `walk_folders` would not go.

    Only names that are listed in their folder are accepted, spelled exactly as there, so that none leads out ("..").
    """
    folder, ancestors = top, {os.path.realpath(top)}
    for name in names:
        present = _visible_names(folder)
        folder /= name
        inside_model = _DIFFUSERS_INDEX in present and folder.parent != top
        if name not in present or inside_model or os.path.realpath(folder) in ancestors:
            return None
        ancestors.add(os.path.realpath(folder))
    return folder


def list_folder(folder: Path, matches: Callable[[str], bool] = lambda name: True) -> tuple[list[Path], Files]:
    """Return the subfolders and the files of `folder` whose names match, sorted by name.

    Hidden entries and unfinished downloads are left out; so is everything if the folder cannot be read.
    """
    subfolders: list[Path] = []
    files: dict[Path, os.stat_result] = {}
    for entry in sorted(folder / name for name in _visible_names(folder) if matches(name)):
        try:
            status = entry.stat()
        except OSError:  # a dangling link
            continue
        if stat.S_ISDIR(status.st_mode):
            subfolders.append(entry)
        elif stat.S_ISREG(status.st_mode):
            files[entry] = status
    return subfolders, files


def _visible_names(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:  # missing, not a folder, or not permitted
        return []
    return [name for name in names if not name.startswith(".") and not name.lower().endswith(_UNFINISHED)]
