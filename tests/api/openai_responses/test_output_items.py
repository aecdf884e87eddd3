"""Output items and their events, checked against the types of OpenAI's client."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from modules.api.openai_responses.output_items import Event, OutputItems
from modules.api.openai_responses.tools import OfferedTool
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece

TOOLS = {
    "search": OfferedTool("function", "search"),
    "apply_patch": OfferedTool("custom", "apply_patch"),
    "files__list": OfferedTool("function", "list", "files"),
}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEMS: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)


def run(*batches: Sequence[Piece], status: str = "completed") -> tuple[list[Event], list[Any]]:
    """Return the events of a reply in pieces, and its items; both are checked by the types."""
    output = OutputItems(TOOLS)
    events = [event for pieces in batches for event in output.add(pieces)] + output.end(status)
    for number, event in enumerate(events):
        EVENTS.validate_python({**event, "sequence_number": number})
    for item in output.finished:
        ITEMS.validate_python(item)
    return events, output.finished


def kinds(events: Sequence[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_is_one_message() -> None:
    events, (item,) = run([(TEXT, "Hel")], [(TEXT, "lo")])
    assert kinds(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert [event["delta"] for event in events[2:4]] == ["Hel", "lo"]
    assert events[0]["item"]["content"] == []
    assert item["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert {event.get("item_id", item["id"]) for event in events} == {item["id"]}


def test_the_thought_is_the_summary_of_an_item_before_the_message() -> None:
    events, items = run([(REASONING, "Hm")], [(REASONING, "."), (TEXT, "Yes")])
    assert kinds(events)[:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert [event["output_index"] for event in events] == [0] * 7 + [1] * 6
    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert items[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]


def test_the_event_that_ends_an_item_has_all_of_it() -> None:
    thought_and_text = [(REASONING, "Hm"), (TEXT, "Yes")]
    calls = [(CALL, "search"), (ARGUMENTS, "{}"), (CALL, "apply_patch"), (ARGUMENTS, '{"input": "a"}')]
    events, items = run(thought_and_text, calls)
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == items


def test_calls_are_items_with_ids_of_their_own() -> None:
    call = [(CALL, "search"), (ARGUMENTS, '{"query"')]
    events, items = run(call, [(ARGUMENTS, ':"x"}')], [(CALL, "search"), (ARGUMENTS, "{}")])
    assert kinds(events)[:5] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert [item["arguments"] for item in items] == ['{"query":"x"}', "{}"]
    assert len({item["id"] for item in items} | {item["call_id"] for item in items}) == 4
    assert events[0]["item"]["arguments"] == ""
    assert [len(item["call_id"]) for item in items] == [29, 29]


def test_a_custom_tool_gets_its_text_without_json() -> None:
    events, (item,) = run([(CALL, "apply_patch"), (ARGUMENTS, '{"input": "a\\n')], [(ARGUMENTS, 'b"}')])
    assert kinds(events) == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", "a\nb")


def test_a_tool_in_a_namespace_is_called_by_its_own_name() -> None:
    _, (item,) = run([(CALL, "files__list"), (ARGUMENTS, "{}")])
    assert (item["name"], item["namespace"]) == ("list", "files")


def test_white_space_around_calls_is_no_message() -> None:
    _, items = run([(REASONING, "Hm"), (TEXT, "\n\n")], [(CALL, "search"), (ARGUMENTS, "{}"), (TEXT, "\n")])
    assert [item["type"] for item in items] == ["reasoning", "function_call"]
    _, (message,) = run([(TEXT, "\n")], [(TEXT, " Yes")])
    assert message["content"][0]["text"] == "\n Yes"


def test_an_answer_without_text_has_an_empty_message() -> None:
    for pieces, expected in (([], ["message"]), ([(REASONING, "Hm")], ["reasoning", "message"])):
        events, items = run(pieces)
        assert [item["type"] for item in items] == expected
        assert items[-1]["content"][0]["text"] == ""
        assert [event["output_index"] for event in events][-1] == len(expected) - 1


def test_an_answer_that_was_cut_ends_with_an_incomplete_item() -> None:
    _, items = run([(REASONING, "Hm"), (CALL, "search"), (ARGUMENTS, '{"que')], status="incomplete")
    assert [item["status"] for item in items] == ["completed", "incomplete"]
    _, (thought,) = run([(REASONING, "Hm")], status="incomplete")
    assert thought["type"] == "reasoning"


def test_log_probabilities_go_with_the_text_that_they_are_certain_with() -> None:
    output = OutputItems(TOOLS)
    output.add([(REASONING, "Hm")], [{"token": "Hm"}])
    assert output.add([], [{"token": "<"}]) == []
    delta = output.add([(TEXT, "<b")], [{"token": "b"}])[-1]
    assert [token["token"] for token in delta["logprobs"]] == ["<", "b"]
    done = next(event for event in output.end("completed") if event["type"] == "response.output_text.done")
    assert [token["token"] for token in done["logprobs"]] == ["<", "b"]


def test_an_item_that_is_being_written_is_shown_as_far_as_it_is() -> None:
    output = OutputItems(TOOLS)
    output.add([(TEXT, "Hel")])
    (item,) = output.items
    assert (item["content"][0]["text"], item["status"]) == ("Hel", "incomplete")


def test_items_do_not_depend_on_how_a_reply_is_cut() -> None:
    reply = [
        (REASONING, "Look at the file, then patch it."),
        (TEXT, "I patch the file."),
        (CALL, "apply_patch"),
        (ARGUMENTS, '{"input": "*** Begin Patch\\n+\\u4f60\\ud83d\\ude00\\n*** End Patch"}'),
        (CALL, "search"),
        (ARGUMENTS, '{"query": "x"}'),
        (TEXT, "\nDone."),
    ]
    _, whole = run(reply)
    rng = random.Random(3)
    for _ in range(50):
        batches: list[list[Piece]] = [[]]
        for kind, text in reply:
            cuts = [] if kind == CALL else sorted(rng.sample(range(1, len(text)), rng.randrange(6)))
            for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
                if rng.random() < 0.5:
                    batches.append([])
                batches[-1].append((kind, text[start:end]))
        events, items = run(*batches)
        assert [without_ids(item) for item in items] == [without_ids(item) for item in whole]
        for index, item in enumerate(items):
            deltas = "".join(event["delta"] for event in events if event["output_index"] == index and "delta" in event)
            assert deltas == text_of(item)


def without_ids(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("id", "call_id")}


def text_of(item: dict[str, Any]) -> str:
    parts = item.get("summary") or item.get("content") or [{"text": item.get("arguments", item.get("input"))}]
    return str(parts[0]["text"])
