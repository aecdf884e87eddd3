"""Convert requests to Anthropic's API into chat completions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from modules.api.anthropic.schemas import AnthropicMessage, Block, CountTokensRequest, MessagesRequest
from modules.api.request_body import MAX_QUOTED, respelled
from modules.api.schemas import ChatRequest
from modules.chat.errors import ImageRefused
from modules.core.errors import OptionError, UnknownOption, Unsupported, Words
from modules.core.events import Json

_PRIVATE_LINE = "x-anthropic-"
"""The beginning of a line that Claude Code puts before its system prompt: it differs in every request, and would keep
the prompt from being found in the cache."""

_NO_EFFECT = frozenset({"speed", "inference_geo"})
"""Fields that by their meaning do not change the answer, beside those of `request_fields`."""
_FIELDS_OF_TOOLS = frozenset({"type", "name", "description", "input_schema", "strict"})
_NO_EFFECT_IN_TOOLS = frozenset({"cache_control", "eager_input_streaming"})
_PASSED_ON = frozenset({"chat_template_kwargs", "enable_thinking", "reasoning_effort", "keep_alive", "ttl"})

SPELLED: Mapping[str, str] = {
    "enable_thinking": "thinking",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
}
"""Anthropic's names of a chat completion's fields."""

_ELEMENT = re.compile(r"(messages|tools)\[(\d{1,9})\](?:\.content(?:\[(\d{1,9})\](?:\.image_url)?)?|\.function\b)?")
"""A message or tool of a chat completion, with what its fields are called there."""

_TEXT: Words = {"en": "a text", "zh": "文本"}
_NAME_OF_TOOL: Words = {"en": "the name of one of the tools", "zh": "其中一个工具的名称"}
_OBJECT: Words = {"en": "a JSON object", "zh": " JSON 对象"}
_SOURCE: Words = {
    "en": 'an object such as {"type": "base64", "media_type": "image/png", "data": "..."}',
    "zh": '形如 {"type": "base64", "media_type": "image/png", "data": "..."} 的对象',
}


@dataclass
class Origins:
    """The paths in a request of what the messages, their parts and the tools of the chat completion were made of."""

    messages: list[str] = field(default_factory=list)
    parts: dict[int, list[str]] = field(default_factory=dict)  # by the index of their message
    tools: list[str] = field(default_factory=list)

    def path(self, path: str) -> str:
        """Return the path in the request for one in the chat completion."""
        return _ELEMENT.sub(lambda found: self._element(found[0], found[1], int(found[2]), found[3]), path)

    def _element(self, path: str, kind: str, index: int, part: str | None) -> str:
        paths = self.messages if kind == "messages" else self.tools
        if index >= len(paths):
            return path
        parts = self.parts.get(index, [])
        return parts[int(part)] if part is not None and int(part) < len(parts) else paths[index]

    @contextmanager
    def respelling(self) -> Iterator[None]:
        """Let the errors of the block name the fields of the request."""
        try:
            yield
        except OptionError as error:
            error.option = self.path(error.option)
            raise
        except ImageRefused as error:
            error.where = self.path(error.where)
            raise


@dataclass(frozen=True)
class Conversion:
    """A chat completion, and the paths of what was left out of it; `foreign` are those of its parameters."""

    chat: ChatRequest
    ignored: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    origins: Origins = field(default_factory=Origins)

    def refuse_foreign(self) -> None:
        """Raise UnknownOption if there are parameters of OpenAI's API alone."""
        if self.foreign:
            raise UnknownOption(self.foreign[0])

    def report(self, ignored: Sequence[str]) -> list[str]:
        """Return all that the answer does without; `ignored` are fields of the chat completion."""
        names = (self.chat.spelled.get(name, name) for name in ignored)
        return [*self.ignored, *map(self.origins.path, names)]


def convert(body: CountTokensRequest) -> Conversion:
    """Return the chat completion that `body` asks for. Raises OptionError or Unsupported."""
    reader = _Reader()
    messages = reader.system("system", body.system)
    reader.origins.messages += ["system"] * len(messages)
    for index, message in enumerate(body.messages):
        read = reader.message(f"messages[{index}]", message)
        reader.origins.messages += [f"messages[{index}]"] * len(read)
        messages += read
    last = body.messages[-1]
    fields: dict[str, Json] = {
        "model": body.model,
        "messages": messages,
        "continue_": last.role == "assistant" and "tool_calls" not in messages[-1],
        **reader.tools(body),
        **_output(body),
        **_parameters(body),
    }
    foreign = [name for name in body.model_extra or {} if _is_foreign(name)]
    spelled = {ours: theirs for ours, theirs in SPELLED.items() if ours not in (body.model_extra or {})}
    try:
        with reader.origins.respelling():
            chat = ChatRequest.model_validate(fields)
    except OptionError as error:
        raise respelled(error, spelled) from None
    chat.spell(spelled)
    return Conversion(chat, (*reader.ignored, *foreign), tuple(foreign), reader.origins)


