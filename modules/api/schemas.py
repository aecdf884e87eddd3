"""Schemas of completions and chat completions.

Only fields with a type of their own are declared. The generation parameters beside them are `model_extra`, which
`parameters` validates by the same tables as the UI's sliders.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modules.api import request_fields
from modules.api.keep_alive import KeepAlive
from modules.api.messages import Message
from modules.api.request_body import Expected, Flag, RequestBody, Text, TextOrTokens, Texts, expected_in, without_nulls
from modules.api.response_format import RESPONSE_FORMAT, check_format, schema_of
from modules.api.tool_fields import FunctionDefinition, ToolChoice, ToolChoiceField, ToolList, functions, tool_choice
from modules.core.errors import OptionError
from modules.core.events import Json


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers, which is never added

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, raw: Any) -> Any:
        return without_nulls(raw)

    @property
    def ignored(self) -> list[str]:
        return [name for name, value in (self.model_extra or {}).items() if value]


_STREAM_OPTIONS = Expected('an object such as {"include_usage": true}', '形如 {"include_usage": true} 的对象')
MAX_STOPS = 256
"""Stop strings of a request: all of them are looked for at each token."""

_STOP = Expected(f"a text or a list of at most {MAX_STOPS} texts", f"文本，或不超过 {MAX_STOPS} 个文本的列表")
_COUNT = Expected("a whole number from 1 to 16", " 1 到 16 之间的整数")
_CANDIDATES = Expected("a whole number from 0 to 20", " 0 到 20 之间的整数")
_NAME = Expected("a name", "名称")
_BIAS = Expected('an object such as {"50256": -100}', '形如 {"50256": -100} 的对象')


def _check_biases(raw: Any) -> Any:
    """Raise one error for an object with wrong values, where pydantic would collect one for each value."""
    if isinstance(raw, dict) and not all(type(bias) in (int, float) for bias in raw.values()):
        raise ValueError
    return raw


class GenerationRequest(RequestBody, ABC):
    """The common fields of completions and chat completions."""

    model: Annotated[Text, _NAME] = ""
    stream: Flag = False
    stream_options: Annotated[StreamOptions, _STREAM_OPTIONS] = Field(default_factory=StreamOptions)
    n: Annotated[int, Field(ge=1, le=16), _COUNT] = 1
    stop: Annotated[Text | Annotated[Texts, Field(max_length=MAX_STOPS)], _STOP] = Field(default_factory=list)
    logit_bias: Annotated[dict[str, float], BeforeValidator(_check_biases), _BIAS] = Field(default_factory=dict)
    response_format: Annotated[dict[str, Any], AfterValidator(check_format), RESPONSE_FORMAT] = Field(
        default_factory=dict
    )
    keep_alive: KeepAlive = None
    ttl: KeepAlive = None

    @classmethod
    def canonical(cls, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        return request_fields.canonical(without_nulls(raw))

    @property
    def kept_seconds(self) -> float | None:
        """How long the model stays in memory after the answer; None for the server's own rules."""
        return self.ttl if self.keep_alive is None else self.keep_alive

    @property
    def ignored(self) -> list[str]:
        """Paths of the fields inside others that the answer does without."""
        return [f"stream_options.{name}" for name in self.stream_options.ignored]

    @property
    def schema(self) -> Json:
        """The JSON schema that the answer must match, None if there is none."""
        return schema_of(self.response_format)

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    @abstractmethod
    def candidates(self) -> int | None:
        """How many candidates get log-probabilities, besides the chosen token; None for no log-probabilities."""


