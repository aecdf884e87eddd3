"""Validate file names received from a server, and reach them below a folder without following links out of it.

Source: names that Windows cannot store or interprets otherwise are listed in Microsoft's "Naming Files, Paths, and
Namespaces"; the invisible characters that reverse text, in Unicode's annex 9.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from modules.hub.errors import LinkInTheWay, UnsafeName
from modules.hub.repository import RemoteFile

MAX_NAME_BYTES, MAX_PATH_BYTES = 240, 1024
MAX_FILE_BYTES = 4 << 40

_WINDOWS_RESERVED = set('\\:<>"|?*')
_BIDI_CONTROLS = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # categories: control characters, lone surrogates, line separators
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_OWN_FOLDERS = {".git", ".cache", ".downloads"}
_MAX_SHOWN = 100

_OPEN_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_HAS_DIR_FD = {os.open, os.mkdir} <= os.supports_dir_fd  # not on Windows


def check_files(files: Iterable[RemoteFile]) -> None:
    """Check names, sizes and hashes of a repository's files. Raises UnsafeName for the first bad one."""
    files = tuple(files)
    for file in files:
        check_path(file.path)
        if not _is_plausible(file):
            raise UnsafeName(f"{escape_name(file.path)}: {file.size!r}, {escape_name(file.sha256 or file.git_oid)!r}")
    _check_collisions([file.path for file in files])


def check_path(path: str) -> None:
    """Raise UnsafeName unless every segment of `path` is an ordinary file name on every system."""
    segments = path.split("/")
    too_long = len(path.encode("utf-8", "replace")) > MAX_PATH_BYTES
    if too_long or not all(map(_is_ordinary, segments)) or _normalized(segments[0]) in _OWN_FOLDERS:
        raise UnsafeName(escape_name(path))


def escape_name(name: str) -> str:
    """Return `name` for display: shortened, with invisible and text-reversing characters as escape sequences."""
    shown = name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in shown
    )


def _is_ordinary(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
        and not set(name) & (_WINDOWS_RESERVED | _BIDI_CONTROLS)
        and not any(unicodedata.category(char) in _UNPRINTABLE for char in name)
        and not name.endswith((".", " "))
        and not _WINDOWS_DEVICE.fullmatch(name.split(".")[0].rstrip(" "))
    )


def _is_plausible(file: RemoteFile) -> bool:
    """Whether size and hashes have valid types and values; they come from JSON, so they may be anything."""
    valid_size = type(file.size) is int and 0 <= file.size <= MAX_FILE_BYTES
    hashes = [(file.sha256, 64), (file.git_oid, 40)]
    matches = [re.fullmatch(rf"[0-9a-f]{{{length}}}", value) for value, length in hashes if value]
    return valid_size and bool(matches) and all(matches)


def _normalized(path: str) -> str:
    """Return a form that is equal for paths which some system treats as one file."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_collisions(paths: Iterable[str]) -> None:
    """Raise UnsafeName if two paths are one file on some system, or one is both a file and a folder."""
    seen: dict[str, str] = {}
    for path in paths:
        if _normalized(path) in seen:
            raise UnsafeName(escape_name(path))
        seen[_normalized(path)] = path
    for key, path in seen.items():
        parent = key
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in seen:
                raise UnsafeName(escape_name(path))


# -- below a folder -------------------------------------------------------------------------------------------------


def open_below(folder: Path, path: str, flags: int) -> int:
    """Open the file at `path` below `folder` with `flags` of `os.open`, and return its descriptor.

    No link below `folder` is followed; `folder` itself may be one. With O_CREAT, missing folders in between are
    created. Raises UnsafeName, LinkInTheWay or OSError.
    """
    check_path(path)
    *parents, name = path.split("/")
    flags |= _NO_FOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with _open_parent(folder, parents, path, create=bool(flags & os.O_CREAT)) as (fd, parent), _links_refused(path):
        if fd is None and (parent / name).is_symlink():
            raise LinkInTheWay(escape_name(path))
        return os.open(name if fd is not None else parent / name, flags, 0o666, dir_fd=fd)


def move_below(source: Path, folder: Path, path: str) -> None:
    """Move `source` to `path` below `folder`, which is on the same file system, replacing an existing file.

    A link at `path` is replaced, never followed. Raises UnsafeName, LinkInTheWay or OSError.
    """
    check_path(path)
    *parents, name = path.split("/")
    with _open_parent(folder, parents, path, create=True) as (fd, parent):
        if fd is None:
            os.replace(source, parent / name)
        else:
            os.replace(source, name, dst_dir_fd=fd)


@contextlib.contextmanager
def _open_parent(folder: Path, parents: list[str], path: str, create: bool) -> Iterator[tuple[int | None, Path]]:
    """Yield the folder `parents` below `folder`: its descriptor, or None where the system has none, and its path."""
    parent = folder.joinpath(*parents)
    if not _HAS_DIR_FD:
        _check_parents(folder, parents, path, create)
        yield None, parent
        return
    with contextlib.ExitStack() as stack:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        fd = _closed_by(stack, os.open(folder, _OPEN_FOLDER))
        for name in parents:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
            with _links_refused(path):
                fd = _closed_by(stack, os.open(name, _OPEN_FOLDER | _NO_FOLLOW, dir_fd=fd))
        yield fd, parent


def _closed_by(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def _links_refused(path: str) -> Iterator[None]:
    """Translate the errors of opening a link: ELOOP, or ENOTDIR for a folder (or a file in place of a folder)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise LinkInTheWay(escape_name(path)) from error
        raise


def _check_parents(folder: Path, parents: list[str], path: str, create: bool) -> None:
    """Refuse links in `parents` as far as that is possible without folder descriptors: check each before entering."""
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    current = folder
    for name in parents:
        current = current / name
        if current.is_symlink():
            raise LinkInTheWay(escape_name(path))
        if create:
            current.mkdir(exist_ok=True)
