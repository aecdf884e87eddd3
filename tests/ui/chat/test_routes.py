"""The routes of the page's script: they check everything, and answer errors in the language of the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.chat.run import ReplyRequest
from modules.conversations.conversation import Attachment, Conversation
from modules.loaders import generation_settings
from modules.ui.chat import routes, setup_routes
from modules.ui.chat.event_stream import EventStream
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.snapshot import ConversationView
from modules.ui.chat.visitors import Visitors
from modules.ui.handlers import Page
from tests.support import echo_plans
from tests.support.dialogues import write_character
from tests.support.echo_plans import wait_until
from tests.support.pictures import picture


def client_of(app: App) -> TestClient:
    server = FastAPI()
    routes.add_routes(server, app, Visitors(app))
    return TestClient(server)


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def stored(app: App, *texts: str) -> Conversation:
    """Store a conversation of these texts, questions and answers in turn."""
    conversation = Conversation("")
    for index, text in enumerate(texts):
        conversation.add("assistant" if index % 2 else "user", text)
    return app.conversations.add(conversation)


def listed(http: TestClient, query: str = "") -> list[dict[str, Any]]:
    return http.get("/chat/list", params={"q": query}).json()["conversations"]


def test_conversations_are_listed_searched_renamed_and_pinned(app: App, http: TestClient) -> None:
    first, second = stored(app, "About lighthouses", "Tall."), stored(app, "About bread", "Flour.")
    assert http.post(f"/chat/{first.id}/rename", json={"title": "Towers"}).status_code == 200
    assert http.post(f"/chat/{first.id}/pin", json={"pinned": True}).status_code == 200
    assert [(one["title"], one["pinned"]) for one in listed(http)] == [("Towers", True), ("About bread", False)]
    (found,) = listed(http, "flour")
    assert found["id"] == second.id and "Flour" in found["snippet"]


def test_the_list_has_the_character_and_its_picture_where_one_is_played(
    app: App, http: TestClient, tmp_path: Path
) -> None:
    write_character(tmp_path, "mia", name="Mia")
    picture = tmp_path / "characters" / "mia.png"
    picture.write_bytes(b"any bytes")
    played = http.post("/chat/new", json={"character": "mia"}).json()["id"]
    unused = http.post("/chat/new", json={"character": "mia", "mode": "instruct"}).json()["id"]
    shown = {one["id"]: (one["character"], one["picture"]) for one in listed(http)}
    assert shown == {played: ("mia", app.characters.picture_version("mia")), unused: ("", "")}
    assert shown[played][1]


def test_a_deleted_conversation_can_be_restored(app: App, http: TestClient) -> None:
    conversation = stored(app, "apple", "pear")
    http.post(f"/chat/{conversation.id}/delete", json={})
    assert listed(http) == [] and http.get("/chat/list").json()["bin"] == 1
    http.post(f"/chat/{conversation.id}/restore", json={})
    assert [one["id"] for one in listed(http)] == [conversation.id]


def test_messages_are_edited_removed_and_their_versions_selected(app: App, http: TestClient) -> None:
    conversation = stored(app, "apple", "pear")
    question, answer = conversation.path()
    other = app.conversations.change(conversation.id, None, lambda tree: tree.add("assistant", "plum", question.id))

    def change(action: str, **body: object) -> list[str]:
        assert http.post(f"/chat/{conversation.id}/{action}", json=body).status_code == 200
        return [message.content for message in app.conversations.read(conversation.id).path()]

    assert change("select", message=answer.id) == ["apple", "pear"]
    assert change("edit", message=answer.id, content="quince") == ["apple", "quince"]
    assert change("remove", message=answer.id) == ["apple", "plum"]
    assert change("system", system="Be brief.") == ["apple", "plum"]
    assert app.conversations.read(conversation.id).system == "Be brief."
    branch = http.post(f"/chat/{conversation.id}/branch", json={"message": other.id}).json()["id"]
    assert [message.content for message in app.conversations.read(branch).path()] == ["apple", "plum"]


def test_a_change_of_an_older_revision_is_refused_and_changes_nothing(app: App, http: TestClient) -> None:
    conversation = stored(app, "apple", "pear")
    message = conversation.current
    body = {"message": message, "content": "plum", "rev": conversation.rev}
    assert http.post(f"/chat/{conversation.id}/edit", json=body).status_code == 200
    refused = http.post(f"/chat/{conversation.id}/edit", json=body | {"content": "fig"})
    assert refused.status_code == 409 and refused.json()["error"]
    assert app.conversations.read(conversation.id).message(message).content == "plum"


def test_bad_requests_are_answered_in_the_language_of_the_page(app: App, http: TestClient) -> None:
    conversation = stored(app, "apple", "pear")
    for path, body, status in (
        ("absent/rename", {"title": "x"}, 404),
        ("..%2F..%2Fsettings/rename", {"title": "x"}, 404),
        (f"{conversation.id}/rename", {"title": 5}, 400),
        (f"{conversation.id}/rename", {"title": "x", "more": 1}, 400),
        (f"{conversation.id}/rename", {"title": "x" * 5000}, 400),
        (f"{conversation.id}/edit", {"message": "absent", "content": "x"}, 404),
        (f"{conversation.id}/edit", {"message": conversation.current}, 400),
        (f"{conversation.id}/export?format=exe", None, 400),
    ):
        answer = http.get(f"/chat/{path}") if body is None else http.post(f"/chat/{path}?lang=en", json=body)
        assert answer.status_code == status, (path, answer.text)
        assert not isinstance(answer.json().get("error"), dict)
    form = http.post(f"/chat/{conversation.id}/rename", content="title=x", headers={"Content-Type": "text/plain"})
    assert form.status_code == 400, "a form of another site could send it"
    assert "不存在" in http.post("/chat/absent/pin?lang=zh", json={"pinned": True}).json()["error"]


def test_the_bin_lists_what_was_deleted_until_it_is_emptied(app: App, http: TestClient) -> None:
    kept, deleted = stored(app, "About lighthouses"), stored(app, "About bread")
    http.post(f"/chat/{deleted.id}/delete", json={})
    (binned,) = http.get("/chat/bin").json()["conversations"]
    assert (binned["id"], binned["title"]) == (deleted.id, "About bread")
    assert http.post("/chat/bin/empty", json={}).status_code == 200
    assert http.get("/chat/bin").json() == {"conversations": []}
    assert [one["id"] for one in listed(http)] == [kept.id]


def test_incognito_conversations_are_listed_with_the_others_and_never_on_the_disk(
    app: App, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> set[Path]:
        return {path for path in app.logs_folder.rglob("*") if path.is_file()}

    def new() -> str:
        id: str = http.post("/chat/new", json={"incognito": True}).json()["id"]
        return id

    kept, before, empty, other = stored(app, "a lighthouse").id, files(), new(), new()
    assert {one["id"] for one in listed(http)} == {other, empty, kept}, "another window may show one without a message"
    monkeypatch.setattr(setup_routes, "UNUSED_SECONDS", 0.0)
    id = new()
    assert [one["id"] for one in listed(http)] == [id, kept]
    assert http.post(f"/chat/{id}/add", json={"role": "user", "content": "a secret"}).status_code == 200
    file = http.post("/chat/attachments", params={"name": "s.txt", "id": id}, content=b"a secret file").json()
    assert http.post(f"/chat/{id}/rename", json={"title": "mine"}).status_code == 200
    assert [(one["title"], one["incognito"]) for one in listed(http, "secret")] == [("mine", True)]
    assert [(one["id"], one["incognito"]) for one in listed(http)] == [(id, True), (kept, False)]
    assert b"a secret" in http.get(f"/chat/{id}/export").content
    assert files() == before and app.conversations.blobs.find(file["sha256"]) is None
    assert http.post(f"/chat/{id}/delete", json={}).status_code == 200
    assert [one["id"] for one in listed(http)] == [kept] and http.get("/chat/list").json()["bin"] == 0
    assert http.post(f"/chat/{id}/restore", json={}).status_code == 404
    late = http.post("/chat/attachments", params={"name": "s.txt", "id": id}, content=b"another secret file")
    assert late.status_code == 404 and files() == before, "the page may still show what was deleted"


def test_guests_have_conversations_of_their_own_which_are_not_stored(make_app: Callable[..., App]) -> None:
    app = make_app("--multi-user")
    one = client_of(app)
    assert one.get("/chat/list").json() == {"conversations": [], "bin": 0, "kept": False, "version": 0}
    assert "tx-guest" in one.cookies
    stored(app, "of the owner")
    assert listed(one) == []
    other = client_of(app)
    assert listed(other) == [] and other.cookies["tx-guest"] != one.cookies["tx-guest"]


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def answering(app: App) -> Iterator[App]:
    """An app whose model answers with the words of its prompt."""
    echo_plans.load(app.models)
    yield app
    app.runs.close()


def sent(app: App, id: str, seconds: float = 3.0) -> list[tuple[str, dict[str, Any]]]:
    """Return the events that a page which opens the conversation is sent, until its answer has ended."""

    async def read() -> list[tuple[str, dict[str, Any]]]:
        stream = EventStream(app, Page(app, "en"), app.conversations, Renderer("en"), id)
        events = []
        async for chunk in stream.events():
            for name, data in (part.split("\ndata: ") for part in chunk.decode().split("\n\n") if "\ndata: " in part):
                events.append((name.removeprefix("event: "), json.loads(data)))
            if any(name == "conversation" and not body["running"] for name, body in events):
                return events
        raise AssertionError("the stream ended")

    return asyncio.run(asyncio.wait_for(read(), seconds))


def test_a_page_gets_the_conversation_and_then_what_is_written(answering: App) -> None:
    params = generation_settings.resolve({"max_new_tokens": 10})
    request = ReplyRequest("send", params, text="slow count 12")
    state = answering.runs.start(answering.conversations, "", request, answering.models.current)
    events = sent(answering, state.conversation)
    names = [name for name, _ in events]
    assert names[:3] == ["list", "conversation", "live"] and names.count("conversation") == 2
    first, last = (body for name, body in events if name == "conversation")
    assert first["running"] == state.message and len(first["order"]) == 2
    assert "0 1 2" in last["messages"][state.message]["content"]
    assert set(last["messages"]) == {state.message}, "the question has been sent before"
    blocks: list[str] = []
    for _, body in (event for event in events if event[0] == "live"):
        blocks[body["first"] :] = body["blocks"]
    assert "0 1 2" in "".join(blocks)


def test_a_page_opened_later_gets_all_of_the_answer(answering: App) -> None:
    params = generation_settings.resolve({"max_new_tokens": 10})
    request = ReplyRequest("send", params, text="slow count 20")
    state = answering.runs.start(answering.conversations, "", request, answering.models.current)
    wait_until(lambda: (answering.runs.state(answering.conversations, state.conversation) or state).tokens > 8)
    live = next(body for name, body in sent(answering, state.conversation) if name == "live")
    assert live["first"] == 0 and "0 1 2" in "".join(live["blocks"])


def test_a_conversation_that_does_not_exist_is_gone(app: App) -> None:
    async def first() -> str:
        stream = EventStream(app, Page(app, "en"), app.conversations, Renderer("en"), "absent")
        events = stream.events()
        return ((await anext(events)) + (await anext(events))).decode()

    assert "event: gone" in asyncio.run(first())


def test_a_picture_is_attached_shown_and_found_by_its_name(app: App, http: TestClient) -> None:
    data = picture("WEBP")
    added = http.post("/chat/attachments?name=lighthouse.webp", content=data).json()
    assert (added["name"], added["kind"]) == ("lighthouse.webp", "image")
    conversation = Conversation("")
    conversation.add("user", "", attachments=(Attachment(added["name"], "image", added["sha256"], added["size"]),))
    id = app.conversations.add(conversation).id
    shown = http.get(f"/chat/{id}/picture/{added['sha256']}")
    assert (shown.status_code, shown.content, shown.headers["content-type"]) == (200, data, "image/webp")
    assert shown.headers["x-content-type-options"] == "nosniff" and "immutable" in shown.headers["cache-control"]
    assert [(one["id"], one["title"]) for one in listed(http, "lighthouse")] == [(id, "lighthouse.webp")]
    page = ConversationView(Page(app, "en"), Renderer("en")).snapshot(app.conversations.read(id), None, None)
    (message,) = page["messages"].values()
    assert message["attachments"][0]["picture"] == added["sha256"]


def test_only_pictures_of_the_conversation_itself_are_shown(app: App, http: TestClient) -> None:
    data = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    id, other = stored(app, "apple").id, stored(app, "pear").id
    notes, fake = app.conversations.blobs.put(b"notes"), app.conversations.blobs.put(data)
    files = (Attachment("notes.txt", "text", notes, 5, "notes"), Attachment("a.svg", "image", fake, len(data)))
    app.conversations.change(id, None, lambda tree: tree.add("user", "", attachments=files))
    for address in (
        f"{id}/picture/{notes}",
        f"{id}/picture/{fake}",
        f"{other}/picture/{fake}",
        f"{id}/picture/{'0' * 64}",
    ):
        assert http.get(f"/chat/{address}").status_code == 404, address


def test_a_picture_is_shown_before_it_is_sent_to_whoever_has_attached_it(app: App, http: TestClient) -> None:
    data = picture()
    hash = app.conversations.blobs.put(data)
    assert http.get(f"/chat/attachments/{hash}").status_code == 404
    assert http.post("/chat/attachments?name=a.png", content=data).json()["sha256"] == hash
    assert http.get(f"/chat/attachments/{hash}").content == data
    text = http.post("/chat/attachments?name=a.txt", content=b"apple").json()
    assert http.get(f"/chat/attachments/{text['sha256']}").status_code == 404


def test_browsers_keep_no_picture_of_an_incognito_conversation(http: TestClient) -> None:
    id = http.post("/chat/new", json={"incognito": True}).json()["id"]
    hash = http.post("/chat/attachments", params={"name": "a.png", "id": id}, content=picture()).json()["sha256"]
    shown = http.get(f"/chat/attachments/{hash}", params={"id": id})
    assert (shown.status_code, shown.headers["cache-control"]) == (200, "no-store")


def test_a_picture_is_refused_before_it_is_sent_by_the_name_of_the_model(app: App, http: TestClient) -> None:
    echo_plans.load(app.models)
    refused = http.post("/chat/attachments?name=a.png&lang=en", content=picture())
    assert refused.status_code == 400 and "good cannot read images" in refused.json()["error"]
    assert http.post("/chat/attachments?name=a.txt", content=b"apple").status_code == 200
    echo_plans.load(app.models, "sees")
    assert http.post("/chat/attachments?name=a.png", content=picture()).status_code == 200


def test_the_context_meter_counts_pictures(app: App, http: TestClient) -> None:
    echo_plans.load(app.models, "sees")
    sent = [http.post("/chat/attachments?name=a.png", content=picture(width=size)).json() for size in (8, 9)]
    body: dict[str, object] = {"text": "hello there", "mode": "instruct"}
    alone = http.post("/chat/count", json=body).json()["tokens"]
    for pictures in (sent[:1], sent, sent):
        counted = http.post("/chat/count", json={**body, "attachments": pictures}).json()
        assert counted["tokens"] == alone + len(pictures), "the test engine sees one token in each"
