"""Schemas of requests to Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modules.api.request_body import Expected, Flag, Objects, RequestBody, Text, Texts, expected_in, without_nulls

Block = dict[str, Any]
"""A part of a message, which `conversion` reads by its "type"."""

_BLOCKS = Expected("a text or a list of content blocks", "文本或内容块列表")


class AnthropicMessage(BaseModel):
    """One message. Claude Code puts system messages between the others."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Annotated[
        Literal["user", "assistant", "system"], Expected("user, assistant or system", " user、assistant 或 system")
    ]
    content: Annotated[Text | Objects, _BLOCKS]


class _Options(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: Any) -> Any:
        return without_nulls(raw)


class Thinking(_Options):
    type: Literal["enabled", "adaptive", "disabled"]
    display: Literal["summarized", "omitted"] | None = None


class ToolChoice(_Options):
    type: Literal["auto", "any", "tool", "none"]
    name: Text = ""
    disable_parallel_tool_use: bool = False


class OutputFormat(_Options):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Options):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


_MESSAGES = Expected(
    'a list of at least one message, such as {"role": "user", "content": "Hello"}',
    '至少含一条消息的列表，消息形如 {"role": "user", "content": "你好"}',
)
_TOOLS = Expected(
    'a list of tools, such as {"name": "add", "input_schema": {"type": "object"}}',
    '工具列表，工具形如 {"name": "add", "input_schema": {"type": "object"}}',
)
_CHOICE = Expected('an object such as {"type": "auto"}', '形如 {"type": "auto"} 的对象')
_THINKING = Expected(
    'an object such as {"type": "enabled", "budget_tokens": 2048}',
    '形如 {"type": "enabled", "budget_tokens": 2048} 的对象',
)
_CONFIG = Expected(
    'an object such as {"effort": "low"} or {"format": {"type": "json_schema", "schema": {}}}',
    '形如 {"effort": "low"} 或 {"format": {"type": "json_schema", "schema": {}}} 的对象',
)


class CountTokensRequest(RequestBody):
    """The fields of a prompt, which every request has. Generation parameters are `model_extra`."""

    model: Annotated[Text, Expected("a name", "名称")] = ""
    messages: Annotated[list[AnthropicMessage], Field(fail_fast=True, min_length=1), _MESSAGES]
    system: Annotated[Text | Objects, _BLOCKS] = ""
    tools: Annotated[Objects, _TOOLS] = Field(default_factory=list)
    tool_choice: Annotated[ToolChoice | None, _CHOICE] = None
    thinking: Annotated[Thinking | None, _THINKING] = None
    output_config: Annotated[OutputConfig | None, _CONFIG] = None

    @classmethod
    def expected(cls, location: tuple[int | str, ...]) -> Expected:
        in_message = location[0] == "messages" and len(location) > 2 and location[2] in AnthropicMessage.model_fields
        return expected_in(AnthropicMessage, str(location[2])) if in_message else super().expected(location)


class MessagesRequest(CountTokensRequest):
    max_tokens: Annotated[int, Field(ge=1), Expected("a whole number from 1", "不小于 1 的整数")]
    stop_sequences: Annotated[Texts, Expected("a list of texts", "文本列表")] = Field(default_factory=list)
    stream: Flag = False
