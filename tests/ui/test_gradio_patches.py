"""The patches of Gradio still apply, and are still needed."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.ui import gradio_patches
from modules.ui.gradio_import import gradio

gr = gradio()


def test_gradios_script_is_served_with_a_faster_component_search() -> None:
    """If this fails, a new Gradio has another script, and `speed_up_component_search` must be adapted or removed."""
    server = FastAPI()
    gradio_patches.speed_up_component_search(server)
    (path,) = [path for route in server.routes if "core-" in (path := getattr(route, "path", ""))]
    served = TestClient(server).get(path.format(language="en"))
    assert served.headers["content-type"].startswith("text/javascript")
    original = (Path(gr.__file__).parent / "templates/frontend/assets" / path.rpartition("/")[2]).read_text("utf-8")
    restored = served.text
    for original_part, patched_part in gradio_patches._REPLACEMENTS.items():
        assert restored.count(patched_part) == 1
        restored = restored.replace(patched_part, original_part)
    assert restored == original != served.text


def test_gradios_script_is_served_without_its_english_message_about_a_lost_connection() -> None:
    """If this fails, a new Gradio has another script, and `leave_out_lost_connections` must be adapted or removed."""
    server = FastAPI()
    gradio_patches.leave_out_lost_connections(server)
    (path,) = [path for route in server.routes if "Blocks-" in (path := getattr(route, "path", ""))]
    served = TestClient(server).get(path.format(language="zh")).text
    original = (Path(gr.__file__).parent / "templates/frontend/assets" / path.rpartition("/")[2]).read_text("utf-8")
    (message,) = gradio_patches._LOST
    assert "Connection Lost" in original and "Connection Lost" not in served
    before, after = original.split(message)
    assert served == before + after


def test_pages_are_built_without_apps_that_serve_nothing() -> None:
    """If the first assertion fails, Gradio makes no application before a page is mounted, and the patch can go."""
    with gr.Blocks(analytics_enabled=False) as plain:
        pass
    with gradio_patches.without_unused_apps(), gr.Blocks(analytics_enabled=False) as page:
        box = gr.Textbox("old")
        gr.Button().click(lambda: "new", None, box, api_name="change")
    assert isinstance(plain.app, FastAPI) and page.app is None
    server = FastAPI()
    gradio_patches.mount(server, page, "/en")
    assert page.app is server.routes[-1].app  # type: ignore[attr-defined]
    client = TestClient(server)
    assert [part["type"] for part in client.get("/en/config").json()["components"]][:2] == ["textbox", "button"]
    answer = client.post("/en/gradio_api/run/change", json={"data": [], "session_hash": "x"})
    assert answer.json()["data"] == ["new"]


def test_no_statistics_of_events_are_computed() -> None:
    """If the first assertion fails, a new Gradio computes them otherwise, and `skip_statistics` must be adapted."""
    with gr.Blocks(analytics_enabled=False) as page:
        pass
    assert (page._queue.ANAYLTICS_CACHE_FREQUENCY, page._queue.ANALYTICS_MAX_EVENTS) == (1, 10_000)
    gradio_patches.skip_statistics(page)
    page._queue.events_recorded = 1_000_000
    records = [{"function": "change", "status": "success", "process_time": 1.0}]
    assert page._queue.compute_analytics_summary(records) == {"functions": {}}
    assert page._queue.ANALYTICS_MAX_EVENTS < 1000
