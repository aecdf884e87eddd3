"""A page is sent the draft of the user's message while it is written, and its end once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.chat.run import ReplyRequest, RunState
from modules.conversations.conversation import Conversation
from modules.loaders import generation_settings
from modules.ui.chat.event_stream import EventStream
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.snapshot import ConversationView
from modules.ui.handlers import Page
from tests.support import echo_plans
from tests.support.echo_plans import wait_until

PARAMS = generation_settings.resolve({"max_new_tokens": 10})


@pytest.fixture
def app(make_app: Callable[..., App]) -> Iterator[App]:
    app = make_app()
    echo_plans.load(app.models)
    yield app
    app.runs.close()


def stored(app: App, text: str) -> str:
    conversation = Conversation("")
    conversation.add("user", text)
    return app.conversations.add(conversation).id


def drafts(
    app: App, id: str, start: Callable[[], object], seconds: float = 3.0, wants_draft: bool = False
) -> list[dict[str, Any]]:
    """Open a page, call `start`, and return its drafts up to the last one."""

    async def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        stream = EventStream(app, Page(app, "en"), app.conversations, Renderer("en"), id, wants_draft)
        async for chunk in stream.events():
            name, _, data = chunk.decode().strip().partition("\ndata: ")
            if name == "event: conversation":
                start()
            elif name == "event: draft":
                found.append(json.loads(data))
                if found[-1]["done"]:
                    return found
        raise AssertionError("the stream ended")

    return asyncio.run(asyncio.wait_for(read(), seconds))


def begin(app: App, id: str, text: str = "") -> None:
    if not app.runs.running(app.conversations):
        request = ReplyRequest("impersonate", PARAMS, text=text)
        app.runs.start(app.conversations, id, request, app.models.current)


def test_a_draft_is_sent_as_it_is_written(app: App) -> None:
    id = stored(app, "slow count 8")
    found = drafts(app, id, lambda: begin(app, id, "I think"))
    assert found[0]["text"].startswith("I think") and not found[0]["done"]
    assert len(found) > 2 and "0 1 2" in found[-1]["text"] and "error" not in found[-1]
    assert [one["id"] for one in found] == [id] * len(found)


def test_why_a_draft_failed_is_sent_with_its_end(app: App) -> None:
    id = stored(app, "apple fail")
    last = drafts(app, id, lambda: begin(app, id))[-1]
    assert "the echo engine will not" in last["error"] and "apple" in last["text"]


def test_a_page_that_is_opened_later_does_not_get_an_old_draft(app: App) -> None:
    id = stored(app, "apple")
    begin(app, id)
    wait_until(lambda: not app.runs.running(app.conversations))
    texts = [one["text"] for one in drafts(app, id, lambda: begin(app, id, "new"))]
    assert all(text.startswith("new") for text in texts)


def test_a_page_that_was_hidden_gets_the_end_of_its_draft(app: App) -> None:
    id = stored(app, "apple")
    begin(app, id, "I like")
    wait_until(lambda: not app.runs.running(app.conversations))
    (last,) = drafts(app, id, lambda: None, wants_draft=True)
    assert last["done"] and last["text"].startswith("I like")


def test_a_conversation_that_was_damaged_meanwhile_is_shown_with_the_reason(app: App, tmp_path: Path) -> None:
    id = stored(app, "apple")
    stream = EventStream(app, Page(app, "en"), app.conversations, Renderer("en"), id)
    assert [name for name, _ in stream._news()] == ["list", "conversation"]
    (file,) = tmp_path.rglob(f"{id}.json")
    file.write_text("{")
    ((_, body),) = [event for event in stream._news() if event[0] == "conversation"]
    assert body["id"] == id and "its JSON is damaged" in body["problem"] and 'role="alert"' in body["problem"]


def test_what_keeps_an_answer_waiting_is_told(app: App) -> None:
    view = ConversationView(Page(app, "en"), Renderer("en"))
    assert "Waking the model" in view.live(RunState("c", "m", phase="waking"))["line"]
    assert "2" in view.live(RunState("c", "m", phase="waiting", position=2))["line"]
    assert "50" in view.live(RunState("c", "m", phase="reading", progress=0.5))["line"]
    assert view.live(RunState("c", "m"))["line"] == ""
