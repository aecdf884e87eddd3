"""Routes begin conversations with characters, change who takes part in them, and add messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modules.app import App
from modules.chat.run import ReplyRequest
from modules.loaders import generation_settings
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.snapshot import ConversationView
from modules.ui.handlers import Page
from tests.support import echo_plans
from tests.support.dialogues import write_character
from tests.support.echo_plans import wait_until
from tests.ui.chat.test_routes import client_of


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    write_character(
        tmp_path, "mia", name="Mia", context="A cat.", greeting="Meow, {{user}}!", alternate_greetings=["Purr."]
    )
    write_character(tmp_path, "rex", name="Rex", greeting="Woof!")
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "tom.yaml").write_text("name: Tom\nuser_bio: Sails.\n")
    return make_app()


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def created(http: TestClient, **body: Any) -> str:
    answer = http.post("/chat/new", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def shown(app: App, id: str) -> Any:
    """Return the snapshot that an open page gets."""
    view = ConversationView(Page(app, "en"), Renderer("en"))
    return view.snapshot(app.conversations.read(id), None, None)


def texts(app: App, id: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in app.conversations.read(id).path()]


def test_a_conversation_with_a_character_is_stored_at_once(app: App, http: TestClient) -> None:
    id = created(http, character="mia", persona="tom", system="Be brief.")
    snapshot = shown(app, id)
    assert (snapshot["mode"], snapshot["persona"]) == ("chat-instruct", {"id": "tom", "name": "Tom"})
    assert snapshot["character"] == {"id": "mia", "name": "Mia", "picture": "", "missing": False}
    (greeting,) = snapshot["messages"].values()
    assert greeting["content"] == "Meow, Tom!" and len(greeting["versions"]) == 2
    assert app.conversations.read(id).system == "Be brief."
    plain = shown(app, created(http))
    assert (plain["mode"], plain["character"], plain["persona"]) == ("instruct", None, {"id": "", "name": "You"})


def test_mode_persona_and_character_are_changed(app: App, http: TestClient) -> None:
    id = created(http, character="mia")
    rev = app.conversations.read(id).rev

    def change(**body: Any) -> int:
        return http.post(f"/chat/{id}/setup", json=body).status_code

    assert change(character="rex", rev=rev) == 200
    assert texts(app, id) == [("assistant", "Woof!")]
    assert change(mode="chat", rev=rev) == 409, "the page has not seen the last change"
    assert change(mode="chat", persona="tom") == 200
    conversation = app.conversations.read(id)
    assert (conversation.mode, conversation.persona) == ("chat", "tom")
    assert http.post(f"/chat/{id}/add", json={"role": "user", "content": "Hi"}).status_code == 200
    assert change(character="mia") == 409 and change(mode="instruct") == 200


def test_messages_are_added_that_no_model_has_written(app: App, http: TestClient) -> None:
    id = created(http, character="rex")
    rev = app.conversations.read(id).rev
    question = http.post(f"/chat/{id}/add", json={"role": "user", "content": " Sit! ", "rev": rev})
    assert question.json()["message"] == app.conversations.read(id).current
    assert http.post(f"/chat/{id}/add", json={"role": "assistant", "content": "Woof.", "rev": rev}).status_code == 409
    assert http.post(f"/chat/{id}/add", json={"role": "assistant", "content": "Woof."}).status_code == 200
    assert texts(app, id) == [("assistant", "Woof!"), ("user", " Sit! "), ("assistant", "Woof.")]


def test_what_is_not_valid_is_refused_and_changes_nothing(
    app: App, http: TestClient, subtests: pytest.Subtests
) -> None:
    id = created(http, character="mia")
    before = app.conversations.read(id)
    for path, body, status in (
        ("new", {"mode": "story"}, 400),
        ("new", {"character": "absent"}, 404),
        ("new", {"character": "../mia"}, 404),
        ("new", {"persona": "absent"}, 404),
        ("new", {"system": 5}, 400),
        (f"{id}/setup", {"mode": "story"}, 400),
        (f"{id}/setup", {"character": "absent"}, 404),
        (f"{id}/setup", {"name": "x"}, 400),
        ("absent/setup", {"mode": "chat"}, 404),
        (f"{id}/add", {"role": "system", "content": "x"}, 400),
        (f"{id}/add", {"role": "user", "content": " \n"}, 400),
        (f"{id}/add", {"role": "user", "content": "x" * 2_000_001}, 400),
    ):
        with subtests.test(path=path, body=str(body)[:60]):
            answer = http.post(f"/chat/{path}?lang=zh", json=body)
            assert (answer.status_code, isinstance(answer.json()["error"], str)) == (status, True)
    assert app.conversations.read(id) == before and len(app.conversations.list()) == 1


def test_a_conversation_that_is_being_answered_is_not_changed(app: App, http: TestClient) -> None:
    id, params = created(http, character="mia"), generation_settings.resolve({"max_new_tokens": 10})
    model = echo_plans.load(app.models)
    for action in ("send", "impersonate"):
        app.runs.start(app.conversations, id, ReplyRequest(action, params, text="slow count 1000"), model)
        for path, body in (("setup", {"mode": "chat"}), ("add", {"role": "user", "content": "x"})):
            assert http.post(f"/chat/{id}/{path}", json=body).status_code == 409
        assert http.post(f"/chat/{id}/stop", json={}).status_code == 200
        wait_until(lambda: not app.runs.running(app.conversations))


def test_a_missing_character_and_a_damaged_one_are_told(app: App, http: TestClient, tmp_path: Path) -> None:
    id = created(http, character="mia")
    assert shown(app, id)["error"] == ""
    (tmp_path / "characters" / "mia.json").write_text("{")
    damaged = shown(app, id)
    assert damaged["character"]["name"] == "mia" and "mia.json" in damaged["error"]
    app.characters.delete("mia")
    missing = shown(app, id)
    assert missing["character"] == {"id": "mia", "name": "mia", "picture": "", "missing": True}
    assert "no longer exists" in missing["error"]
    http.post(f"/chat/{id}/setup", json={"mode": "instruct"})
    assert shown(app, id)["error"] == "", "the character plays no part"


def test_the_variables_of_the_template_are_counted(app: App, http: TestClient) -> None:
    source = "{{ messages[-1].content }}{% if enable_thinking %} so I think{% endif %}"
    app.instruction_templates.save("thinking", source)
    model = echo_plans.load(app.models)
    app.template_choices.choose(model.record.name, "thinking")
    asked = {"text": "one", "template_kwargs": {"enable_thinking": True}}
    assert http.post("/chat/count", json={"text": "one"}).json()["tokens"] == 1
    assert http.post("/chat/count", json=asked).json()["tokens"] == 4
    assert http.post("/chat/count", json={"template_kwargs": {"x": "a" * 2000}, "text": "one"}).status_code == 400


def test_the_prompt_of_a_conversation_is_shown_and_counted(app: App, http: TestClient) -> None:
    id = created(http, character="mia", mode="chat")
    assert http.post(f"/chat/{id}/count", json={}).json()["tokens"] is None
    assert http.post(f"/chat/{id}/prompt", json={}).status_code == 400, "no model is loaded"
    echo_plans.load(app.models)
    conversation = app.conversations.change(id, None, lambda tree: tree)
    for text in ("one", "two", "three", "four"):
        http.post(f"/chat/{id}/add", json={"role": "user", "content": text})
    assert http.post(f"/chat/{id}/prompt", json={}).json()["text"] == (
        "A cat.\n\nMia: Meow, You!\nYou: one\nYou: two\nYou: three\nYou: four\nMia:"
    )
    assert http.post(f"/chat/{id}/count", json={}).json()["tokens"] == 14
    last = app.conversations.read(id).path()[-1].id

    def forget(tree: Any) -> None:
        tree.dropped_until = last

    app.conversations.change(conversation.id, None, forget)
    assert http.post(f"/chat/{id}/count", json={}).json()["tokens"] == 5, "the others are no longer sent"
    assert http.post(f"/chat/{id}/count", json={"text": "five"}).json()["tokens"] == 7
    assert http.post("/chat/count", json={"text": "five", "mode": "chat", "persona": "tom"}).json()["tokens"] == 4


def test_guests_cannot_use_the_personas_of_the_owner(app: App, make_app: Callable[..., App]) -> None:
    http = client_of(make_app("--multi-user"))
    assert http.post("/chat/new", json={"persona": "tom"}).status_code == 404
    http.get("/chat/list")  # which gives the cookie
    id = created(http, character="mia")
    assert http.post(f"/chat/{id}/setup", json={"persona": "tom"}).status_code == 404
    assert http.post(f"/chat/{id}/setup", json={"mode": "chat"}).status_code == 200
