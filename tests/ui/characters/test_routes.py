"""The routes of characters and personas."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.characters import png
from modules.characters.character import Character
from modules.characters.personas import Persona
from modules.ui.characters import routes
from tests.support.cards import V2, V3, png_file, text_chunk


def client_of(app: App) -> TestClient:
    server = FastAPI()
    routes.add_routes(server, app)
    return TestClient(server)


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def imported(http: TestClient, card: dict[str, Any]) -> str:
    return str(http.post("/characters/import?name=a.png", content=png_file(text_chunk("ccv3", card))).json()["id"])


def edited(form: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return what the editor sends after it has shown `form`."""
    sent = {key: form[key] for key in form if key not in ("creator_notes", "picture", "png", "owner")}
    known = ("index", "keys", "content", "constant", "enabled", "order")
    sent["lorebook"] = [{key: entry[key] for key in known} for entry in form["lorebook"]]
    return {**sent, **changes}


def test_characters_are_listed_and_searched(app: App, http: TestClient) -> None:
    app.characters.save(Character("", "Bo", "A cook from Lyon."))
    app.characters.save(Character("", "Ann", "A pilot."))
    (app.characters.folder / "bad.yaml").write_text("name: [", encoding="utf-8")

    def names(query: str) -> list[str]:
        return [one["name"] for one in http.get("/characters/list", params={"q": query}).json()["characters"]]

    assert names("") == ["Ann", "bad", "Bo"]
    assert names("lyon COOK") == ["Bo"]
    answer = http.get("/characters/list?lang=zh").json()
    assert answer["owner"] is True
    assert "第 2 行" in answer["characters"][1]["problem"]


def test_the_editor_shows_a_card_and_saving_it_unchanged_changes_nothing(app: App, http: TestClient) -> None:
    id = imported(http, V3)
    form = http.get(f"/characters/{id}/form").json()
    assert (form["name"], form["greetings"][1], form["owner"]) == ("Countess", "Good evening.", True)
    assert form["creator_notes"].startswith("Runs best")
    assert form["lorebook"][0]["keys"] == ["engine"]
    assert http.post("/characters/save", json=edited(form)).status_code == 200
    assert http.get(f"/characters/{id}/export?format=json").json() == V3


def test_an_edited_entry_of_the_lorebook_keeps_what_the_editor_does_not_show(http: TestClient) -> None:
    id = imported(http, V2)
    form = http.get(f"/characters/{id}/form").json()
    entry = {**edited(form)["lorebook"][0], "keys": ["engine", " loom "], "order": 5}
    added = {"index": None, "keys": ["rain"], "content": "It rains.", "constant": False, "enabled": True, "order": 1}
    answer = http.post("/characters/save", json=edited(form, lorebook=[entry, added]))
    assert answer.status_code == 200
    book = http.get(f"/characters/{id}/export?format=json").json()["data"]["character_book"]
    old = V2["data"]["character_book"]
    assert book["entries"][0] == {**old["entries"][0], "keys": ["engine", "loom"], "insertion_order": 5}
    assert book["entries"][1]["content"] == "It rains."
    assert book["extensions"] == old["extensions"]


def test_a_new_character_is_saved_under_an_id_of_its_own(app: App, http: TestClient) -> None:
    form = {
        "id": "", "name": " Bo ", "context": "c", "greetings": ["", "Hi", " "], "examples": "", "system_prompt": "",
        "post_history": "", "user_name": "", "lorebook": [],
    }  # fmt: skip
    assert http.post("/characters/save", json=form).json()["id"] == "Bo"
    assert http.post("/characters/save", json=form).json()["id"] == "Bo 2"
    assert app.characters.read("Bo") == Character("Bo", "Bo", "c", ("Hi",))
    refused = http.post("/characters/save?lang=zh", json={**form, "name": " "})
    assert refused.status_code == 400 and "名称" in refused.json()["error"]


def test_a_change_in_another_window_is_not_overwritten_unless_asked_for(app: App, http: TestClient) -> None:
    app.characters.save(Character("", "Bo", "one"))
    form = http.get("/characters/Bo/form").json()
    assert http.post("/characters/save", json=edited(form, context="two")).status_code == 200
    assert http.post("/characters/save", json=edited(form, context="three")).status_code == 409
    assert app.characters.read("Bo").context == "two"
    assert http.post("/characters/save", json=edited(form, context="three", version=None)).status_code == 200


def test_a_deleted_character_can_be_restored(http: TestClient) -> None:
    id = imported(http, V2)
    assert http.post(f"/characters/{id}/delete", json={}).status_code == 200
    assert http.get(f"/characters/{id}/form").status_code == 404
    assert http.post(f"/characters/{id}/restore", json={}).status_code == 200
    assert http.get(f"/characters/{id}/form").json()["name"] == "Ada"


def test_the_bin_is_listed_and_emptied(app: App, http: TestClient) -> None:
    for name in ("Bo", "Ann"):
        app.characters.save(Character("", name))
        http.post(f"/characters/{name}/delete", json={})
    assert sorted(http.get("/characters/bin").json()["deleted"]) == ["Ann", "Bo"]
    assert http.get("/characters/list").json()["bin"] == 2
    http.post("/characters/bin/empty", json={})
    assert http.get("/characters/bin").json() == {"deleted": []}
    assert http.post("/characters/Bo/restore", json={}).status_code == 404


