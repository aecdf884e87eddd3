"""Schemas of the messages of a chat request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

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


_REASONING = ("reasoning_content", "reasoning", "thinking")
_TEMPLATE_FIELDS = ("name", "tool_call_id")  # chat templates may use them
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")  # parts with thoughts, which are no text of the answer

UNSUPPORTED_IN_MESSAGES = ("tool_calls", "function_call")


class Message(BaseModel):
    """One message. Clients send answers back with every field that some server put into them: nothing is refused."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Expected("system, developer, user, assistant or tool", " system、developer、user、assistant 或 tool"),
    ]
    content: Annotated[Text | list[Part], Expected("a text or a list of parts", "文本或内容片段列表")] = ""

    @model_validator(mode="before")
    @classmethod
    def _unify(cls, raw: Any) -> Any:
        fields = without_nulls(raw)
        if isinstance(fields, dict) and isinstance(fields.get("content"), list):
            fields["content"] = [part for part in fields["content"] if not _is_thought(part)]
        if isinstance(fields, dict) and fields.get("role") == "function":  # OpenAI's older name
            fields["role"] = "tool"
        return fields

    @property
    def template_fields(self) -> dict[str, str]:
        """The fields beside role and content that a chat template may use."""
        extra = self._extra
        fields = {name: str(extra[name]) for name in _TEMPLATE_FIELDS if name in extra}
        thoughts = [extra[name] for name in _REASONING if isinstance(extra.get(name), str)]
        return {**fields, "reasoning_content": thoughts[0]} if thoughts else fields

    @property
    def ignored(self) -> list[str]:
        """The fields that the answer does without."""
        read = {
            *_TEMPLATE_FIELDS,
            *UNSUPPORTED_IN_MESSAGES,
            *(name for name in _REASONING if isinstance(self._extra.get(name), str)),
        }
        return [name for name in self._extra if name not in read]

    @property
    def unsupported(self) -> list[str]:
        """The fields without which the answer would be another one."""
        return [name for name in UNSUPPORTED_IN_MESSAGES if name in self._extra]

    @property
    def _extra(self) -> dict[str, Any]:
        return {name: value for name, value in (self.model_extra or {}).items() if value not in ([], {}, "")}


def _is_thought(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") in _THOUGHTS