def _output(body: CountTokensRequest) -> dict[str, Json]:
    """Return the fields that say how the model should think and what form its answer has."""
    fields: dict[str, Json] = {}
    if body.thinking is not None:
        fields["enable_thinking"] = body.thinking.type != "disabled"
    config = body.output_config
    if config is not None and config.effort is not None:
        fields["reasoning_effort"] = config.effort
    if config is not None and config.format is not None:
        schema = {"name": "answer", "strict": True, "schema": config.format.json_schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _is_foreign(name: str) -> bool:
    """Return whether a field is one of OpenAI's API alone."""
    return name in ChatRequest.model_fields and name not in _PASSED_ON


def _parameters(body: CountTokensRequest) -> dict[str, Json]:
    """Return the generation parameters."""
    fields: dict[str, Json] = {}
    if isinstance(body, MessagesRequest):
        fields |= {"max_tokens": body.max_tokens, "stop": body.stop_sequences}
    for name, value in (body.model_extra or {}).items():
        if name not in _NO_EFFECT and not _is_foreign(name):
            fields[name] = value
    return fields


@dataclass
class _Reader:
    """Converts messages, and collects in `ignored` what it leaves out."""

    ignored: list[str] = field(default_factory=list)
    origins: Origins = field(default_factory=Origins)

    # -- messages -----------------------------------------------------------------------------------------------------

    def system(self, where: str, system: str | list[Block]) -> list[Json]:
        blocks = [_text_part(system)] if isinstance(system, str) else system
        texts = [
            _without_private_line(_required(f"{where}[{index}]", block, "text")) for index, block in enumerate(blocks)
        ]
        text = "\n\n".join(text for text in texts if text)
        return [{"role": "system", "content": text}] if text else []

    def message(self, where: str, message: AnthropicMessage) -> list[Json]:
        if isinstance(message.content, str):
            return [{"role": message.role, "content": message.content}]
        if message.role == "assistant":
            return [self._answer(f"{where}.content", message.content)]
        if message.role == "system":
            return self.system(f"{where}.content", message.content)
        return self._question(f"{where}.content", message.content)

    def _question(self, where: str, blocks: Sequence[Block]) -> list[Json]:
        """Return a user's message, and before it the results of tools, whose pictures become the user's."""
        results: list[Json] = []
        parts: list[Json] = []
        paths: list[str] = []
        for index, block in enumerate(blocks):
            path = f"{where}[{index}]"
            if block.get("type") == "tool_result":
                text, pictures = self._result(path, block)
                results.append({"role": "tool", "tool_call_id": _required(path, block, "tool_use_id"), "content": text})
                parts += pictures
            else:
                parts += self._parts(path, block)
            paths += [path] * (len(parts) - len(paths))
        self.origins.parts[len(self.origins.messages) + len(results)] = paths
        return [*results, {"role": "user", "content": parts}] if parts or not results else results

    def _answer(self, where: str, blocks: Sequence[Block]) -> Json:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Json] = []
        for index, block in enumerate(blocks):
            path = f"{where}[{index}]"
            match block.get("type"):
                case "thinking":
                    thoughts.append(_required(path, block, "thinking"))
                case "redacted_thinking":
                    pass  # nobody but its author can read it
                case "tool_use":
                    calls.append(_call(path, block))
                case _:
                    parts = self._parts(path, block)
                    texts += [part["text"] for part in parts if part["type"] == "text"]
                    if any(part["type"] != "text" for part in parts):  # no template has pictures in an answer
                        self.ignored.append(path)
        return {
            "role": "assistant",
            "content": "".join(texts),
            **({"reasoning_content": "\n\n".join(filter(None, thoughts))} if any(thoughts) else {}),
            **({"tool_calls": calls} if calls else {}),
        }

    def _result(self, where: str, block: Block) -> tuple[str, list[Json]]:
        """Return the text of a tool's result, and its pictures."""
        content = block.get("content") or ""
        if isinstance(content, str):
            parts = [_text_part(content)]
        elif isinstance(content, list):
            parts = [
                part for index, one in enumerate(content) for part in self._parts(f"{where}.content[{index}]", one)
            ]
        else:
            raise OptionError(f"{where}.content", str(content)[:MAX_QUOTED], _TEXT)
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        if block.get("is_error") is True:
            text = f"Error: {text}"
        return text, [part for part in parts if part["type"] != "text"]

    def _parts(self, where: str, block: Block) -> list[Json]:
        """Return the parts of a block that is no thought, call or result. Unknown blocks are left out."""
        if not isinstance(block, dict):
            raise OptionError(where, str(block)[:MAX_QUOTED], _OBJECT)
        readers: Mapping[str, Callable[[str, Block], list[Json]]] = {
            "text": lambda where, block: [_text_part(_required(where, block, "text"))],
            "image": lambda where, block: [_image(where, block)],
            "document": self._document,
            "search_result": self._search_result,
        }
        reader = readers.get(str(block.get("type")))
        if reader is not None:
            return reader(where, block)
        self.ignored.append(where)
        return []

    def _document(self, where: str, block: Block) -> list[Json]:
        source = block.get("source")
        source = source if isinstance(source, dict) else {}
        kind = source.get("type")
        if kind == "text":
            return [_text_part(_titled(block, _required(f"{where}.source", source, "data")))]
        if kind == "content":
            content = source.get("content")
            blocks = [_text_part(content)] if isinstance(content, str) else content
            if isinstance(blocks, list):
                path = f"{where}.source.content"
                return [part for index, one in enumerate(blocks) for part in self._parts(f"{path}[{index}]", one)]
        raise Unsupported(
            {
                "en": f"{where}: of documents, only those with a source of type 'text' or 'content' are supported.",
                "zh": f"{where}：仅支持来源类型为 text 或 content 的文档。",
            }
        )

    def _search_result(self, where: str, block: Block) -> list[Json]:
        content = block.get("content")
        if not isinstance(content, list):
            raise OptionError(f"{where}.content", str(content)[:MAX_QUOTED], _TEXT)
        texts = [_required(f"{where}.content[{index}]", one, "text") for index, one in enumerate(content)]
        return [_text_part(_titled(block, "\n".join(texts)))]

    # -- tools --------------------------------------------------------------------------------------------------------

    def tools(self, body: CountTokensRequest) -> dict[str, Json]:
        """Return the tools that are functions, and which of them may be called; others run on Anthropic's servers."""
        functions: list[Json] = []
        for index, tool in enumerate(body.tools):
            where = f"tools[{index}]"
            if tool.get("type") not in (None, "custom"):
                self.ignored.append(where)
                continue
            functions.append({"type": "function", "function": _function(where, tool)})
            self.origins.tools.append(where)
            self.ignored += [
                f"{where}.{name}" for name in tool if name not in _FIELDS_OF_TOOLS | _NO_EFFECT_IN_TOOLS and tool[name]
            ]
        if not functions:
            return {}
        choice = body.tool_choice
        if choice is None:
            return {"tools": functions}
        if choice.type == "tool" and choice.name not in [one["function"]["name"] for one in functions]:
            raise OptionError("tool_choice.name", choice.name, _NAME_OF_TOOL)
        parallel = {"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {}
        return {"tools": functions, "tool_choice": _tool_choice(choice.type, choice.name), **parallel}


def _tool_choice(kind: str, name: str) -> Json:
    if kind == "tool":
        return {"type": "function", "function": {"name": name}}
    return "required" if kind == "any" else kind


def _function(where: str, tool: Block) -> Json:
    description, schema = tool.get("description") or "", tool.get("input_schema")
    if not isinstance(description, str):
        raise OptionError(f"{where}.description", str(description)[:MAX_QUOTED], _TEXT)
    if not isinstance(schema, dict):
        raise OptionError(f"{where}.input_schema", _quoted(schema), _OBJECT)
    strict = {"strict": True} if tool.get("strict") is True else {}
    return {"name": _required(where, tool, "name"), "description": description, "parameters": schema, **strict}


def _call(where: str, block: Block) -> Json:
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise OptionError(f"{where}.input", _quoted(arguments), _OBJECT)
    function = {"name": _required(where, block, "name"), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": _required(where, block, "id"), "type": "function", "function": function}


def _image(where: str, block: Block) -> Json:
    """Return a picture as a data: URI, whose content `images` checks. Raises Unsupported for one that is elsewhere."""
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if kind in ("url", "file"):
        raise Unsupported(
            {
                "en": f"{where}.source: pictures are not fetched. Send them in sources of type 'base64'.",
                "zh": f"{where}.source：不会从别处获取图片。请以 base64 类型的来源直接发送图片。",
            }
        )
    if kind != "base64":
        raise OptionError(f"{where}.source", _quoted(source), _SOURCE)
    media_type, data = (_required(f"{where}.source", source, name) for name in ("media_type", "data"))
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}


def _text_part(text: str) -> Json:
    return {"type": "text", "text": text}


def _titled(block: Block, text: str) -> str:
    title = block.get("title")
    return f"{title}\n\n{text}" if isinstance(title, str) and title else text


def _required(where: str, block: Any, name: str) -> str:
    """Return a text of a block. Raises OptionError if there is none."""
    value = block.get(name) if isinstance(block, dict) else None
    if not isinstance(value, str):
        raise OptionError(f"{where}.{name}", _quoted(value), _TEXT)
    return value


def _quoted(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:MAX_QUOTED]


def _without_private_line(text: str) -> str:
    return text.partition("\n")[2].lstrip("\n") if text.startswith(_PRIVATE_LINE) else text
