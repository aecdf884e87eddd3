"""LM Studio's `*.conversation.json`: messages with versions, whose answers consist of steps."""

from __future__ import annotations

from collections.abc import Mapping

from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import HIDDEN, Draft, Header, build, chain
from modules.conversations.importers.parts import keep_all, read_thought, role_of, texts_of
from modules.conversations.importers.values import as_line, as_list, as_mapping, as_seconds, as_text, mappings
from modules.core.events import Json

_SYSTEM_PROMPT = "llm.prediction.systemPrompt"


def matches(document: Mapping[str, Json]) -> bool:
    return any("versions" in message for message in mappings(as_list(document.get("messages"))[:10]))


def read(context: ImportContext, document: Mapping[str, Json]) -> None:
    messages = as_list(document.get("messages"))
    context.check_messages(sum(max(1, len(as_list(as_mapping(message).get("versions")))) for message in messages))
    header = Header(
        title=as_line(document.get("name")),
        created=as_seconds(document.get("createdAt")),
        updated=max(as_seconds(document.get(key)) for key in ("userLastMessagedAt", "assistantLastMessagedAt")),
        pinned=document.get("pinned") is True,
        system=as_text(document.get("systemPrompt")) or _system_prompt(document),
    )
    losses = Losses()
    steps = [_versions(str(number), as_mapping(message), losses) for number, message in enumerate(messages)]
    build(context, header, chain(header, steps), losses)


def _system_prompt(document: Mapping[str, Json]) -> str:
    fields = mappings(as_mapping(document.get("perChatPredictionConfig")).get("fields"))
    return next((as_text(field.get("value")) for field in fields if field.get("key") == _SYSTEM_PROMPT), "")


def _versions(key: str, message: Mapping[str, Json], losses: Losses) -> tuple[list[Draft], int]:
    shown = message.get("currentlySelected")
    versions = [
        _draft(f"{key}.{number}", as_mapping(version), losses)
        for number, version in enumerate(as_list(message.get("versions")))
    ]
    return versions, shown if type(shown) is int else -1


def _draft(key: str, version: Mapping[str, Json], losses: Losses) -> Draft:
    draft = Draft(key, None, role_of(version.get("role")) or HIDDEN)
    if draft.role == HIDDEN:
        losses["unreadable"] += 1
        return draft
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    blocks = version.get("steps") if version.get("type") == "multiStep" else [version]
    for block in mappings(blocks):
        is_thought = as_mapping(block.get("style")).get("type") == "thinking"
        (thoughts if is_thought else texts).append(texts_of(block.get("content")))
        others = [part for part in mappings(block.get("content")) if part.get("type") != "text"]
        files = [part for part in others if part.get("type") == "file"]
        losses["files"] += len(files)
        calls += [part for part in others if part not in files]
    draft.content = "\n\n".join(filter(None, texts))
    read_thought(draft, "\n\n".join(filter(None, thoughts)))
    if kept_calls := keep_all(calls, losses):
        draft.extra["tool_calls"] = kept_calls
    if model := as_line(as_mapping(version.get("senderInfo")).get("senderName")):
        draft.extra["model"] = model
    return draft
