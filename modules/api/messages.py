"""Schemas of the messages of a chat request."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modules.api.request_body import Expected, Text, without_nulls

_TEXT_PARTS = ("input_text", "output_text")  # the types of text in OpenAI's Responses


class Part(BaseModel):
    """One part of a message. Types other than "text" and "image_url" are refused by name in `prompts`."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, raw: Any) -> Any:
        """Read the texts of other APIs: a plain text, the parts of OpenAI's Responses, and a refusal."""
        if isinstance(raw, str):
            return {"type": "text", "text": raw}
        part = without_nulls(raw)
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS:
            return {**part, "type": "text"}
        if isinstance(part, dict) and part.get("type") == "refusal":
            return {"type": "text", "text": part.get("refusal", "")}
        return part


Parts = Annotated[list[Part], Field(fail_fast=True)]

_REASONING = ("reasoning_content", "reasoning", "thinking")
_TEMPLATE_FIELDS = ("name", "tool_call_id")  # chat templates may use them
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")  # parts with thoughts, which are no text of the answer

_CALLS = Expected(
    'a list of calls such as {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}',
    '调用列表，形如 {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}',
)


class FunctionCall(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: Annotated[Text, Field(min_length=1)]
    arguments: Text | dict[str, Any] = ""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: Any) -> Any:
        return without_nulls(raw)

    @property
    def arguments_text(self) -> str:
        """The arguments as JSON text."""
        arguments = self.arguments
        return arguments or "{}" if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


class ToolCall(BaseModel):
    """A call in an answer that is sent back."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: Text = ""
    function: FunctionCall

    @model_validator(mode="before")
    @classmethod
    def _unify(cls, raw: Any) -> Any:
        """Read calls of custom tools, too, which get a text."""
        fields = without_nulls(raw)
        custom = fields.get("custom") if isinstance(fields, dict) else None
        if isinstance(custom, dict) and "function" not in fields:
            fields["function"] = {"name": custom.get("name"), "arguments": {"input": custom.get("input", "")}}
        return fields


class Message(BaseModel):
    """One message. Clients send answers back with every field that some server put into them: nothing is refused."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Expected("system, developer, user, assistant or tool", " system、developer、user、assistant 或 tool"),
    ]
    content: Annotated[
        Text | Annotated[list[Part], Field(fail_fast=True)], Expected("a text or a list of parts", "文本或内容片段列表")
    ] = ""
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True), _CALLS] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _unify(cls, raw: Any) -> Any:
        fields = without_nulls(raw)
        if isinstance(fields, dict) and isinstance(fields.get("content"), list):
            fields["content"] = [part for part in fields["content"] if not _is_thought(part)]
        if isinstance(fields, dict) and fields.get("role") == "function":  # OpenAI's older name
            fields["role"] = "tool"
        if isinstance(fields, dict) and (call := fields.pop("function_call", None)):  # of the same age
            fields.setdefault("tool_calls", [{"function": call}])
        return fields

    @property
    def template_fields(self) -> dict[str, Any]:
        """The fields beside role and content that a chat template may use."""
        if not self.model_extra and not self.tool_calls:
            return {}
        extra = self._extra
        fields: dict[str, Any] = {name: str(extra[name]) for name in _TEMPLATE_FIELDS if name in extra}
        if self.tool_calls:
            fields["tool_calls"] = [_call(number, call) for number, call in enumerate(self.tool_calls)]
        thoughts = [extra[name] for name in _REASONING if isinstance(extra.get(name), str)]
        return {**fields, "reasoning_content": thoughts[0]} if thoughts else fields

    @property
    def ignored(self) -> list[str]:
        """The fields that the answer does without."""
        if not self.model_extra:
            return []
        read = {
            *_TEMPLATE_FIELDS,
            *(name for name in _REASONING if isinstance(self._extra.get(name), str)),
        }
        return [name for name in self._extra if name not in read]

    @property
    def _extra(self) -> dict[str, Any]:
        return {name: value for name, value in (self.model_extra or {}).items() if value not in ([], {}, "")}


def _is_thought(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in _THOUGHTS


def _call(number: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments_text}
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}
