"""The models in memory, as the page shows them, and the routes by which its owner changes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.catalog.record_reader import server_record
from modules.core.errors import both
from modules.core.prompt import Prompt
from modules.core.worker_errors import WorkerDied
from modules.formats.server_file import ServerFile
from modules.runtime.load_plan import LoadPlan
from modules.runtime.memory_room import MemoryRoom
from modules.runtime.model_manager import ModelManager
from modules.runtime.resident import Resident, State
from modules.runtime.status import Status
from modules.ui.handlers import Page
from modules.ui.locales import translator
from modules.ui.model import model_html, residents
from modules.ui.model.residents import facts
from modules.ui.model_menu import ModelMenu
from tests.support import echo_plans
from tests.support.echo_plans import wait_until
from tests.support.page_parts import page_parts


class Roomy(MemoryRoom):
    """Memory in which every model fits beside all others."""

    def fits(self, plan: LoadPlan, kept: Sequence[LoadPlan], evicted: Sequence[LoadPlan] = ()) -> bool:
        return True


@pytest.fixture
def app(make_app: Callable[..., App]) -> Iterator[App]:
    """An application with two models in memory, of which the page has chosen "second"."""
    app = make_app()
    app.models = ModelManager(room=Roomy())
    for name in ("first", "second"):
        echo_plans.load(app.models, name)
    yield app
    app.models.close()


def test_a_model_on_a_server_shows_its_address_and_not_the_memory_of_our_process(tmp_path: Path) -> None:
    record = server_record("a", tmp_path / "a.server.yaml", ServerFile("http://h:8080"))
    assert facts(Resident("a", "Remote", "ready", record, memory=1 << 30), "en")["facts"] == "Ready · Remote · h:8080"


def test_a_model_that_has_ended_is_told_from_one_that_did_not_load(tmp_path: Path) -> None:
    record = server_record("a", tmp_path / "a.server.yaml", ServerFile("http://h:8080"))
    for error, text in ((WorkerDied(-9, both("generating")), "Stopped · "), (None, "Load failed · ")):
        assert facts(Resident("a", "Remote", "failed", record, error=error), "en")["facts"].startswith(text)


def client_of(app: App) -> TestClient:
    server = FastAPI()
    residents.add_routes(server, app)
    return TestClient(server)


def shown(answer: Any) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in answer.json()["residents"]}


def test_all_models_in_memory_are_shown_and_the_chosen_one_first(app: App) -> None:
    answer = client_of(app).get("/residents")
    assert [(one["name"], one["state"], one["chosen"]) for one in answer.json()["residents"]] == [
        ("second", "ready", True),
        ("first", "ready", False),
    ]
    assert answer.json()["owner"] is True
    assert "MB" in shown(answer)["first"]["facts"] and "echo" in shown(answer)["first"]["facts"]


def test_a_model_that_generates_is_answering_until_it_ends(app: App) -> None:
    http = client_of(app)
    stop = app.models.current.start(Prompt("slow count 200"), {}, lambda event: None)
    assert shown(http.get("/residents"))["second"]["state"] == "answering"
    stop()
    wait_until(lambda: shown(http.get("/residents"))["second"]["state"] == "ready")


def test_a_resident_is_chosen_pinned_and_unloaded(app: App) -> None:
    http, before = client_of(app), app.models.status.version
    assert shown(http.post("/residents/choose", json={"name": "first"}))["first"]["chosen"]
    assert app.models.current.record.name == "first"
    assert shown(http.post("/residents/pin", json={"name": "second", "pinned": True}))["second"]["pinned"]
    assert list(shown(http.post("/residents/unload", json={"name": "first"}))) == ["second"]
    assert app.models.status.version > before, "open pages notice the change"


def test_what_does_not_exist_or_is_no_request_is_refused(app: App, subtests: pytest.Subtests) -> None:
    http = client_of(app)
    for path, body, status in (
        ("choose", {"name": "third"}, 404),
        ("pin", {"name": "third", "pinned": True}, 404),
        ("pin", {"name": "first", "pinned": "yes"}, 400),
        ("unload", {"name": ["first"]}, 400),
        ("unload", {"name": "first", "more": 1}, 400),
    ):
        with subtests.test(path=path, body=ascii(body)):
            assert http.post(f"/residents/{path}", json=body).status_code == status
    assert len(app.models.residents()) == 2


def test_guests_see_the_models_and_change_nothing(make_app: Callable[..., App], subtests: pytest.Subtests) -> None:
    app = make_app("--multi-user")
    echo_plans.load(app.models, "first")
    http = client_of(app)
    assert http.get("/residents").json()["owner"] is False
    for path, more in (("choose", {}), ("pin", {"pinned": True}), ("unload", {})):
        with subtests.test(path=path):
            assert http.post(f"/residents/{path}", json={"name": "first", **more}).status_code == 403
    assert [(one.state, one.pinned) for one in app.models.residents()] == [("ready", False)]


def resident(state: State, **fields: Any) -> Resident:
    return Resident("a", "Echo", state, echo_plans.record("a"), **fields)


def test_the_state_of_a_resident_is_said_in_both_languages(subtests: pytest.Subtests) -> None:
    for one, english, chinese in (
        (resident("loading", progress=0.256), "Loading 26%", "正在加载 26%"),
        (resident("ready", generations=2), "Answering (2)", "正在回答（2）"),
        (resident("ready", sleeps_in=3540.0), "Sleeps in 59 min", "59 分钟后休眠"),
        (resident("ready", sleeps_in=20.0), "Sleeps within a minute", "1 分钟内休眠"),
        (resident("ready", on_demand=True), "Loaded for a request", "应 API 请求加载"),
        (resident("asleep"), "Asleep", "休眠中"),
        (resident("failed"), "Load failed", "加载失败"),
        (resident("ready", is_reachable=False), "Unreachable", "无法连接"),
    ):
        with subtests.test(english):
            assert english in facts(one, "en")["facts"] and chinese in facts(one, "zh")["facts"]


def test_the_header_says_that_the_chosen_model_is_asleep(app: App) -> None:
    with app.models.request("second", keep_alive=0).result(timeout=5):
        pass
    wait_until(lambda: app.models.status.state == "asleep")
    page = Page(app, "en")
    pill = model_html.pill(app.models.status, page.tr)
    assert "tx-asleep" in pill and "second" in pill and "Asleep" in pill
    assert "second is asleep" in model_html.load_status(app.models.status, page.tr, "en")


def test_the_header_says_that_the_server_of_the_chosen_model_does_not_answer() -> None:
    for language, word, sentence in (("en", "Unreachable", "does not answer"), ("zh", "无法连接", "没有响应")):
        tr = translator(language)
        status = Status("ready", name="far", loader="Remote", is_reachable=False)
        assert word in model_html.pill(status, tr) and "tx-unreachable" in model_html.pill(status, tr)
        assert sentence in model_html.load_status(status, tr, language)
        there = dataclasses.replace(status, is_reachable=True)
        assert "unreachable" not in model_html.pill(there, tr) and sentence not in model_html.load_status(
            there, tr, "en"
        )


def test_picking_a_resident_in_the_menu_chooses_it_without_a_load(app: App) -> None:
    with page_parts():
        menu = ModelMenu(Page(app, "en"))
    menu._model = SimpleNamespace(card=SimpleNamespace(model="model"))  # type: ignore[assignment]
    event: Any = SimpleNamespace(_data={"name": "first"})
    assert menu.pick({}, event) == {menu._loads: False}
    assert app.models.current.record.name == "first"
