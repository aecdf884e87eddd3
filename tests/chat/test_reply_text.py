"""The text before a position in a reply is what its model had."""

from __future__ import annotations

from typing import Any

from modules.chat.reply_text import text_before
from modules.conversations.conversation import ChatMessage
from modules.core.reasoning import KNOWN_MARKERS

THINK = KNOWN_MARKERS[:1]
PROMPT = "<user>Hi\n<bot>\n"


def before(prompt: str, content: str, length: int, reasoning: str = "", markers: Any = (), inside: bool = False) -> str:
    return text_before(prompt, ChatMessage("b", "a", "assistant", content, reasoning), length, markers, inside)


def test_an_answer_follows_its_prompt() -> None:
    assert before(PROMPT, "Hello there.", 5) == PROMPT + "Hello"
    assert before(PROMPT, "", 0) == PROMPT
    assert before(PROMPT, "\nHello", 3) == PROMPT + "\nHe"  # a blank alone is no repetition


def test_what_the_prompt_has_already_of_a_continued_reply_is_not_repeated() -> None:
    for length in (0, 3, 9):
        assert before(PROMPT + "Hello", "Hello there.", length) == PROMPT + "Hello there."[:length]
    assert before("xx Hello Hello", "Hello Hello you", 15) == "xx Hello Hello you"


def test_a_thought_comes_before_the_answer_within_its_markers() -> None:
    assert before(PROMPT, "Two.", 2, "1 + 1", THINK) == PROMPT + "<think>\n1 + 1\n</think>\n\nTw"
    opened = PROMPT + "<think>\n"
    assert before(opened, "Two.", 2, "1 + 1", THINK, inside=True) == opened + "1 + 1\n</think>\n\nTw"
    assert before(PROMPT, "Two.", 2, "1 + 1", KNOWN_MARKERS[3:4]).endswith(
        "1 + 1\n<|end|><|start|>assistant<|channel|>final<|message|>Tw"
    )


def test_the_line_of_a_script_begins_with_a_space() -> None:
    for content, length, expected in (
        ("Hello", 2, "Mia: He"),
        ("Hello", 0, "Mia:"),
        (" Hello", 2, "Mia: H"),
        ("你好", 1, "Mia:你"),
    ):
        assert before("Mia:", content, length) == expected
