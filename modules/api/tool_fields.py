"""Schemas of the tools of a chat request, and of the choice between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from modules.api.request_body import Expected, Text, without_nulls
from modules.api.response_format import MAX_SCHEMA
from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.core.quotes import in_quotes

MAX_TOOLS = 128
MAX_NAME = 128

_NAME = Expected(
    f"a name of at most {MAX_NAME} letters, digits and the characters _ - . : /",
    f"名称，不超过 {MAX_NAME} 个字符，只含字母、数字和 _ - . : /",
)
_PARAMETERS = Expected(
    f'a JSON schema of the type "object" of at most {MAX_SCHEMA} bytes',
    f'类型为 "object"、不超过 {MAX_SCHEMA} 字节的 JSON Schema',
)
TOOLS = Expected(
    f"a list of at most {MAX_TOOLS} tools, each with a name of its own, such as "
    '{"type": "function", "function": {"name": "weather", "parameters": {…}}}',
    f"不超过 {MAX_TOOLS} 个工具的列表，名称互不相同，形如 "
    '{"type": "function", "function": {"name": "weather", "parameters": {…}}}',
)


def _check_parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with the type that all parameters have. Raises ValueError for another one."""
    if schema.get("type", "object") != "object" or len(json.dumps(schema, ensure_ascii=False).encode()) > MAX_SCHEMA:
        raise ValueError
    return {"type": "object", **schema}


class FunctionDefinition(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: Annotated[Text, Field(pattern=rf"^[\w.:/-]{{1,{MAX_NAME}}}$"), _NAME]
    description: Annotated[Text, Expected("a text", "文本")] = ""
    parameters: Annotated[dict[str, Any], AfterValidator(_check_parameters), _PARAMETERS] = Field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    strict: Annotated[bool, Expected("true or false", " true 或 false")] = False

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: Any) -> Any:
        return without_nulls(raw)

    @property
    def source(self) -> Json:
        """The function as chat templates get it."""
        return self.model_dump(exclude_unset=True) | {"description": self.description, "parameters": self.parameters}


class ToolDefinition(BaseModel):
    """A tool. Types other than functions are refused by `functions`."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Annotated[Text, Expected('"function"', ' "function"')] = "function"
    function: Annotated[FunctionDefinition | None, TOOLS] = None

    @model_validator(mode="before")
    @classmethod
    def _unify(cls, raw: Any) -> Any:
        """Read the form of OpenAI's Responses, too, which has the fields of the function beside its type."""
        fields = without_nulls(raw)
        if isinstance(fields, dict) and "name" in fields and "function" not in fields:
            return {"type": fields.pop("type", "function"), "function": fields}
        return fields


ToolList = Annotated[list[ToolDefinition], Field(fail_fast=True, max_length=MAX_TOOLS), TOOLS]


def functions(tools: Sequence[ToolDefinition]) -> list[FunctionDefinition]:
    """Return the functions that the tools are. Raises Unsupported for others, OptionError for two of one name."""
    found: dict[str, FunctionDefinition] = {}
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise Unsupported(
                {
                    "en": f"tools[{index}]: only tools of type 'function' are supported, not {tool.type[:MAX_NAME]!r}.",
                    "zh": f"tools[{index}]：仅支持 function 类型的工具，不支持{in_quotes(tool.type[:MAX_NAME])}。",
                }
            )
        if tool.function is None:
            raise OptionError(f"tools[{index}].function", None, TOOLS.words)
        if tool.function.name in found:
            raise OptionError(f"tools[{index}].function.name", tool.function.name, TOOLS.words)
        found[tool.function.name] = tool.function
    return list(found.values())


# -- choice ------------------------------------------------------------------------------------------------------------

Mode = Literal["none", "auto", "required"]

TOOL_CHOICE = Expected(
    'none, auto, required, {"type": "function", "function": {"name": …}} or {"type": "allowed_tools", …}, '
    "with the names of tools of this request",
    ' none、auto、required、{"type": "function", "function": {"name": …}} 或 {"type": "allowed_tools", …}，'
    "其中的名称须是本请求中的工具",
)
ToolChoiceField = Annotated[str | dict[str, Any], TOOL_CHOICE]
_MODES: dict[object, Mode] = {"none": "none", "auto": "auto", "required": "required", "any": "required"}


@dataclass(frozen=True)
class ToolChoice:
    """Whether the answer may call, or with "required" must call, functions called `names`; with "none" it may not."""

    mode: Mode
    names: frozenset[str]


def tool_choice(raw: str | dict[str, Any], names: Sequence[str]) -> ToolChoice:
    """Return the choice between tools of these names. Raises OptionError."""
    mode, chosen = _choice(raw)
    known = frozenset(names)
    if mode is None or (chosen is not None and not (chosen and chosen <= known)) or (mode == "required" and not known):
        shown = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False)
        raise OptionError("tool_choice", shown[:MAX_NAME], TOOL_CHOICE.words)
    return ToolChoice(mode, frozenset() if mode == "none" else known if chosen is None else chosen)


def _choice(raw: str | dict[str, Any]) -> tuple[Mode | None, frozenset[str] | None]:
    """Return the mode, None if it is invalid, and the names of the tools that may be called, None for all."""
    if isinstance(raw, str):
        return _MODES.get(raw), None
    if raw.get("type") == "function":
        return "required", _names([raw])
    inner = raw.get("allowed_tools", raw)
    if raw.get("type") != "allowed_tools" or not isinstance(inner, dict) or not isinstance(inner.get("tools"), list):
        return None, None
    mode = inner.get("mode", "auto")
    return _MODES.get(mode) if isinstance(mode, str) else None, _names(inner["tools"])


def _names(tools: list[Any]) -> frozenset[str]:
    """Return the names in references to functions; one that is invalid gives "", which is no tool's name."""
    named = [tool.get("function", tool) if isinstance(tool, dict) else None for tool in tools]
    names = [one.get("name") if isinstance(one, dict) else None for one in named]
    return frozenset(name if isinstance(name, str) else "" for name in names)
