"""Trees whose links are damaged, and what hidden messages leave behind."""

from __future__ import annotations

from modules.conversations.importers.context import ImportContext, Losses
from modules.conversations.importers.message_tree import (
    ASSISTANT,
    HIDDEN,
    MAX_HIDDEN_IN_A_ROW,
    SYSTEM,
    USER,
    Draft,
    Header,
    build,
    chain,
)
from tests.conversations.importers.samples import texts


def built(drafts: list[Draft], header: Header | None = None) -> tuple[ImportContext, Losses]:
    context, losses = ImportContext("file"), Losses()
    build(context, header or Header(), drafts, losses)
    return context, losses


def row(drafts: list[Draft]) -> list[Draft]:
    return chain(Header(), (([draft], 0) for draft in drafts))


def shown(drafts: list[Draft], current: str = "") -> list[str]:
    context, _ = built(drafts, Header(current=current))
    return [text for _, text in texts(context.conversations[0])]


def test_messages_with_a_missing_predecessor_move_to_the_beginning() -> None:
    drafts = [Draft("a", None, USER, "A"), Draft("b", "lost", USER, "B"), Draft("c", "b", ASSISTANT, "C")]
    assert shown(drafts, "c") == ["B", "C"]
    assert shown(drafts, "a") == ["A"]
    assert built(drafts)[1]["orphans"] == 1


def test_cycles_are_cut_once() -> None:
    drafts = [Draft("a", "c", USER, "A"), Draft("b", "a", ASSISTANT, "B"), Draft("c", "b", USER, "C")]
    context, losses = built(drafts)
    assert len(context.conversations[0].messages) == 3
    assert losses["orphans"] == 1
    assert shown([Draft("a", "a", USER, "A")]) == ["A"]


def test_a_link_from_the_parent_alone_suffices() -> None:
    drafts = [Draft("a", None, USER, "A", children=("b",)), Draft("b", None, ASSISTANT, "B")]
    assert shown(drafts) == ["A", "B"]


def test_a_second_message_with_the_same_id_is_kept() -> None:
    drafts = [Draft("a", None, USER, "A"), Draft("a", None, USER, "B"), Draft("", None, USER, "C")]
    context, losses = built(drafts)
    assert sorted(message.content for message in context.conversations[0].messages.values()) == ["A", "B", "C"]
    assert losses["duplicates"] == 1


def test_ids_like_ours_are_kept_and_others_replaced() -> None:
    drafts = [Draft("00000000", None, USER, "A"), Draft("__proto__", "00000000", ASSISTANT, "B")]
    assert list(built(drafts)[0].conversations[0].messages) == ["00000000", "00000001"]


def test_long_chains_are_no_problem() -> None:
    drafts = [Draft(str(number), str(number - 1) if number else None, USER, "x") for number in range(5_000)]
    assert len(shown(drafts, "4999")) == 5_000
    assert len(shown(drafts[::-1], "4999")) == 5_000
    hidden = [Draft(str(number), None, HIDDEN, extra={"tool_calls": [1]}) for number in range(5_000)]
    context, losses = built(row([*hidden, Draft("end", None, ASSISTANT, "End")]))
    assert len(context.conversations[0].path()[0].extra["tool_calls"]) == MAX_HIDDEN_IN_A_ROW
    assert losses["unreadable"] == 5_000 - MAX_HIDDEN_IN_A_ROW


def test_what_an_answer_that_never_came_left_behind_is_kept_in_an_empty_one() -> None:
    question, thought = Draft("a", None, USER, "A"), Draft("b", None, HIDDEN, reasoning="Hm.", created=7.0)
    for drafts in ([question, thought], [question, thought, Draft("c", None, USER, "C")]):
        path = built(row(drafts))[0].conversations[0].path()
        assert [message.role for message in path] == ["user", "assistant", "user"][: len(drafts)]
        assert (path[1].content, path[1].reasoning, path[1].created) == ("", "Hm.", 7.0)
        assert not any(message.reasoning for message in path if message.role == "user")


def test_system_messages_at_the_beginning_become_the_instructions() -> None:
    drafts = [
        Draft("a", None, SYSTEM, "One."),
        Draft("b", None, SYSTEM, "Two."),
        Draft("c", None, USER, "Hello"),
        Draft("d", None, SYSTEM, "Three."),
        Draft("e", None, ASSISTANT, "Hi."),
    ]
    context, losses = built(row(drafts))
    conversation = context.conversations[0]
    assert (conversation.system, conversation.extra["system_messages"]) == ("One.\n\nTwo.", ["Three."])
    assert losses["system"] == 1


def test_conversations_without_messages_are_left_out() -> None:
    context, _ = built([Draft("a", None, SYSTEM, "Be brief."), Draft("b", "a", HIDDEN, reasoning_seconds=1.0)])
    assert context.conversations == []
