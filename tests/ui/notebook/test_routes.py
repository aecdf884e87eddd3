"""The routes of the notebook's script: they check everything, and answer errors in the language of the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.core.events import Logprob
from modules.loaders import generation_settings
from modules.notebook.notebook import Notebook, Token, continued
from modules.ui.chat import routes as chat_routes
from modules.ui.chat.visitors import Visitors
from modules.ui.notebook import routes
from tests.support import echo_plans
from tests.support.echo_plans import wait_until


def client_of(app: App) -> TestClient:
    server, visitors = FastAPI(), Visitors(app)
    routes.add_routes(server, app, visitors)
    chat_routes.add_routes(server, app, visitors)
    return TestClient(server)


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def generated(notebook: Notebook) -> Notebook:
    """Write " two" at the end of the text, as a model would."""
    tokens = (Token(7, " tw", -0.5, (Logprob(" tw", -0.5, 7), Logprob("\ufffd", -2.0, 8))), Token(9, "o", -0.1))
    return notebook.changed(continued(notebook.state, len(notebook.text)).state(" two", tokens))


def posted(http: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/notebook/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text_is_sent_from_the_chat_saved_undone_and_redone(app: App, http: TestClient) -> None:
    created = posted(http, "new", text="one")
    name, rev = created["id"], created["rev"]
    rev = posted(http, f"{name}/save", text="one!", rev=rev)["rev"]
    app.notebooks.change(name, rev, generated)
    shown = http.get(f"/notebook/{name}/text").json()
    assert (shown["text"], shown["undo"], shown["redo"], shown["last"]) == ("one! two", 1, 0, [4, 8])
    assert shown["passages"] == [{"start": 4, "fills": False, "tokens": [[" tw", -0.5, True], ["o", -0.1, True]]}]
    undone = posted(http, f"{name}/undo", rev=shown["rev"])
    assert (undone["text"], undone["redo"]) == ("one!", 1)
    assert posted(http, f"{name}/redo", rev=undone["rev"])["text"] == "one! two"


def test_candidates_come_with_what_can_be_picked(app: App, http: TestClient) -> None:
    app.notebooks.create("one", "x")
    app.notebooks.change("x", None, generated)
    answer = http.get("/notebook/x/candidates?passage=3&token=0").json()
    assert (answer["id"], answer["text"], answer["logprob"]) == (7, " tw", -0.5)
    assert [(one["id"], one["pickable"]) for one in answer["candidates"]] == [(7, True), (8, False)]
    for query in ("passage=3&token=2", "passage=3&token=-1", "passage=2&token=0"):
        assert http.get(f"/notebook/x/candidates?{query}").status_code == 409


def test_a_second_tab_gets_the_fresh_text_and_can_keep_its_own(app: App, http: TestClient) -> None:
    rev = app.notebooks.create("one", "x").rev
    posted(http, "x/save", text="theirs", rev=rev)
    refused = http.post("/notebook/x/save?lang=zh", json={"text": "mine", "rev": rev})
    assert refused.status_code == 409 and "别处" in refused.json()["error"]
    fresh = http.get("/notebook/x/text").json()
    assert fresh["text"] == "theirs"
    kept = posted(http, "x/save", text="mine", rev=fresh["rev"], step=True)
    assert posted(http, "x/undo", rev=kept["rev"])["text"] == "theirs"


def test_texts_are_listed_renamed_deleted_and_restored(app: App, http: TestClient) -> None:
    posted(http, "new", text="Tall towers", name="towers")
    posted(http, "new", text="Flour", name="bread")
    assert posted(http, "towers/rename", name="lights")["id"] == "lights"
    listed = http.get("/notebook/list").json()
    assert {one["name"] for one in listed["texts"]} == {"lights", "bread"} and listed["kept"]
    (found,) = http.get("/notebook/list?q=tall").json()["texts"]
    assert (found["name"], found["running"]) == ("lights", False)
    posted(http, "lights/delete")
    assert len(http.get("/notebook/list").json()["texts"]) == 1
    posted(http, "lights/restore")
    assert http.get("/notebook/lights/text").json()["text"] == "Tall towers"


def test_bad_requests_are_refused_in_the_language_of_the_page(app: App, http: TestClient) -> None:
    rev = app.notebooks.create("one", "x").rev
    for path, body, status in (
        ("absent/save", {"text": "x"}, 404),
        (".history~/undo", {}, 404),
        ("x/save", {"text": 5}, 400),
        ("x/save", {"text": "x", "more": 1}, 400),
        ("x/save", {"text": "x" * 2_000_001}, 400),
        ("x/save", {"text": "x", "rev": 5}, 400),
        ("x/undo", {}, 409),
        ("x/redo", {"rev": rev}, 409),
        ("x/rename", {"name": "a/b"}, 400),
        ("x/restore", {}, 404),
        ("new", {"text": "x", "name": "a/b"}, 400),
    ):
        answer = http.post(f"/notebook/{path}?lang=en", json=body)
        assert (answer.status_code, bool(answer.json()["error"])) == (status, True), (path, answer.text)
    form = http.post("/notebook/x/save", content="text=x", headers={"Content-Type": "text/plain"})
    assert form.status_code == 400, "a form of another site could send it"
    assert "不存在" in http.post("/notebook/absent/undo?lang=zh", json={}).json()["error"]
    assert app.notebooks.read("x").text == "one"


def test_markdown_of_a_text_is_rendered_and_escaped(http: TestClient) -> None:
    answer = posted(http, "render", text="# Title\n\n<img src=x onerror=alert(1)>")
    assert answer["whole"] and len(answer["blocks"]) == 2 and "<img" not in "".join(answer["blocks"])
    assert not posted(http, "render", text="x" * 200_001)["whole"]


def test_a_text_that_is_being_written_can_be_stopped(app: App, http: TestClient) -> None:
    model = echo_plans.load(app.models)
    app.notebooks.create("slow count 200 ", "x")
    params = generation_settings.resolve({"max_new_tokens": 10})
    app.notebook_runs.start(app.notebooks, "x", None, lambda state: continued(state, len(state.text)), model, params)
    assert posted(http, "x/stop") == posted(http, "missing/stop") == {}
    wait_until(lambda: app.notebook_runs.last(app.notebooks, "x"))
    assert app.notebook_runs.last(app.notebooks, "x").reason == "cancelled"


def test_without_a_model_there_are_no_tokens(http: TestClient) -> None:
    answer = http.post("/notebook/pieces?lang=en", json={"text": "one"})
    assert answer.status_code >= 400 and "model" in answer.json()["error"]


def test_prompts_are_read_and_those_of_the_owner_are_not_for_guests(
    make_app: Callable[..., App], tmp_path: Path
) -> None:
    app = make_app("--multi-user")
    one, other = client_of(app), client_of(app)
    for guest in (one, other):
        assert guest.get("/notebook/list").json() == {"texts": [], "prompts": [], "kept": False, "version": 0}
        assert guest.get("/notebook/prompt?name=Alpaca").status_code == 404
    app.notebooks.create("of the owner", "secret")
    posted(one, "new", text="mine", name="x")
    assert one.get("/notebook/x/text").json()["text"] == "mine"
    assert other.get("/notebook/x/text").status_code == one.get("/notebook/secret/text").status_code == 404
    assert not (tmp_path / "logs" / "notebook" / "x.txt").exists()
