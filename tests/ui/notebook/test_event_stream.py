"""An open page hears of every change of its text once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.loaders import generation_settings
from modules.notebook.notebook import Beginning, State, continued
from modules.notebook.runs import RunState
from modules.ui.handlers import Page
from modules.ui.notebook.event_stream import NotebookStream
from modules.ui.notebook.view import progress_line
from modules.ui.server_events import News
from tests.support import echo_plans
from tests.support.echo_plans import wait_until

PARAMS = generation_settings.resolve({"max_new_tokens": 10})


@pytest.fixture
def app(make_app: Callable[..., App]) -> Iterator[App]:
    app = make_app()
    echo_plans.load(app.models)
    yield app


def stream_of(app: App) -> NotebookStream:
    return NotebookStream(app, Page(app, "en"), app.notebooks, "x")


def at_end(state: State) -> Beginning:
    return continued(state, len(state.text))


def bodies(news: News, kind: str) -> list[dict[str, Any]]:
    return [body for name, body in news if name == kind]


def test_nothing_is_told_twice(app: App) -> None:
    rev = app.notebooks.create("apple ", "x").rev
    stream = stream_of(app)
    assert bodies(stream.news(), "state") == [{"name": "x", "running": False, "rev": rev}]
    assert stream.news() == []
    changed = app.notebooks.change("x", rev, lambda notebook: notebook.typed("pear "))
    assert bodies(stream.news(), "state") == [{"name": "x", "running": False, "rev": changed.rev}]
    app.notebooks.delete("x")
    assert bodies(stream.news(), "state") == [{"name": "x", "gone": True}]


def test_what_is_written_comes_in_pieces_and_then_its_end(app: App) -> None:
    app.notebooks.create("slow count 40 ", "x")
    stream = stream_of(app)
    stream.news()
    app.notebook_runs.start(app.notebooks, "x", None, at_end, app.models.current, PARAMS)
    news_so_far: News = []

    def has_ended() -> bool:
        news_so_far.extend(stream.news())
        if len(news_so_far) > 3:
            app.notebook_runs.stop(app.notebooks, "x")
        return bool(bodies(news_so_far, "ended"))

    wait_until(has_ended)
    news_so_far += stream.news()
    assert bodies(news_so_far, "state")[0]["running"] is True and bodies(news_so_far, "state")[-1]["running"] is False
    text = ""
    for piece in bodies(news_so_far, "live"):
        assert piece["start"] == len("slow count 40 ")
        text = text[: piece["from"]] + piece["text"]
    assert app.notebooks.read("x").text == "slow count 40 " + text
    assert bodies(news_so_far, "ended")[0]["error"] == "" and "stopped" in bodies(news_so_far, "ended")[0]["line"]


def test_a_page_that_comes_later_gets_all_that_is_written_but_no_old_end(app: App) -> None:
    app.notebooks.create("apple fail ", "x")
    first = stream_of(app)
    app.notebook_runs.start(app.notebooks, "x", None, at_end, app.models.current, PARAMS)
    wait_until(lambda: not app.notebook_runs.running(app.notebooks))
    (ended,) = bodies(first.news(), "ended")
    assert ended["error"]
    assert bodies(stream_of(app).news(), "ended") == []


def test_the_list_is_told_when_it_changes(app: App) -> None:
    app.notebooks.create("one", "x")
    stream = stream_of(app)
    version = bodies(stream.news(), "list")[0]["version"]
    app.notebooks.rename("x", "y")
    (listed,) = bodies(stream.news(), "list")
    assert listed["version"] > version and listed["running"] == []


def test_a_text_that_cannot_be_read_any_more_is_shown_with_the_reason(app: App, tmp_path: Path) -> None:
    app.notebooks.create("apple ", "x")
    stream = stream_of(app)
    stream.news()
    (file,) = tmp_path.rglob("x.txt")
    file.write_bytes(b"abc\xff")
    (state,) = bodies(stream.news(), "state")
    assert "rev" not in state and "UTF-8" in state["problem"] and "x.txt" in state["problem"]
    assert stream.news() == []


def test_what_keeps_a_text_waiting_is_told(app: App) -> None:
    page = Page(app, "en")
    assert "2" in progress_line(RunState("x", 0, State(""), phase="waiting", position=2), page)
    assert "50" in progress_line(RunState("x", 0, State(""), phase="reading", progress=0.5), page)