def test_pictures_are_served_as_what_they_are(app: App, http: TestClient) -> None:
    id = imported(http, V2)
    answer = http.get(f"/characters/{id}/picture")
    assert answer.headers["content-type"] == "image/png" and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == png_file()
    before = app.characters.picture_version(id)
    changed = http.post(f"/characters/{id}/picture", content=png.blank_picture(4, 4)).json()["picture"]
    assert changed not in ("", before)
    assert http.post(f"/characters/{id}/picture", content=b"<svg onload=alert(1)>").status_code == 422
    app.characters.save(Character("", "Bo"))
    assert http.get("/characters/Bo/picture").status_code == 404


def test_exports_have_the_name_of_the_character(app: App, http: TestClient) -> None:
    app.characters.save(Character("", "阿岑", "c"))
    answer = http.get("/characters/阿岑/export?format=yaml")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%E9%98%BF%E5%B2%91.yaml"
    assert http.get("/characters/阿岑/export?format=exe").status_code == 422
    drawn = http.post("/characters/阿岑/card", content=png.blank_picture(7, 7)).content
    assert png.without_card(drawn) == png.blank_picture(7, 7) and png.read_card(drawn)["data"]["name"] == "阿岑"
    assert png.read_card(http.get("/characters/阿岑/export?format=png").content)["spec"] == "chara_card_v3"


def test_an_import_says_what_is_wrong_or_to_be_known(http: TestClient) -> None:
    refused = http.post("/characters/import?name=x.png&lang=zh", content=png_file())
    assert refused.status_code == 422 and "角色卡" in refused.json()["error"]
    newer = json.dumps({**V2, "spec_version": "2.1"}).encode()
    assert "2.1" in http.post("/characters/import?name=x.json", content=newer).json()["warnings"][0]


def test_the_example_is_there_in_both_languages(app: App, http: TestClient) -> None:
    ids = [http.post(f"/characters/example?lang={language}", json={}).json()["id"] for language in ("en", "zh")]
    for id in ids:
        character = app.characters.read(id)
        assert len(character.greetings) == 2 and character.lorebook is not None and "{{user}}" in character.context


def test_personas_are_saved_listed_deleted_and_restored(http: TestClient) -> None:
    assert http.post("/personas/save", json={"id": "", "name": "Ann", "bio": "A pilot."}).json() == {"id": "Ann"}
    http.post("/personas/save", json={"id": "Ann", "name": "Anne", "bio": "A pilot."})
    assert http.get("/personas/list").json() == {
        "personas": [{"id": "Ann", "name": "Anne", "bio": "A pilot.", "problem": ""}],
        "owner": True,
        "bin": 0,
    }
    http.post("/personas/Ann/delete", json={})
    assert http.get("/personas/bin").json() == {"deleted": ["Ann"]}
    assert http.get("/personas/list").json()["personas"] == []
    http.post("/personas/Ann/restore", json={})
    assert len(http.get("/personas/list").json()["personas"]) == 1
    assert http.post("/personas/save", json={"id": "", "name": "", "bio": ""}).status_code == 400


def test_guests_read_but_change_nothing(make_app: Callable[..., App], subtests: pytest.Subtests) -> None:
    app = make_app("--multi-user")
    app.characters.save(Character("", "Bo", "c"))
    http = client_of(app)
    form = http.get("/characters/Bo/form").json()
    assert http.get("/characters/list").json()["owner"] is False
    requests: dict[str, Any] = {
        "/characters/save": edited(form), "/characters/Bo/delete": {}, "/characters/Bo/restore": {},
        "/characters/bin/empty": {}, "/characters/example": {}, "/characters/import?name=a": {},
        "/characters/Bo/picture": {}, "/personas/save": {"id": "", "name": "x", "bio": ""}, "/personas/x/delete": {},
        "/personas/x/restore": {}, "/personas/bin/empty": {},
    }  # fmt: skip
    for path, body in requests.items():
        with subtests.test(path):
            assert http.post(path, json=body).status_code == 403
    assert http.get("/characters/Bo/form").json() == form


def test_guests_do_not_see_the_personas_of_the_owner(make_app: Callable[..., App]) -> None:
    app = make_app("--multi-user")
    app.personas.save(Persona("", "Ann", "A pilot."))
    app.personas.save(Persona("", "Bea", "A nurse."))
    app.personas.delete("Bea")
    http = client_of(app)
    assert http.get("/personas/list").json() == {"personas": [], "owner": False, "bin": 0}
    assert http.get("/personas/bin").status_code == http.get("/characters/bin").status_code == 403


def test_fields_of_the_wrong_type_or_size_are_refused(app: App, http: TestClient, subtests: pytest.Subtests) -> None:
    app.characters.save(Character("", "Bo"))
    form = http.get("/characters/Bo/form").json()
    entry = {"index": 0, "keys": [], "content": "", "constant": False, "enabled": True, "order": 0}
    cases: dict[str, Any] = {
        "name": 3, "context": "x" * 2_000_001, "greetings": "x", "lorebook": [{**entry, "order": "1"}], "extra": 1,
    }  # fmt: skip
    for key, value in cases.items():
        with subtests.test(key):
            assert http.post("/characters/save", json=edited(form, **{key: value})).status_code == 400
