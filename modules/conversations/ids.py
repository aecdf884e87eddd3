"""The ids of conversations, which name their files: "<stem>" for instruct/<stem>.json, "<character>~1<stem>" for
chat/<character>/<stem>.json, and "~1<stem>" for files that the original once kept in the folder itself.

"~" in a name is written "~0", as in a JSON pointer (RFC 6901), and a byte that is not UTF-8 "~2" and two hexadecimal
digits. So every file has an id of its own, and an id has no "/".
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from modules.conversations.errors import ConversationNotFound

SUFFIX = ".json"
_MAX_NAME_BYTES = 240
"""Of a file's or folder's name: 255 on most systems, of which temporary names and ".orig-1" need some."""
_WINDOWS_RESERVED = set('\\:<>"|?*')
_TIMESTAMP = re.compile(r"[0-9]{8}-[0-9]{2}-[0-9]{2}-[0-9]{2}(-[0-9a-f]{4})?")
_STRAY_BYTE = re.compile("[\udc80-\udcff]")  # as Python shows it in the name of a file
_ESCAPED_BYTE = re.compile(r"~2([89a-f][0-9a-f])")
_LOOSE_STEM = re.compile(r"persistent_.+|.+_persistent|.+_[0-9]{8}-[0-9]{6}", re.DOTALL)
_LOOSE_CHARACTER = re.compile(r"(?:persistent_(.+)|(.+)_persistent|(.+)_[0-9]{8}-[0-9]{6})", re.DOTALL)


def path_of(id: str) -> PurePosixPath:
    """Return the path of a conversation's file below the folder. Raises ConversationNotFound for other texts."""
    *folder, stem = map(_decoded, id.split("~1"))
    if not folder:
        path = PurePosixPath("instruct", stem + SUFFIX)
    else:
        path = PurePosixPath("chat", *folder, stem + SUFFIX) if folder[0] else PurePosixPath(stem + SUFFIX)
    if id_of(path) != id:
        raise ConversationNotFound(id)
    return path


def id_of(path: PurePosixPath) -> str | None:
    """Return the id of the file at `path` below the folder, or None if it is not a conversation's."""
    stem = path.name.removesuffix(SUFFIX)
    if stem == path.name or not all(map(is_file_name, (*path.parts[:-1], stem))):
        return None
    match path.parts:
        case ("instruct", _):
            return _encoded(stem)
        case ("chat", character, _):
            return f"{_encoded(character)}~1{_encoded(stem)}"
        case (_,) if _LOOSE_STEM.fullmatch(stem):
            return f"~1{_encoded(stem)}"
    return None


def id_for(stem: str, character: str) -> str:
    """Return the id of a conversation with that character, or with none if it is "" or cannot name a folder."""
    return f"{_encoded(character)}~1{stem}" if is_file_name(character) else stem


def character_of(path: PurePosixPath) -> str:
    """Return the character that a file of the original belongs to, "" for none."""
    if len(path.parts) == 3:
        return path.parts[1]
    match = _LOOSE_CHARACTER.fullmatch(path.name.removesuffix(SUFFIX)) if len(path.parts) == 1 else None
    character = next(filter(None, match.groups()), "") if match else ""
    return "" if character == "Instruct" else character


def is_given_name(path: PurePosixPath) -> bool:
    """Whether a user has chosen the name of the file."""
    return len(path.parts) > 1 and _TIMESTAMP.fullmatch(path.name.removesuffix(SUFFIX)) is None


def is_file_name(name: str) -> bool:
    """Whether `name` can name a file or folder of conversations: visible, of one segment, and not too long."""
    return (
        bool(name)
        and not name.startswith(".")
        and "/" not in name
        and "\0" not in name
        and len(name.encode("utf-8", "surrogateescape")) <= _MAX_NAME_BYTES
        and (os.name != "nt" or not set(name) & _WINDOWS_RESERVED)
    )


def is_utf8_name(name: str) -> bool:
    """Whether `name` can name a file, and is UTF-8, so that it can stand in an address as it is."""
    return is_file_name(name) and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _encoded(name: str) -> str:
    return _STRAY_BYTE.sub(lambda match: f"~2{ord(match[0]) - 0xDC00:02x}", name.replace("~", "~0"))


def _decoded(name: str) -> str:
    return _ESCAPED_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), name).replace("~0", "~")