class CompletionRequest(GenerationRequest):
    prompt: Annotated[
        TextOrTokens,
        Field(union_mode="left_to_right"),
        Expected("a text, a list of texts or a list of token numbers", "文本、文本列表或词符编号列表"),
    ]
    suffix: Annotated[Text, Expected("a text", "文本")] = ""
    logprobs: Annotated[int | None, Field(ge=0, le=20), _CANDIDATES] = None
    echo: Flag = False

    @classmethod
    def canonical(cls, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """As in the base class; llama.cpp's `n_probs` is `logprobs`, and its 0 and the chat's false mean none."""
        fields, spelled = super().canonical(raw)
        if fields.get("logprobs") is False:
            del fields["logprobs"]
        count = fields.pop("n_probs", 0)
        if count != 0 and "logprobs" not in fields:
            fields["logprobs"], spelled["logprobs"] = count, "n_probs"
        return fields, spelled

    @property
    def candidates(self) -> int | None:
        return self.logprobs


_MESSAGES = Expected(
    'a list of at least one message, such as {"role": "user", "content": "Hello"}',
    '至少含一条消息的列表，消息形如 {"role": "user", "content": "你好"}',
)


MAX_TEMPLATE_KWARGS = 8192
"""Largest `chat_template_kwargs`, in bytes of JSON."""

_TEMPLATE_KWARGS = Expected(
    f'an object of at most {MAX_TEMPLATE_KWARGS} bytes, such as {{"enable_thinking": false}}',
    f'不超过 {MAX_TEMPLATE_KWARGS} 字节的对象，形如 {{"enable_thinking": false}}',
)
_EFFORT = Expected("none, minimal, low, medium, high, xhigh or max", " none、minimal、low、medium、high、xhigh 或 max")
_REASONING_FORMAT = Expected("auto, deepseek or none", " auto、deepseek 或 none")


def _check_size(kwargs: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(kwargs, ensure_ascii=False).encode()) > MAX_TEMPLATE_KWARGS:
        raise ValueError
    return kwargs


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1), _MESSAGES]
    logprobs: Flag = False
    top_logprobs: Annotated[int, Field(ge=0, le=20), _CANDIDATES] = 0
    continue_: Flag = False
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_check_size), _TEMPLATE_KWARGS] = Field(
        default_factory=dict
    )
    enable_thinking: Annotated[bool | None, Expected("true or false", " true 或 false")] = None
    reasoning_effort: Annotated[Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None, _EFFORT] = (
        None
    )

    reasoning_format: Annotated[Literal["auto", "deepseek", "none"], _REASONING_FORMAT] = "auto"
    tools: ToolList = Field(default_factory=list)
    tool_choice: ToolChoiceField = "auto"
    parallel_tool_calls: Flag = True

    @model_validator(mode="after")
    def _check_choice(self) -> ChatRequest:
        tool_choice(self.tool_choice, self._tool_names)
        return self

    @property
    def functions(self) -> list[FunctionDefinition]:
        """The tools that the model is shown: those that it may call, or all if it must call certain ones."""
        if not self.tools:
            return []
        names = self._tool_names if self.choice.mode == "required" else self.choice.names
        return [function for function in functions(self.tools) if function.name in names]

    @property
    def choice(self) -> ToolChoice:
        """Whether tools may or must be called, and which."""
        return tool_choice(self.tool_choice, self._tool_names)

    @property
    def _tool_names(self) -> list[str]:
        return [function.name for function in functions(self.tools)]

    @property
    def template_kwargs(self) -> Mapping[str, Json]:
        """Variables for the chat template. Of several that mean the same, those of `chat_template_kwargs` count."""
        variables: dict[str, Json] = {}
        if self.reasoning_effort == "none":
            variables["enable_thinking"] = False
        elif self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
        if self.enable_thinking is not None:
            variables["enable_thinking"] = self.enable_thinking
        return variables | self.chat_template_kwargs

    @classmethod
    def canonical(cls, raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """As in the base class; llama.cpp's `n_probs` asks for that many candidates."""
        fields, spelled = super().canonical(raw)
        count = fields.pop("n_probs", 0)
        if count != 0 and "logprobs" not in fields and "top_logprobs" not in fields:
            fields |= {"logprobs": True, "top_logprobs": count}
            spelled["top_logprobs"] = "n_probs"
        return fields, spelled

    @property
    def ignored(self) -> list[str]:
        in_messages = (
            f"messages[{index}].{name}" for index, message in enumerate(self.messages) for name in message.ignored
        )
        return [*super().ignored, *in_messages]

    @classmethod
    def expected(cls, location: tuple[int | str, ...]) -> Expected:
        if location[0] == "messages" and len(location) > 2 and location[2] in Message.model_fields:
            return expected_in(Message, str(location[2]))
        if location[0] == "tools" and len(location) > 3 and location[3] in FunctionDefinition.model_fields:
            return expected_in(FunctionDefinition, str(location[3]))
        return super().expected(location)

    @property
    def candidates(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise OptionError(
                "top_logprobs",
                self.top_logprobs,
                {"en": "logprobs: true beside it", "zh": "与 logprobs: true 一起使用"},
            )
        return self.top_logprobs if self.logprobs else None
