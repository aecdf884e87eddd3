"""Requests of the page's script over the bridge are checked, and begin the runs that they name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.app import App
from modules.core.image_marks import mark
from modules.loaders.registry import LOADERS
from modules.ui.chat.snapshot import facts_line
from modules.ui.chat.tab import ChatTab
from modules.ui.chat.visitors import Visitors
from modules.ui.handlers import Page
from modules.ui.parameters.tab import ParametersTab
from tests.conftest import ECHO
from tests.support import echo_plans
from tests.support.dialogues import write_character
from tests.support.echo_plans import wait_until
from tests.support.page_parts import page_parts
from tests.support.pictures import picture

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> Iterator[App]:
    write_character(tmp_path, "mia", name="Mia", greeting="Meow!")
    app = make_app()
    echo_plans.load(app.models)
    yield app
    app.runs.close()


@pytest.fixture
def visitors(app: App) -> Visitors:
    return Visitors(app)


@pytest.fixture
def upload(app: App, visitors: Visitors) -> Callable[[str, bytes], str]:
    """Upload a file and return its hash."""
    return lambda name, data: visitors.uploads({}).add(app.conversations, name, data).sha256


@pytest.fixture
def ask(app: App, visitors: Visitors) -> Ask:
    """Send a request over the bridge and return the answer, once what it began has ended."""
    with page_parts():
        page = Page(app, "en")
        tab, parameters = ChatTab(page, visitors), ParametersTab(page, visitors.store)
        tab.listen(parameters)
    values = {widget: widget.value for widget in parameters.widgets.values()}
    request: Any = SimpleNamespace(request=SimpleNamespace(scope={}))

    def send(**sent: Any) -> dict[str, Any]:
        event: Any = SimpleNamespace(_data=sent)
        answer: dict[str, Any] = json.loads(tab.ask(values, event, request)[tab.bridge])
        wait_until(lambda: not app.runs.running(app.conversations))
        return answer

    return send


def test_a_first_message_begins_a_conversation_as_it_was_chosen(app: App, ask: Ask) -> None:
    answer = ask(n=1, action="send", text="apple", mode="chat", character="mia", system="Be brief.")
    conversation = app.conversations.read(answer["id"])
    assert (answer["n"], answer["sent"], conversation.mode, conversation.system) == (1, True, "chat", "Be brief.")
    assert [message.content for message in conversation.path()][:2] == ["Meow!", "apple"]
    plain = app.conversations.read(ask(action="send", text="apple")["id"])
    assert (plain.mode, plain.character) == ("instruct", "")


def test_nothing_is_stored_for_a_model_that_cannot_chat(app: App, ask: Ask) -> None:
    model = app.models.current
    model.info = dataclasses.replace(model.info, task="embed")
    assert "is an embedding model" in str(ask(action="send", text="apple")["error"])
    assert not app.conversations.list()


def test_variables_of_the_template_are_used_and_used_again(app: App, ask: Ask) -> None:
    id = ask(action="send", text="apple", template_kwargs={"enable_thinking": False, "effort": "low"})["id"]
    answer = app.conversations.read(id).path()[-1]
    assert answer.receipt["template"]["kwargs"] == {"enable_thinking": False, "effort": "low"}
    ask(action="again", conversation=id, message=answer.id)
    again = app.conversations.read(id).path()[-1]
    assert again.id != answer.id and again.receipt["template"] == answer.receipt["template"]


def test_an_impersonation_stores_nothing(app: App, ask: Ask) -> None:
    id = ask(action="send", text="apple")["id"]
    before = app.conversations.read(id)
    assert ask(action="impersonate", conversation=id, text="And") == {"n": None, "sent": False, "id": id}
    draft = app.runs.draft(app.conversations, id)
    assert draft is not None and draft.content.startswith("And") and app.conversations.read(id) == before


def test_what_is_not_valid_is_refused_and_stores_nothing(app: App, ask: Ask, subtests: pytest.Subtests) -> None:
    for sent in (
        {"action": "dance", "text": "apple"},
        {"action": "send", "text": ""},
        {"action": "send", "text": "x" * 2_000_001},
        {"action": "send", "text": "apple", "mode": "story"},
        {"action": "send", "text": "apple", "character": "absent"},
        {"action": "send", "text": "apple", "system": "x" * 2_000_001},
        {"action": "send", "text": "apple", "start_with": "x" * 2_000_001},
        {"action": "send", "text": "apple", "template_kwargs": "x"},
        {"action": "send", "text": "apple", "template_kwargs": {"a": [1]}},
        {"action": "send", "text": "apple", "template_kwargs": {"a": "x" * 1001}},
        {"action": "send", "text": "apple", "template_kwargs": {"x" * 1001: 1}},
        {"action": "send", "text": "apple", "template_kwargs": {"a": float("nan")}},
        {"action": "send", "text": "apple", "template_kwargs": {"a": 10**4000}},
        {"action": "send", "text": "apple", "template_kwargs": {str(number): 1 for number in range(21)}},
        {"action": "impersonate", "conversation": "absent"},
        {"action": "impersonate"},
    ):
        with subtests.test(sent=str(sent)[:70]):
            answer = ask(**sent)
            assert answer["error"] and "id" not in answer
    assert app.conversations.list() == []


def test_a_picture_goes_to_a_model_that_reads_it_and_its_text_to_one_that_does_not(
    app: App, ask: Ask, upload: Callable[[str, bytes], str]
) -> None:
    data = picture()
    echo_plans.load(app.models, "sees")
    sent = [{"sha256": upload("red.png", data)}]
    id = ask(action="send", text="apple", attachments=sent)["id"]
    answer = app.conversations.read(id).path()[-1]
    assert mark(0) in answer.content and answer.receipt["images"] == [sent[0]["sha256"]]
    echo_plans.load(app.models, "good")
    ask(action="regenerate", conversation=id, message=answer.id)
    again = app.conversations.read(id).path()[-1]
    assert again.id != answer.id and "apple" in again.content and mark(0) not in again.content
    assert again.receipt["images_left_out"] == 1
    assert "pictures not sent: 1 (" in facts_line(again.receipt, Page(app, "en"))
    drafted = {**again.receipt, "tokens": {"completion": 9, "drafted": 6, "accepted": 4}}
    drafted["seconds"] = {"prompt": 0.84, "decode": 2.0}
    assert "4.0 tok/s · 9 tokens · first token after 0.8 s · 4 of 6 draft tokens" in facts_line(
        drafted, Page(app, "en")
    )
    drafted["seconds"]["prompt"] = 0.0
    assert "9 tokens · 4 of 6 draft tokens accepted" in facts_line(drafted, Page(app, "en"))


def test_a_receipt_of_a_stranger_with_impossible_values_is_shown_without_them(
    app: App, subtests: pytest.Subtests
) -> None:
    page, good = Page(app, "en"), {"tokens": {"completion": 9}, "seconds": {"decode": 2.0, "prompt": 0.5}}
    shown = "4.0 tok/s · 9 tokens"
    for name, changed, expected in (
        ("tokens", {"tokens": {"completion": 10**400}}, ""),
        ("infinite tokens", {"tokens": {"completion": float("inf")}}, ""),
        ("decode", {"seconds": {"decode": 10**400}}, ""),
        ("prompt", {"seconds": {"decode": 2.0, "prompt": 10**400}}, shown),
        ("infinite prompt", {"seconds": {"decode": 2.0, "prompt": float("inf")}}, shown),
        ("drafts", {"tokens": {"completion": 9, "drafted": "6", "accepted": []}}, f"{shown} · first token after 0.5 s"),
        ("reason", {"reason": [], "model": 1}, f"{shown} · first token after 0.5 s"),
    ):
        with subtests.test(name):
            assert facts_line({**good, **changed}, page) == expected


def test_a_new_picture_is_refused_by_the_name_of_a_model_that_reads_text(
    app: App, ask: Ask, upload: Callable[[str, bytes], str]
) -> None:
    answer = ask(action="send", text="apple", attachments=[{"sha256": upload("red.png", picture())}])
    assert "good cannot read images" in answer["error"] and app.conversations.list() == []


def test_a_message_is_not_sent_without_a_file_that_the_server_has_lost(
    app: App, ask: Ask, upload: Callable[[str, bytes], str]
) -> None:
    kept, lost = ({"sha256": upload("a.txt", b"a"), "name": "a.txt"}, {"sha256": "0" * 64, "name": "笔记.txt"})
    answer = ask(action="send", text="apple", attachments=[kept, lost])
    assert "笔记.txt was not attached: the server no longer has it" in answer["error"]
    assert app.conversations.list() == []


def test_a_message_wakes_the_model_that_is_asleep(app: App, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOADERS, ECHO.name, ECHO)
    with app.models.request(keep_alive=0).result(timeout=10):
        pass
    wait_until(lambda: app.models.status.state == "asleep")
    id = ask(action="send", text="apple")["id"]
    assert "apple" in app.conversations.read(id).path()[-1].content
