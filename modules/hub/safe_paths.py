"""Names of files that strangers chose: which are safe to have on any system, and how to reach them below a folder
without following a link out of it.

Source: the names Windows cannot have, or reads as something else, are in Microsoft's "Naming Files, Paths, and
Namespaces"; the invisible characters that turn text around, in Unicode's annex 9.
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

LONGEST_NAME, LONGEST_PATH = 240, 1024  # bytes
LARGEST = 4 << 40

_NOT_ON_WINDOWS = set('\\:<>"|?*')
_TURNS_TEXT = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = {"Cc", "Cs", "Zl", "Zp"}  # categories: control characters, lone surrogates, separators of lines
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_OURS = {".git", ".cache", ".downloads"}
_SHOWN = 100

_HERE = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BY_FOLDER = {os.open, os.mkdir} <= os.supports_dir_fd  # not on Windows


def check(files: Iterable[RemoteFile]) -> None:
    """UnsafeName for the first of a repository's files that no folder of ours should have."""
    files = tuple(files)
    for file in files:
        check_path(file.path)
        if not _plausible(file):
            raise UnsafeName(f"{escaped(file.path)}: {file.size!r}, {escaped(file.sha256 or file.git_oid)!r}")
    _check_together([file.path for file in files])


def check_path(path: str) -> None:
    """UnsafeName unless every segment of `path` is a plain name on every system."""
    segments = path.split("/")
    long = len(path.encode("utf-8", "replace")) > LONGEST_PATH
    if long or not all(map(_is_plain, segments)) or _folded(segments[0]) in _OURS:
        raise UnsafeName(escaped(path))


def escaped(name: str) -> str:
    """`name` as it can be shown: what cannot be seen, or turns text around, is written as its code."""
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in shown
    )


def _is_plain(name: str) -> bool:
    return (
        name not in ("", ".", "..")
        and len(name.encode("utf-8", "replace")) <= LONGEST_NAME
        and not set(name) & (_NOT_ON_WINDOWS | _TURNS_TEXT)
        and not any(unicodedata.category(each) in _UNSEEN for each in name)
        and not name.endswith((".", " "))
        and not _DEVICE.fullmatch(name.split(".")[0].rstrip(" "))
    )


def _plausible(file: RemoteFile) -> bool:
    """Whether its size and hashes can be; they come from JSON, so they may be anything."""
    sized = type(file.size) is int and 0 <= file.size <= LARGEST
    hashes = [(file.sha256, 64), (file.git_oid, 40)]
    known = [re.fullmatch(rf"[0-9a-f]{{{length}}}", value) for value, length in hashes if value]
    return sized and bool(known) and all(known)


def _folded(path: str) -> str:
    """Equal for paths that are one file on some system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_together(paths: Iterable[str]) -> None:
    """UnsafeName if two paths would be one file on some system, or one is a file and a folder at once."""
    seen: dict[str, str] = {}
    for path in paths:
        if _folded(path) in seen:
            raise UnsafeName(escaped(path))
        seen[_folded(path)] = path
    for key, path in seen.items():
        above = key
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in seen:
                raise UnsafeName(escaped(path))


# -- below a folder -------------------------------------------------------------------------------------------------


def open_below(folder: Path, path: str, flags: int) -> int:
    """A descriptor of the file at `path` below `folder`, opened with `flags` of `os.open`.

    No link below `folder` is followed; `folder` itself may be one. With O_CREAT the folders in between are made.
    UnsafeName; LinkInTheWay; OSError.
    """
    check_path(path)
    *above, name = path.split("/")
    flags |= _NO_LINK | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with _parent(folder, above, path, make=bool(flags & os.O_CREAT)) as (parent, place), _no_links(path):
        if parent is None and (place / name).is_symlink():
            raise LinkInTheWay(escaped(path))
        return os.open(name if parent is not None else place / name, flags, 0o666, dir_fd=parent)


def put_below(source: Path, folder: Path, path: str) -> None:
    """Move the file `source` to `path` below `folder`, of the same file system, in place of what is there.

    A link there is replaced, never followed. UnsafeName; LinkInTheWay; OSError.
    """
    check_path(path)
    *above, name = path.split("/")
    with _parent(folder, above, path, make=True) as (parent, place):
        if parent is None:
            os.replace(source, place / name)
        else:
            os.replace(source, name, dst_dir_fd=parent)


@contextlib.contextmanager
def _parent(folder: Path, above: list[str], path: str, make: bool) -> Iterator[tuple[int | None, Path]]:
    """The folder `above` below `folder`: its descriptor where the system has such, and its place."""
    place = folder.joinpath(*above)
    if not _BY_FOLDER:
        _walk(folder, above, path, make)
        yield None, place
        return
    with contextlib.ExitStack() as stack:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        here = _kept(stack, os.open(folder, _HERE))
        for name in above:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, dir_fd=here)
            with _no_links(path):
                here = _kept(stack, os.open(name, _HERE | _NO_LINK, dir_fd=here))
        yield here, place


def _kept(stack: contextlib.ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


@contextlib.contextmanager
def _no_links(path: str) -> Iterator[None]:
    """Where a link was met: ELOOP, or ENOTDIR if a folder was wanted (or where a file stands instead of one)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise LinkInTheWay(escaped(path)) from error
        raise


def _walk(folder: Path, above: list[str], path: str, make: bool) -> None:
    """As well as it goes without descriptors of folders: each is looked at before it is entered."""
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    here = folder
    for name in above:
        here = here / name
        if here.is_symlink():
            raise LinkInTheWay(escaped(path))
        if make:
            here.mkdir(exist_ok=True)
