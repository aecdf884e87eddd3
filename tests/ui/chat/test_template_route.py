"""The page's script learns which template the loaded model uses, and what it may set in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.ui.chat import template_route
from tests.support import echo_plans

SWITCH = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}"


def client_of(app: App) -> TestClient:
    server = FastAPI()
    template_route.add_route(server, app)
    return TestClient(server)


def test_without_a_model_there_is_nothing_to_set(make_app: Callable[..., App]) -> None:
    answer = client_of(make_app()).get("/chat/template")
    assert answer.status_code == 200
    assert answer.json() == {"model": "", "template": None, "kwargs": []}


def test_the_variables_of_the_loaded_model_s_template_are_listed(make_app: Callable[..., App]) -> None:
    app = make_app()
    plan = echo_plans.plan()
    app.models.load(dataclasses.replace(plan, record=dataclasses.replace(plan.record, chat_template=SWITCH)))
    assert client_of(app).get("/chat/template").json() == {
        "model": "good",
        "template": {"origin": "model", "name": ""},
        "kwargs": [{"name": "enable_thinking", "kind": "bool", "default": False}],
    }


def test_of_a_template_file_only_the_name_is_told(make_app: Callable[..., App], tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(SWITCH)
    app = make_app("--chat-template-file", str(file))
    echo_plans.load(app.models)
    answer = client_of(app).get("/chat/template").json()
    assert answer["template"] == {"origin": "flag", "name": "mine.jinja"}


def test_a_chosen_template_that_is_gone_is_reported_in_the_language_of_the_page(make_app: Callable[..., App]) -> None:
    app = make_app()
    echo_plans.load(app.models)
    app.model_settings.set("good", "instruction_template", "no such template")
    for language, words in (("en", "it cannot be used"), ("zh", "无法使用")):
        answer = client_of(app).get("/chat/template", params={"lang": language})
        assert answer.status_code == 409 and words in answer.json()["error"]
