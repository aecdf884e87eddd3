"""Conversations are changed only where a template would refuse or lose a part of them."""

from __future__ import annotations

import pytest

from modules.chat.features import TemplateFeatures
from modules.chat.mending import mend
from modules.chat.message import Message

STRICT = TemplateFeatures(
    system=False,
    several_systems=False,
    late_system=False,
    developer=False,
    equal_neighbors=False,
    assistant_first=False,
)
ROLES = {"d": "developer", "s": "system", "u": "user", "a": "assistant", "t": "tool"}


def chat(*messages: str) -> list[Message]:
    """Return the conversation of messages such as "u hello": the first letter of the role, then the text."""
    return [{"role": ROLES[message[0]], "content": message[2:]} for message in messages]


def test_a_conversation_that_the_template_takes_is_left_alone() -> None:
    messages = chat("s one", "d two", "a hi", "u a", "u b", "t 1", "s three")
    assert mend(messages, TemplateFeatures()) == messages


CASES = [
    (TemplateFeatures(developer=False), "d x | u a", "s x | u a"),
    (TemplateFeatures(developer=False, several_systems=False), "s x | d y | u a", "s x\n\ny | u a"),
    (TemplateFeatures(several_systems=False), "s x | s y | u a | a b", "s x\n\ny | u a | a b"),
    (TemplateFeatures(several_systems=False), "s x | u a", "s x | u a"),
    (TemplateFeatures(late_system=False), "u a | a b | s x | u c", "s x | u a | a b | u c"),
    (TemplateFeatures(late_system=False), "s x | s y | u a", "s x | s y | u a"),
    (TemplateFeatures(late_system=False), "s x | u a | s y", "s x\n\ny | u a"),
    (TemplateFeatures(several_systems=False), "s  | s y | u a", "s y | u a"),
    (TemplateFeatures(equal_neighbors=False), "u a | u b | a c | a d | u e", "u a\n\nb | a c\n\nd | u e"),
    (TemplateFeatures(equal_neighbors=False), "u a | a b | t 1 | t 2", "u a | a b | t 1 | t 2"),
    (TemplateFeatures(assistant_first=False), "a hi | u a", "u  | a hi | u a"),
    (TemplateFeatures(assistant_first=False), "s x | a hi | u a", "s x | u  | a hi | u a"),
    (TemplateFeatures(assistant_first=False), "s x", "s x"),
    (STRICT, "s x | u a", "u x\n\na"),
    (STRICT, "s x | a hi | u a", "u x | a hi | u a"),
    (STRICT, "s x", "u x"),
    (STRICT, "s  | u a", "u a"),
    (STRICT, "u a | s x | d y | u b", "u x\n\ny\n\na\n\nb"),
]


@pytest.mark.parametrize(
    ("features", "before", "after"), CASES, ids=[f"{before} → {after}" for _, before, after in CASES]
)
def test_a_conversation_is_changed_where_the_template_would_not_take_it(
    features: TemplateFeatures, before: str, after: str
) -> None:
    assert mend(chat(*before.split(" | ")), features) == chat(*after.split(" | "))


def test_answers_that_call_tools_are_not_merged() -> None:
    calling: Message = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    messages = [*chat("u a"), calling, *chat("t 1", "a b")]
    assert mend(messages, TemplateFeatures(equal_neighbors=False)) == messages
    assert mend([*chat("u a"), calling, *chat("a b")], STRICT) == [*chat("u a"), calling, *chat("a b")]


def test_texts_become_parts_for_the_roles_that_need_it() -> None:
    part = [{"type": "text", "text": "a"}]
    features = TemplateFeatures(parts=frozenset({"user"}))
    assert mend(chat("s x", "u a", "t a"), features) == [
        {"role": "system", "content": "x"},
        {"role": "user", "content": part},
        {"role": "tool", "content": part},
    ]


def test_the_messages_of_the_caller_are_not_changed() -> None:
    messages = chat("d x", "u a", "u b")
    mend(messages, STRICT)
    assert messages == chat("d x", "u a", "u b")


def test_the_texts_of_parts_are_merged_like_plain_ones() -> None:
    parts: Message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert mend([parts, *chat("u c")], TemplateFeatures(equal_neighbors=False)) == chat("u a\nb\n\nc")


def test_arguments_of_calls_are_text_or_a_mapping_as_the_template_needs(subtests: pytest.Subtests) -> None:
    def called(arguments: object) -> list[Message]:
        return [
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        ]

    mapping, text = {"x": "猫"}, '{"x": "猫"}'
    takes_text = TemplateFeatures(text_arguments=True)
    for features, given, expected in (
        (takes_text, mapping, text),
        (takes_text, text, text),
        (TemplateFeatures(), text, mapping),
        (TemplateFeatures(), mapping, mapping),
        (TemplateFeatures(), "no JSON", "no JSON"),
        (TemplateFeatures(), "[1]", "[1]"),
        (TemplateFeatures(), "[" * 100_000, "[" * 100_000),
        (TemplateFeatures(), '{"x":' * 300 + "1" + "}" * 300, '{"x":' * 300 + "1" + "}" * 300),
        (TemplateFeatures(), None, None),
    ):
        with subtests.test(f"{given!r} becomes {expected!r}"[:80]):
            assert mend(called(given), features) == called(expected)
    for calls in ("junk", [5], [{"function": "junk"}], [{}]):
        with subtests.test(calls):
            assert (
                mend([{"role": "assistant", "content": "", "tool_calls": calls}], takes_text)[0]["tool_calls"] == calls
            )
