"""The menu behind the model's state: which models there are, and what is in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.ui import model_menu


def answer_of(app: App, language: str = "en") -> dict[str, Any]:
    server = FastAPI()
    model_menu.add_route(server, app)
    answer: dict[str, Any] = TestClient(server).get("/models/list", params={"lang": language}).json()
    return answer


def test_models_are_listed_with_their_sizes_and_why_one_cannot_be_loaded(
    make_app: Callable[..., App], small_models: Path
) -> None:
    app = make_app()
    english, chinese = answer_of(app, "en"), answer_of(app, "zh")
    problems = {model["name"]: model["problem"] for model in english["models"]}
    assert sorted(problems) == ["cut.gguf", "other.gguf", "tiny-7B.gguf"]
    assert problems["other.gguf"] == "" and "cut.gguf" in problems["cut.gguf"]
    assert all(model["size"].endswith("B") for model in english["models"])
    assert english["models"] != chinese["models"], "problems are in the language of the page"
    assert english["status"]["state"] == "empty" and english["owner"]


def test_guests_are_told_that_they_cannot_load(make_app: Callable[..., App]) -> None:
    assert answer_of(make_app("--multi-user"))["owner"] is False
