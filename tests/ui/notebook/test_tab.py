"""What the notebook's script asks for over the bridge, on a model: probabilities, picked tokens, what comes next."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.core.prompt import Prompt
from modules.loaders import generation_settings
from modules.runtime.model_manager import ModelManager
from modules.ui.chat.visitors import Visitors
from modules.ui.handlers import Page
from modules.ui.notebook import routes
from modules.ui.notebook.tab import NotebookTab
from modules.ui.parameters.tab import ParametersTab
from tests.support.echo_plans import wait_until
from tests.support.notebook_model import tiny_plan
from tests.support.page_parts import page_parts

STORY = "Once upon a time there was a cat 🐱 who"


class Notebook:
    """A page of the notebook: what its script sends, and what it is answered."""

    def __init__(self, app: App) -> None:
        self.app = app
        with page_parts():
            page, visitors = Page(app, "en"), Visitors(app)
            self._tab, parameters = NotebookTab(page, visitors), ParametersTab(page, visitors.store)
            self._tab.listen(parameters)
        server = FastAPI()
        routes.add_routes(server, app, visitors)
        self.http = TestClient(server)
        self._widgets = parameters.widgets

    def ask(self, action: str, **sent: Any) -> dict[str, Any]:
        """Send a request and return the answer, once what it began has ended."""
        settings = {"temperature": 0, "max_new_tokens": 12, "ban_eos_token": True} | sent.pop("settings", {})
        values = {widget: settings.get(key, widget.value) for key, widget in self._widgets.items()}
        request: Any = SimpleNamespace(request=SimpleNamespace(scope={}))
        event: Any = SimpleNamespace(_data={"n": 1, "action": action, "name": "x", **sent})
        answer: dict[str, Any] = json.loads(self._tab.ask(values, event, request)[self._tab.bridge])
        wait_until(lambda: not self.app.notebook_runs.running(self.app.notebooks), 20)
        return answer

    def text(self) -> dict[str, Any]:
        return self.http.get("/notebook/x/text").json()

    def candidates(self, passage: int, token: int) -> dict[str, Any]:
        return self.http.get(f"/notebook/x/candidates?passage={passage}&token={token}").json()


@pytest.fixture(scope="module")
def loaded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelManager]:
    manager = ModelManager()
    manager.load(tiny_plan(tiny))
    yield manager
    manager.unload()


@pytest.fixture
def notebook(make_app: Callable[..., App], loaded: ModelManager) -> Iterator[Notebook]:
    app = make_app()
    own, app.models = app.models, loaded
    app.notebooks.create(STORY, "x")
    yield Notebook(app)
    app.models = own  # the model stays for the next test


def test_an_embedding_model_is_asked_for_nothing(notebook: Notebook) -> None:
    model = notebook.app.models.current
    info, model.info = model.info, dataclasses.replace(model.info, task="embed")
    try:
        for action in ("generate", "next"):
            assert "is an embedding model" in notebook.ask(action, at=-1)["error"]
    finally:
        model.info = info
    assert notebook.text()["text"] == STORY


def test_the_probabilities_shown_are_those_of_the_engine(notebook: Notebook) -> None:
    assert notebook.ask("generate", at=-1) == {"n": 1, "started": "x"}
    (passage,) = notebook.text()["passages"]
    raw = {"temperature": 0, "max_new_tokens": 12, "ban_eos_token": True}
    events = notebook.app.models.current.generate(Prompt(STORY), generation_settings.resolve(raw, (), 10))
    expected = [one for event in events for one in getattr(event, "logprobs", ())]
    assert len(expected) == len(passage["tokens"]) == 12
    assert [logprob for _, logprob, _ in passage["tokens"]] == pytest.approx(
        [one.chosen.logprob for one in expected], abs=1e-4
    )
    for number in (0, 6, 11):
        shown = notebook.candidates(passage["start"], number)["candidates"]
        assert [one["id"] for one in shown] == [one.id for one in expected[number].top]
        assert [one["logprob"] for one in shown] == pytest.approx(
            [one.logprob for one in expected[number].top], abs=1e-4
        )


def test_a_clicked_candidate_cuts_the_text_there_and_the_model_goes_on(notebook: Notebook) -> None:
    notebook.ask("generate", at=-1)
    before = notebook.text()
    (passage,) = before["passages"]
    other = next(one for one in notebook.candidates(passage["start"], 3)["candidates"][1:] if one["pickable"])
    notebook.ask("pick", passage=passage["start"], token=3, candidate=other["id"], rev=before["rev"])
    after = notebook.text()
    begun = STORY + "".join(text for text, _, _ in passage["tokens"][:3]) + other["text"]
    assert after["text"].startswith(begun) and len(after["passages"][0]["tokens"]) == 4 + 12
    assert notebook.http.post("/notebook/x/undo", json={"rev": after["rev"]}).json()["text"] == before["text"]


def test_the_next_token_is_shown_before_and_after_the_samplers(notebook: Notebook) -> None:
    found = notebook.ask("next", at=-1, settings={"temperature": 1, "top_k": 3, "min_p": 0})["next"]
    assert len(found["plain"]) == 50 and len(found["sampled"]) == 3
    assert sum(chance for _, _, chance in found["sampled"]) == pytest.approx(1, abs=1e-6)
    assert [one[0] for one in found["plain"][:3]] == [one[0] for one in found["sampled"]]
    assert notebook.text()["text"] == STORY


def test_the_prompt_is_counted_up_to_the_cursor(notebook: Notebook) -> None:
    model = notebook.app.models.current
    for at in (-1, 16, 10**9):
        text = STORY[:at] if at == 16 else STORY
        assert notebook.ask("count", at=at)["fit"]["tokens"] == len(model.ask("encode", text=text))
    assert notebook.ask("count", at=-1)["fit"]["fills"] is False


def test_tokens_of_a_text_are_listed_with_their_bytes(notebook: Notebook) -> None:
    pieces = notebook.http.post("/notebook/pieces", json={"text": STORY}).json()["pieces"]
    said = b"".join(bytes.fromhex(piece[2]) for piece in pieces)
    assert STORY.encode() in said
    assert any(not piece[1] for piece in pieces), "the cat is several tokens"


def test_what_is_not_valid_is_refused_and_changes_nothing(notebook: Notebook, subtests: pytest.Subtests) -> None:
    for action, sent, word in (
        ("dance", {}, "one of"),
        ("generate", {"name": "absent"}, "no longer exists"),
        ("generate", {"name": 5}, "no longer exists"),
        ("generate", {"rev": "other"}, "changed elsewhere"),
        ("regenerate", {}, "nothing to regenerate"),
        ("pick", {"passage": "0", "token": None, "candidate": True}, "no longer in the text"),
        ("generate", {"settings": {"temperature": -1}}, "emperature"),
    ):
        with subtests.test(action=action, sent=str(sent)):
            answer = notebook.ask(action, **sent)
            assert word in answer["error"] and "started" not in answer
    assert notebook.text()["text"] == STORY


def test_without_a_model_nothing_changes_and_the_page_may_load_one(make_app: Callable[..., App]) -> None:
    app = make_app()
    app.notebooks.create(STORY, "x")
    answer = Notebook(app).ask("generate", at=-1)
    assert answer["error"] and "load" in answer
    assert app.notebooks.read("x").text == STORY
