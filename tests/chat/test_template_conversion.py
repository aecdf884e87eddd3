"""Old instruction templates become Jinja templates that write the same prompts."""

from __future__ import annotations

import re

import pytest

from modules.chat.message import Message
from modules.chat.renderer import Renderer
from modules.chat.template_conversion import NotATurnTemplate, to_jinja

RENDERER = Renderer()
CHAT: list[Message] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
]
SYSTEM: Message = {"role": "system", "content": "Be brief."}
ALPACA = {
    "user": "### Instruction:",
    "bot": "### Response:",
    "turn_template": "<|user|>\n<|user-message|>\n\n<|bot|>\n<|bot-message|>\n\n",
    "context": "<|system-message|>\n\n",
    "system_message": "Follow the instruction.",
}
VICUNA = {
    "user": "USER:",
    "bot": "ASSISTANT:",
    "turn_template": "<|user|> <|user-message|>\n<|bot|> <|bot-message|></s>\n",
    "context": "<|system-message|>\n\n",
}


def prompt(old: dict[str, object], messages: list[Message]) -> str:
    (rendering,) = RENDERER.render(to_jinja(old), {"messages": messages, "add_generation_prompt": True}, [{}])
    assert not rendering.error
    return rendering.text


def test_the_turns_and_the_system_message_stand_where_the_old_template_has_them() -> None:
    assert prompt(ALPACA, [SYSTEM, *CHAT]) == (
        "Be brief.\n\n### Instruction:\nhi\n\n### Response:\nhello\n\n### Instruction:\nbye\n\n### Response:\n"
    )
    assert prompt(VICUNA, [SYSTEM, *CHAT[:1]]) == "Be brief.\n\nUSER: hi\nASSISTANT:"


def test_without_a_system_message_the_template_s_own_is_used_and_its_line_breaks_stay() -> None:
    assert prompt(ALPACA, CHAT[:1]).startswith("Follow the instruction.\n\n### Instruction:\nhi")
    assert prompt(VICUNA, CHAT[:1]) == "\n\nUSER: hi\nASSISTANT:"


def test_a_context_without_a_mark_is_the_default_system_message() -> None:
    fixed = {**VICUNA, "context": "A chat.\n\n"}
    assert prompt(fixed, CHAT[:1]).startswith("A chat.\n\nUSER: hi")
    assert prompt(fixed, [SYSTEM, *CHAT[:1]]).startswith("Be brief.\n\nUSER: hi")


def test_quotes_backslashes_and_braces_of_the_old_template_stay() -> None:
    odd = {**VICUNA, "user": "it's \\w {{ 7 * 7 }} {% raw %}:"}
    assert prompt(odd, CHAT[:1]) == "\n\nit's \\w {{ 7 * 7 }} {% raw %}: hi\nASSISTANT:"


def test_a_line_break_may_be_written_as_an_escape_sequence() -> None:
    escaped = {**VICUNA, "turn_template": VICUNA["turn_template"].replace("\n", "\\n")}
    assert prompt(escaped, [SYSTEM, *CHAT]) == prompt(VICUNA, [SYSTEM, *CHAT])


def test_a_template_that_lacks_a_part_is_refused_by_its_name() -> None:
    for broken, words in (
        ({**VICUNA, "turn_template": "<|bot|> <|bot-message|>"}, "<|user-message|>"),
        ({**VICUNA, "turn_template": "<|user-message|> <|bot-message|>"}, "<|bot|>"),
        ({**VICUNA, "turn_template": "<|user|> <|user-message|> <|bot|>"}, "<|bot-message|>"),
        ({**VICUNA, "user": ["a"]}, "user is not a text"),
        ({}, "turn_template"),
    ):
        with pytest.raises(NotATurnTemplate, match=re.escape(words)):
            to_jinja(broken)
