"""Chats of SillyTavern: JSON lines, the first of which is about the chat as a whole. Swipes are versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import ASSISTANT, HIDDEN, USER, Draft, Header, build, chain
from modules.conversations.importers.parts import read_thought
from modules.conversations.importers.values import (
    as_line,
    as_list,
    as_mapping,
    as_number,
    as_seconds,
    as_text,
    kept,
)
from modules.core.events import Json

_HEADER_KEYS = ("chat_metadata", "user_name", "character_name", "create_date")
_FILES = ("image", "file", "files", "media", "image_swipes")


def matches_line(record: Mapping[str, Json]) -> bool:
    """Whether a line is the header or a message of a chat."""
    return "mes" in record or ("user_name" in record and ("chat_metadata" in record or "character_name" in record))


def read_lines(context: ImportContext, records: Sequence[Mapping[str, Json]]) -> None:
    first = records[0] if "mes" not in records[0] else {}
    messages = records[1:] if first else records
    context.check_messages(len(messages) + sum(len(as_list(message.get("swipes"))) for message in messages))
    names = {
        key: as_line(first.get(key)) for key in ("character_name", "user_name") if as_line(first.get(key)) != "unused"
    }
    header = Header(
        title=names.get("character_name", "") or _speaker(messages),
        created=as_seconds(first.get("create_date")),
        extra={key: value for key, value in names.items() if value},
    )
    if metadata := kept(first.get("chat_metadata")):
        header.extra["chat_metadata"] = metadata
    losses = Losses()
    steps = [_versions(str(number), message, losses) for number, message in enumerate(messages)]
    build(context, header, chain(header, steps), losses)


def _speaker(messages: Sequence[Mapping[str, Json]]) -> str:
    """Return the name of the first one who is not the user."""
    return next((as_line(message.get("name")) for message in messages if message.get("is_user") is not True), "")


def _versions(key: str, message: Mapping[str, Json], losses: Losses) -> tuple[list[Draft], int]:
    """Return the versions of one message, and which one is shown."""
    text, shown = message.get("mes"), message.get("swipe_id")
    swipes = as_list(message.get("swipes"))
    if message.get("is_user") is True or len(swipes) < 2 or type(shown) is not int or not 0 <= shown < len(swipes):
        swipes, shown = [text], 0
    infos = as_list(message.get("swipe_info"))
    versions = []
    for number, swipe in enumerate(swipes):
        info = as_mapping(infos[number]) if number < len(infos) else {}
        if number == shown:  # the shown version is edited in the message itself
            swipe, info = text, {**info, **{name: message[name] for name in ("send_date", "extra") if name in message}}
        versions.append(_draft(f"{key}.{number}", message, swipe, info, losses))
    return versions, shown


def _draft(key: str, message: Mapping[str, Json], text: Json, info: Mapping[str, Json], losses: Losses) -> Draft:
    draft = Draft(key, None, USER if message.get("is_user") is True else ASSISTANT)
    if not isinstance(text, str):
        losses["unreadable"] += 1
        draft.role = HIDDEN
        return draft
    about = as_mapping(info.get("extra"))
    draft.content = as_text(text)
    draft.created = as_seconds(info.get("send_date"))
    draft.reasoning_seconds = as_number(about.get("reasoning_duration")) / 1000
    read_thought(draft, about.get("reasoning"))
    if name := as_line(message.get("name")):
        draft.extra["name"] = name
    if model := as_line(about.get("model")):
        draft.extra["model"] = model
    if files := {name: kept(about[name]) for name in _FILES if about.get(name)}:
        losses["files"] += len(files)
        draft.extra["files"] = files
    if message.get("is_system") is True:
        losses["unhidden"] += 1
        draft.extra["is_system"] = True
    return draft
