"""Turn the input items of Responses into the messages of chat completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.api.openai_responses.tools import INPUT, called_name
from modules.core.errors import OptionError, Unsupported, Words
from modules.core.events import Json
from modules.core.quotes import in_quotes

_ROLE: Words = {
    "en": "system, developer, user or assistant",
    "zh": " system、developer、user 或 assistant",
}
_STRING: Words = {"en": "a text", "zh": "文本"}
_CONTENT: Words = {"en": "a text or a list of parts", "zh": "文本或内容片段列表"}
_IMAGE: Words = {"en": "a data: URI with an image", "zh": "含图片的 data: URI"}

_TEXTS = ("input_text", "output_text", "text")
_THOUGHTS = ("summary_text", "reasoning_text", "text")


@dataclass(frozen=True)
class Messages:
    """Messages of a chat. `origins` has the path of the field that each was made of, and `ignored` those of items that
    the answer does without."""

    messages: Sequence[dict[str, Json]]
    origins: Sequence[str]
    ignored: Sequence[str]


def read_input(items: str | Sequence[Mapping[str, Any]], instructions: str = "") -> Messages:
    """Return the messages of an `input`, after the `instructions`.

    Raises OptionError or Unsupported, with the path of the item, for one whose type is known but which is malformed.
    """
    reader = _Reader()
    if instructions:
        reader.add("instructions", {"role": "system", "content": instructions})
    if isinstance(items, str):
        reader.add("input", {"role": "user", "content": items})
    else:
        for index, item in enumerate(items):
            reader.read(f"input[{index}]", item)
    return Messages(reader.messages, reader.origins, reader.ignored)


class _Reader:
    """Reads items in order. What the assistant thought, said and called without a pause becomes one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Json]] = []
        self.origins: list[str] = []
        self.ignored: list[str] = []
        self._thought = ""  # which belongs to the message of the assistant that follows
        self._names: dict[str, str] = {}  # of the tools, by the id of the call

    def add(self, path: str, message: dict[str, Json]) -> None:
        self.messages.append(message)
        self.origins.append(path)

    def read(self, path: str, item: Mapping[str, Any]) -> None:
        kind = item.get("type") or ("message" if "role" in item else "")
        if kind == "message":
            self._read_message(path, item)
        elif kind == "reasoning":
            self._thought = _joined(self._thought, _thought_of(item))
        elif kind == "function_call":
            self._read_call(path, item, _string(path, item, "arguments") or "{}")
        elif kind == "custom_tool_call":
            text = json.dumps({INPUT: _string(path, item, "input")}, ensure_ascii=False)
            self._read_call(path, item, text)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._read_output(path, item)
        else:
            self.ignored.append(path)

    def _read_message(self, path: str, item: Mapping[str, Any]) -> None:
        role, content = item.get("role"), _content(f"{path}.content", item.get("content"))
        if role not in ("system", "developer", "user", "assistant"):
            raise OptionError(f"{path}.role", _quoted(role), _ROLE)
        if role != "assistant":
            self._thought = ""
            self.add(path, {"role": role, "content": content})
            return
        message = self._assistant(path)
        text = content if isinstance(content, str) else "\n".join(part["text"] for part in _text_parts(content))
        message["content"] = _joined(message.get("content", ""), text)

    def _read_call(self, path: str, item: Mapping[str, Any], arguments: str) -> None:
        namespace = item.get("namespace")
        name = called_name(_string(path, item, "name"), namespace if isinstance(namespace, str) else "")
        call_id = _string(path, item, "call_id")
        message = self._assistant(path)
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        message.setdefault("tool_calls", []).append(call)
        self._names[call_id] = name

    def _read_output(self, path: str, item: Mapping[str, Any]) -> None:
        call_id = _string(path, item, "call_id")
        content = _content(f"{path}.output", item.get("output"))
        name = {"name": self._names[call_id]} if call_id in self._names else {}
        self.add(path, {"role": "tool", "tool_call_id": call_id, "content": content, **name})

    def _assistant(self, path: str) -> dict[str, Json]:
        """Return the message of the assistant that is being read; the thought before it is added."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add(path, {"role": "assistant", "content": ""})
        message = self.messages[-1]
        if self._thought:
            message["reasoning_content"] = _joined(message.get("reasoning_content", ""), self._thought)
            self._thought = ""
        return message


def _thought_of(item: Mapping[str, Any]) -> str:
    """Return the text of a reasoning item: the thought itself if the client has it, else its summary."""
    for field in ("content", "summary"):
        parts = item.get(field)
        if isinstance(parts, list):
            texts = [
                part["text"]
                for part in parts
                if isinstance(part, dict) and part.get("type") in _THOUGHTS and isinstance(part.get("text"), str)
            ]
            if texts:
                return "\n\n".join(texts)
    return ""


def _content(path: str, content: object) -> str | list[dict[str, Json]]:
    """Return the content of a message or of a tool's output, in the form of chat completions."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise OptionError(path, _quoted(content), _CONTENT)
    parts = [_part(f"{path}[{number}]", part) for number, part in enumerate(content)]
    texts = _text_parts(parts)
    return "\n".join(part["text"] for part in texts) if len(texts) == len(parts) else parts


def _part(path: str, part: object) -> dict[str, Json]:
    if not isinstance(part, dict):
        raise OptionError(path, _quoted(part), _CONTENT)
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": _string(path, part, "text")}
    if kind == "refusal":
        return {"type": "text", "text": _string(path, part, "refusal")}
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": _image_url(path, part)}}
    raise Unsupported(
        {
            "en": f"{path}: the type {kind!r} is not supported, only input_text, output_text and input_image are.",
            "zh": f"{path}：不支持{in_quotes(kind)}类型的内容，仅支持 input_text、output_text 和 input_image。",
        }
    )


def _image_url(path: str, part: Mapping[str, Any]) -> str:
    url = part.get("image_url")
    if not isinstance(url, str):
        raise OptionError(f"{path}.image_url", _quoted(url), _IMAGE)
    return url


def _text_parts(parts: Sequence[dict[str, Json]]) -> list[dict[str, Json]]:
    return [part for part in parts if part["type"] == "text"]


def _string(path: str, item: Mapping[str, Any], field: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise OptionError(f"{path}.{field}", _quoted(value), _STRING)
    return value


def _joined(first: str, second: str) -> str:
    return f"{first}\n\n{second}" if first and second else first or second


def _quoted(value: object) -> object:
    return value if value is None else json.dumps(value, ensure_ascii=False)[:80]
