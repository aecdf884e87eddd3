"""Turn the tools of Responses into those of chat completions, and the names that a model calls back into tools."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modules.core.errors import OptionError, Words
from modules.core.events import Json

INPUT = "input"
"""The one parameter of a custom tool as the model sees it."""

_TYPE: Words = {"en": 'the type of a tool, such as "function"', "zh": '工具类型，例如 "function"'}
_NAME: Words = {"en": "the name of a tool", "zh": "工具名称"}
_PARAMETERS: Words = {"en": "a JSON schema", "zh": " JSON schema"}
_TOOLS: Words = {"en": "a list of tools", "zh": "工具列表"}
_CHOICE: Words = {
    "en": 'none, auto, required, a function or custom tool by its name, or {"type": "allowed_tools", …}',
    "zh": ' none、auto、required、按名称指定的 function 或 custom 工具，或 {"type": "allowed_tools", …}',
}


@dataclass(frozen=True)
class OfferedTool:
    """A tool that the model may call. Custom tools take a text, functions take JSON."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str = ""

    @property
    def called(self) -> str:
        """The name by which the model calls it."""
        return called_name(self.name, self.namespace)


def called_name(name: str, namespace: str) -> str:
    """Return one name for a tool in a namespace, as chat completions have none."""
    separator = "__" if namespace and not namespace.endswith("_") else ""
    return f"{namespace}{separator}{name}"


@dataclass(frozen=True)
class Tools:
    """The tools of a request: `chat` in the form of chat completions, and what each name that is called stands for.

    `paths` are those of the tools in the request, in the order of `chat`. `ignored` are those of the tools that the
    answer does without, since only OpenAI's servers have them.
    """

    chat: Sequence[Json]
    by_name: Mapping[str, OfferedTool]
    paths: Sequence[str]
    ignored: Sequence[str]


def read_tools(tools: Sequence[Mapping[str, Any]]) -> Tools:
    """Return the functions and custom tools of a request. Raises OptionError for one that is malformed."""
    chat: list[Json] = []
    offered: dict[str, OfferedTool] = {}
    paths: list[str] = []
    ignored: list[str] = []
    for path, tool, namespace in _flattened(tools):
        kind = tool.get("type")
        if not isinstance(kind, str):
            raise OptionError(f"{path}.type", _quoted(kind), _TYPE)
        if kind not in ("function", "custom"):
            ignored.append(path)
            continue
        name = tool.get("name")
        if not isinstance(name, str) or not name:
            raise OptionError(f"{path}.name", _quoted(name), _NAME)
        one = OfferedTool("function" if kind == "function" else "custom", name, namespace)
        function = _function(path, tool) if kind == "function" else _function_of_custom(tool)
        chat.append({"type": "function", "function": {"name": one.called, **function}})
        offered[one.called] = one
        paths.append(path)
    return Tools(chat, offered, paths, ignored)


def _flattened(tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Return the path, tool and namespace of every tool, those in namespaces included."""
    flat: list[tuple[str, Mapping[str, Any], str]] = []
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if tool.get("type") != "namespace":
            flat.append((path, tool, ""))
            continue
        name, inner = tool.get("name"), tool.get("tools")
        if not isinstance(name, str):
            raise OptionError(f"{path}.name", _quoted(name), _NAME)
        if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
            raise OptionError(f"{path}.tools", _quoted(inner), _TOOLS)
        flat += [(f"{path}.tools[{number}]", one, name) for number, one in enumerate(inner)]
    return flat


def _function(path: str, tool: Mapping[str, Any]) -> dict[str, Json]:
    parameters = tool.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise OptionError(f"{path}.parameters", _quoted(parameters), _PARAMETERS)
    fields = {name: tool[name] for name in ("description", "strict") if tool.get(name) is not None}
    return {**fields, "parameters": {"type": "object", "properties": {}} if parameters is None else parameters}


def _function_of_custom(tool: Mapping[str, Any]) -> dict[str, Json]:
    """Return a function with one text, whose description has the grammar that the text should follow, if any."""
    described = tool.get("description")
    text: dict[str, Json] = {"type": "string"}
    grammar = tool.get("format")
    if isinstance(grammar, dict) and isinstance(grammar.get("definition"), str):
        text["description"] = f"Text in this format ({grammar.get('syntax', 'grammar')}):\n{grammar['definition']}"
    schema = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
    return {**({"description": described} if described is not None else {}), "parameters": schema}


def chat_tool_choice(choice: str | Mapping[str, Any], tools: Tools) -> Json:
    """Return `tool_choice` in the form of chat completions. Raises OptionError for a tool that is not here."""
    if isinstance(choice, str):
        return choice
    if choice.get("type") != "allowed_tools":
        return _named(choice, choice, tools)
    mode, allowed = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required") or not isinstance(allowed, list):
        raise _refused(choice)
    functions = [one for one in allowed if isinstance(one, dict) and one.get("type") in ("function", "custom")]
    listed = [_named(one, choice, tools) for one in functions]
    if mode == "auto" and not listed:
        return "none"
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": listed}}


def _named(reference: Mapping[str, Any], choice: Mapping[str, Any], tools: Tools) -> Json:
    name = reference.get("name")
    if reference.get("type") not in ("function", "custom") or not isinstance(name, str):
        raise _refused(choice)
    namespace = reference.get("namespace")
    called = called_name(name, namespace if isinstance(namespace, str) else "")
    if called not in tools.by_name:
        raise _refused(choice)
    return {"type": "function", "function": {"name": called}}


def _refused(choice: Mapping[str, Any]) -> OptionError:
    return OptionError("tool_choice", _quoted(choice), _CHOICE)


def _quoted(value: object) -> object:
    return value if value is None else json.dumps(value, ensure_ascii=False)[:80]
