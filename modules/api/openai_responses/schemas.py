"""Schemas of the request bodies of OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modules.api import request_fields
from modules.api.request_body import Expected, Flag, Objects, RequestBody, Text, Texts, without_nulls
from modules.api.schemas import StreamOptions
from modules.core.errors import OptionError, UnknownOption

_INPUT = Expected("a text, or a list of items such as messages", "文本，或由消息等条目组成的列表")
_TEXT = Expected("a text", "文本")
_NAME = Expected("a name", "名称")
_TOOLS = Expected(
    'a list of tools such as {"type": "function", "name": "search", "parameters": {…}}',
    '工具列表，形如 {"type": "function", "name": "search", "parameters": {…}}',
)
_CHOICE = Expected(
    'none, auto, required, or an object such as {"type": "function", "name": "search"}',
    ' none、auto、required，或形如 {"type": "function", "name": "search"} 的对象',
)
_TEXT_CONFIG = Expected(
    'an object such as {"format": {"type": "json_object"}}', '形如 {"format": {"type": "json_object"}} 的对象'
)
_REASONING = Expected(
    'an object such as {"effort": "low"}; effort is none, minimal, low, medium, high, xhigh or max',
    '形如 {"effort": "low"} 的对象，effort 为 none、minimal、low、medium、high、xhigh 或 max',
)
_LENGTH = Expected("a whole number from 1", "不小于 1 的整数")
_CANDIDATES = Expected("a whole number from 0 to 20", " 0 到 20 之间的整数")
_INCLUDE = Expected("a list of names", "名称列表")
_TRUNCATION = Expected("auto or disabled", " auto 或 disabled")
_METADATA = Expected(
    "an object of at most 16 texts of at most 512 characters, with names of at most 64",
    "至多 16 项的对象，名称不超过 64 个字符，值为不超过 512 个字符的文本",
)
_STREAM_OPTIONS = Expected("an object", "对象")
_STATELESS = Expected(
    "no value: responses are not stored here; send the whole conversation as input",
    "不填：此处不保存回复，请把完整对话作为 input 发送",
)
_FOREGROUND = Expected("false: responses are not stored here", " false：此处不保存回复")

_MOVED = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""Fields of chat completions whose meaning another field of Responses has."""

LOGPROBS = "message.output_text.logprobs"
"""The item of `include` that asks for log-probabilities."""


def _refuse(value: object) -> object:
    """Raise ValueError unless `value` asks for nothing."""
    if value not in ("", {}, False):
        raise ValueError
    return value


def _check_metadata(metadata: Any) -> Any:
    """Return `metadata`, which the response repeats. Raises ValueError beyond OpenAI's limits."""
    if isinstance(metadata, dict) and (
        len(metadata) > 16 or any(len(name) > 64 or len(str(text)) > 512 for name, text in metadata.items())
    ):
        raise ValueError
    return metadata


class _Object(BaseModel):
    """An object in a body, in which null means the same as leaving the field out."""

    model_config = ConfigDict(strict=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: Any) -> Any:
        return without_nulls(raw)


class TextConfig(_Object):
    format: dict[str, Any] = Field(default_factory=dict)
    verbosity: str = "medium"

    @property
    def ignored(self) -> list[str]:
        unused = [] if self.verbosity == "medium" else ["verbosity"]
        return [*unused, *(self.model_extra or {})]


class Reasoning(_Object):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: str | None = None
    generate_summary: str | None = None  # the older name of `summary`

    @property
    def ignored(self) -> list[str]:
        return list(self.model_extra or {})


class ResponsesRequest(RequestBody):
    """The body of a response. Further fields are those of a chat completion, such as the generation parameters."""

    input: Annotated[Text | Objects, _INPUT]
    model: Annotated[Text, _NAME] = ""
    stream: Flag = False
    stream_options: Annotated[StreamOptions, _STREAM_OPTIONS] = StreamOptions()
    instructions: Annotated[Text, _TEXT] = ""
    tools: Annotated[Objects, _TOOLS] = Field(default_factory=list)
    tool_choice: Annotated[Literal["none", "auto", "required"] | dict[str, Any], _CHOICE] = "auto"
    parallel_tool_calls: Flag = True
    text: Annotated[TextConfig, _TEXT_CONFIG] = TextConfig()
    reasoning: Annotated[Reasoning, _REASONING] = Reasoning()
    max_output_tokens: Annotated[int | None, Field(ge=1), _LENGTH] = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), _CANDIDATES] = 0
    include: Annotated[Texts, _INCLUDE] = Field(default_factory=list)
    truncation: Annotated[Literal["auto", "disabled"], _TRUNCATION] = "disabled"
    metadata: Annotated[dict[str, Text], BeforeValidator(_check_metadata), _METADATA] = Field(default_factory=dict)
    previous_response_id: Annotated[Any, AfterValidator(_refuse), _STATELESS] = ""
    conversation: Annotated[Any, AfterValidator(_refuse), _STATELESS] = ""
    prompt: Annotated[Any, AfterValidator(_refuse), _STATELESS] = ""
    background: Annotated[Any, AfterValidator(_refuse), _FOREGROUND] = False

    @model_validator(mode="after")
    def _refuse_fields_of_chats(self) -> ResponsesRequest:
        """Refuse fields of chat completions that have another name here, several answers, and misspelled names."""
        extra = self.model_extra or {}
        for name, own in _MOVED.items():
            if name in extra:
                raise UnknownOption(name, own)
        if extra.get("n", 1) != 1:
            raise OptionError("n", str(extra["n"]), {"en": "1", "zh": " 1"})
        unknown = [name for name in extra if name not in request_fields.NAMES]
        for name in unknown[: request_fields.MAX_COMPARED]:
            guess = request_fields.misspelled(name, _OWN_NAMES)
            if guess:
                raise UnknownOption(name, guess)
        return self

    @property
    def has_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in self.include

    @property
    def ignored(self) -> list[str]:
        """Paths of the fields inside others that the answer does without."""
        groups: Mapping[str, list[str]] = {
            "stream_options": self.stream_options.ignored,
            "text": self.text.ignored,
            "reasoning": self.reasoning.ignored,
        }
        return [f"{group}.{name}" for group, names in groups.items() for name in names]


_OWN_NAMES = frozenset(ResponsesRequest.model_fields)


class TokenCountRequest(ResponsesRequest):
    """The body of a count of input tokens: as a response, with the input left out as well."""

    input: Annotated[Text | Objects, _INPUT] = ""
