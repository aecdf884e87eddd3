"""Show what a chat template makes of a sample conversation, and which parts of the prompt may be special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.errors import MessageLeftOut
from modules.chat.message import Message
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.events import Json

_TAG = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_]{1,29}\]")
"""What special tokens look like: "<|im_start|>", "</s>", "<start_of_turn>", "[INST]"."""
_THINKING = ("enable_thinking", "thinking")
_LONGEST_LINE = 200

_SAMPLES: Mapping[str, Sequence[str]] = {
    "en": ("You are a helpful assistant.", "How much is 17 × 3?", "17 × 3 = 51.", "51.", "And divided by 3?"),
    "zh": ("你是一个乐于助人的助手。", "17 × 3 等于多少？", "17 × 3 = 51。", "51。", "再除以 3 呢？"),
}
"""System message, question, thought, answer, and another question."""
_TOOLS: list[Json] = [
    {
        "type": "function",
        "function": {
            "name": "multiply",
            "description": "Multiply two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    }
]
_CALL = {"id": "call00001", "type": "function", "function": {"name": "multiply", "arguments": {"a": 17, "b": 3}}}


@dataclass(frozen=True)
class Sample:
    """The parts of the sample conversation. `thinking` is also the value of the variables that switch it."""

    language: str = "en"
    system: bool = True
    thinking: bool = True
    tools: bool = False

    def messages(self) -> list[Message]:
        system, question, thought, answer, again = _SAMPLES[self.language]
        reasoning = {"reasoning_content": thought} if self.thinking else {}
        call: list[Message] = [
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "multiply", "tool_call_id": _CALL["id"], "content": "51"},
        ]
        return [
            *([{"role": "system", "content": system}] if self.system else []),
            {"role": "user", "content": question},
            *(call if self.tools else []),
            {"role": "assistant", "content": answer, **reasoning},
            {"role": "user", "content": again},
        ]


def render_sample(templates: ChatTemplates, template: ModelTemplate, sample: Sample) -> str:
    """Return the prompt for an answer to the sample. Raises what `ChatTemplates.render` raises."""
    kwargs: dict[str, Any] = dict.fromkeys(_THINKING, sample.thinking)
    if sample.tools:
        kwargs["tools"] = _TOOLS
    return templates.render(template, sample.messages(), template_kwargs=kwargs)


def check(templates: ChatTemplates, template: ModelTemplate) -> None:
    """Raise TemplateRefused, TemplateStopped or MessageLeftOut unless a question gets into the prompt."""
    question = _SAMPLES["en"][1]
    if question not in templates.render(template, [{"role": "user", "content": question}]):
        raise MessageLeftOut()


def render_input(templates: ChatTemplates, template: ModelTemplate, system: str) -> str:
    """Return the prompt of a conversation that only says "Input": a negative prompt as the original makes it."""
    messages: list[Message] = [{"role": "user", "content": "Input"}]
    return templates.render(template, [{"role": "system", "content": system}, *messages] if system else messages)


def tags(text: str, template: ModelTemplate) -> list[str]:
    """Return the different parts of a prompt that look like special tokens, and are the template's."""
    special = [value for value in template.special_tokens.values() if isinstance(value, str) and value]
    source = template.for_tools(None)
    written = dict.fromkeys(tag for tag in _TAG.findall(text) if tag in source)
    return list(dict.fromkeys([*written, *(token for token in special if token in text)]))


def split(text: str, tokens: Iterable[str]) -> list[tuple[str, bool]]:
    """Return the text in parts, with whether each is one of `tokens`."""
    known = sorted(set(tokens), key=len, reverse=True)
    if not known:
        return [(text, False)]
    parts = re.split(f"({'|'.join(map(re.escape, known))})", text)
    return [(part, index % 2 == 1) for index, part in enumerate(parts) if part]


def source_line(source: str, line: int) -> str:
    """Return the beginning of a line of a template, "" if there is no such line."""
    lines = source.splitlines()
    return lines[line - 1].strip()[:_LONGEST_LINE] if 0 < line <= len(lines) else ""
