"""ChatGPT's `conversations.json`: a tree of nodes, many of which its page does not show.

Thoughts, calls of tools and their results are nodes of their own; they go to the answer after them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from modules.conversations.conversation import Attachment
from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import ASSISTANT, HIDDEN, SYSTEM, USER, Draft, Header, build
from modules.conversations.importers.parts import keep_all
from modules.conversations.importers.values import (
    as_key,
    as_line,
    as_list,
    as_mapping,
    as_number,
    as_seconds,
    as_text,
    kept,
    mappings,
)
from modules.core.events import Json

_CITATION = re.compile("\ue200[^\ue200-\ue202]{0,50}(?:\ue202[^\ue200-\ue202]{0,500})*\ue201")
_POINTERS = re.compile(r"^(?:file-service|sediment)://")
_TEXT_SUFFIXES = (".txt", ".md", ".csv", ".json", ".py", ".js", ".ts", ".html", ".css", ".xml", ".yaml", ".yml", ".log")


def matches(document: Mapping[str, Json]) -> bool:
    return isinstance(document.get("mapping"), dict)


def read(context: ImportContext, document: Mapping[str, Json]) -> None:
    header = Header(
        title=as_line(document.get("title")),
        created=as_seconds(document.get("create_time")),
        updated=as_seconds(document.get("update_time")),
        current=as_key(document.get("current_node")),
    )
    nodes = as_mapping(document.get("mapping"))
    context.check_messages(len(nodes))
    reader = _Reader(context, header)
    drafts = [reader.draft(as_text(key), as_mapping(node)) for key, node in nodes.items()]
    build(context, header, drafts, reader.losses)


class _Reader:
    def __init__(self, context: ImportContext, header: Header) -> None:
        self._context = context
        self._header = header
        self.losses = Losses()
        self._readers: dict[str, Callable[[Draft, Mapping[str, Json], Mapping[str, Json]], None]] = {
            "system": self._read_system,
            "user": self._read_user,
            "assistant": self._read_assistant,
            "tool": self._read_tool,
        }

    def draft(self, key: str, node: Mapping[str, Json]) -> Draft:
        """Read one node. Nodes without a message, and those that ChatGPT hides, are not shown."""
        message = as_mapping(node.get("message"))
        draft = Draft(
            key=key,
            parent=as_key(node.get("parent")) or None,
            role=HIDDEN,
            created=as_seconds(message.get("create_time")),
            children=tuple(map(as_key, as_list(node.get("children")))),
        )
        content = as_mapping(message.get("content"))
        if content.get("content_type") == "user_editable_context":
            self._keep_instructions(content)
        elif message:
            role = as_text(as_mapping(message.get("author")).get("role"))
            hidden = as_mapping(message.get("metadata")).get("is_visually_hidden_from_conversation") is True
            if role not in self._readers:
                self.losses["unreadable"] += 1
            elif not hidden:
                self._readers[role](draft, message, content)
            elif role != "system" and self._text(content).strip():
                self.losses["hidden"] += 1
        return draft

    def _keep_instructions(self, content: Mapping[str, Json]) -> None:
        instructions = {
            key: kept(content.get(key)) for key in ("user_profile", "user_instructions") if content.get(key)
        }
        if instructions:
            self._header.extra["custom_instructions"] = instructions

    def _read_system(self, draft: Draft, message: Mapping[str, Json], content: Mapping[str, Json]) -> None:
        metadata = as_mapping(message.get("metadata"))
        if metadata.get("is_user_system_message") is True:
            self._header.extra["custom_instructions"] = kept(metadata.get("user_context_message_data"))
        draft.role, draft.content = SYSTEM, self._text(content)

    def _read_user(self, draft: Draft, message: Mapping[str, Json], content: Mapping[str, Json]) -> None:
        draft.content = self._text(content)
        draft.attachments = (*self._images(content), *self._files(message, content))
        if draft.content or draft.attachments or as_list(content.get("parts")):
            draft.role = USER

    def _read_assistant(self, draft: Draft, message: Mapping[str, Json], content: Mapping[str, Json]) -> None:
        kind = content.get("content_type")
        metadata = as_mapping(message.get("metadata"))
        text = self._text(content)
        draft.reasoning_seconds = as_number(metadata.get("finished_duration_sec"))
        if kind == "thoughts":
            draft.reasoning = _thoughts(content)
        elif kind == "reasoning_recap":
            return
        elif message.get("recipient") not in ("all", None):
            self._keep_call(draft, message, content, text)
        elif message.get("channel") == "analysis":
            draft.reasoning = text
        else:
            draft.content = f"```{as_line(content.get('language'), 20)}\n{text}\n```" if kind == "code" else text
            draft.attachments = self._images(content)
            if draft.content.strip() or draft.attachments:
                draft.role = ASSISTANT
                if model := as_line(metadata.get("model_slug")):
                    draft.extra["model"] = model

    def _read_tool(self, draft: Draft, message: Mapping[str, Json], content: Mapping[str, Json]) -> None:
        draft.attachments = self._images(content)
        if text := self._text(content):
            self._keep_call(draft, message, content, text)

    def _keep_call(self, draft: Draft, message: Mapping[str, Json], content: Mapping[str, Json], text: str) -> None:
        author = as_mapping(message.get("author"))
        facts = {"name": author.get("name"), "recipient": message.get("recipient"), "kind": content.get("content_type")}
        call = {key: as_line(value) for key, value in facts.items() if value and value != "all"}
        draft.extra["tool_calls"] = keep_all([{**call, "text": text}], self.losses)

    # -- contents ------------------------------------------------------------------------------------------------------

    def _text(self, content: Mapping[str, Json]) -> str:
        texts = [as_text(content.get("text")), as_text(content.get("result"))]
        for part in as_list(content.get("parts")):
            if isinstance(part, str):
                texts.append(as_text(part))
            elif isinstance(part, dict):
                texts.append(as_text(part.get("text")))
            elif part is not None:
                self.losses["unreadable"] += 1
        return _CITATION.sub("", "\n\n".join(filter(None, texts)))

    def _images(self, content: Mapping[str, Json]) -> tuple[Attachment, ...]:
        """Return the images of a message that lie beside it in the archive; count the others, and recordings."""
        found = []
        for part in mappings(content.get("parts")):
            if pointer := _POINTERS.sub("", as_text(part.get("asset_pointer"))):
                attachment = self._context.attach_image("image", self._context.find_file(pointer))
                if attachment:
                    found.append(attachment)
                else:
                    self.losses["files"] += 1
            elif part.get("content_type") in ("audio_asset_pointer", "real_time_user_audio_video_asset_pointer"):
                self.losses["files"] += 1
        return tuple(found)

    def _files(self, message: Mapping[str, Json], content: Mapping[str, Json]) -> tuple[Attachment, ...]:
        """Return the text files of a question that lie beside it in the archive; count the others but images."""
        shown = " ".join(as_text(part.get("asset_pointer")) for part in mappings(content.get("parts")))
        found = []
        for file in mappings(as_mapping(message.get("metadata")).get("attachments")):
            id, name = as_text(file.get("id")), as_line(file.get("name"))
            if id and id in shown:
                continue
            data = self._context.find_file(id) if id and name.lower().endswith(_TEXT_SUFFIXES) else None
            if data is None:
                self.losses["files"] += 1
            else:
                found.append(self._context.attach_text(name, data.decode("utf-8", "replace")))
        return tuple(found)


def _thoughts(content: Mapping[str, Json]) -> str:
    steps = []
    for thought in mappings(content.get("thoughts")):
        summary, text = as_text(thought.get("summary")), as_text(thought.get("content"))
        steps.append(f"**{summary}**\n\n{text}" if summary and text else summary or text)
    return "\n\n".join(filter(None, steps))
