"""Bounds on Gradio's routes, in front of a small page of Gradio's and of a stand-in for its queue."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.ui import gradio_gate
from modules.ui.gradio_gate import GradioGate, keep_uploads_in, log_refusals, remove_uploads, takes_files
from modules.ui.gradio_import import gradio

gr = gradio()


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    """A page with a menu, at /en."""
    with gr.Blocks(analytics_enabled=False) as page:
        menu = gr.Dropdown(["a", "b"])
        gr.Button().click(lambda choice: choice, menu, menu, api_name="choose")
    server = FastAPI()
    log_refusals()
    server.add_middleware(GradioGate, pages={"/en": page})
    gr.mount_gradio_app(server, page.queue(max_size=2), path="/en", ssr_mode=False)
    with TestClient(server, raise_server_exceptions=False) as http:
        yield http


@pytest.mark.parametrize("route", ["upload", "upload/", "component_server", "proxy=http://x/", "process_recording"])
def test_routes_that_no_component_needs_are_refused(http: TestClient, route: str) -> None:
    files = {"files": ("x.txt", b"x")}
    assert http.post(f"/en/gradio_api/{route}", files=files).status_code == 403


def test_other_paths_are_passed_on(http: TestClient) -> None:
    assert http.get("/en/config").status_code == http.get("/en/gradio_api/info").status_code == 200


@pytest.mark.parametrize("body", [{"data": ["c"]}, {"data": []}, {"data": [{"a": 1}]}])
def test_a_refused_event_is_one_line_and_no_traceback(
    http: TestClient, body: dict[str, object], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        assert http.post("/en/gradio_api/run/choose", json=body).status_code >= 400
    assert all(getattr(record, "brief", False) for record in caplog.records)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_an_event_of_an_unknown_function_is_one_line(http: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        answer = http.post("/en/gradio_api/queue/join", json={"data": [], "fn_index": 99, "session_hash": "s"})
    assert answer.status_code >= 400
    assert all(getattr(record, "brief", False) for record in caplog.records)


def test_all_but_the_printing_of_tracebacks_stays_as_it_was(http: TestClient) -> None:
    assert gr.queueing.traceback.format_exc is traceback.format_exc
    assert gr.queueing.traceback.print_exc is not traceback.print_exc


def test_a_page_with_a_file_button_takes_files() -> None:
    with gr.Blocks() as page:
        gr.Button()
    assert not takes_files(page)
    with gr.Blocks() as page:
        gr.UploadButton()
    assert takes_files(page)


# -- events nobody listens to ------------------------------------------------------------------------------------------


class Queue:
    """The parts of Gradio's queue that are used."""

    def __init__(self) -> None:
        self.pending_event_ids_session: dict[str, set[str]] = {}
        self.pending_messages_per_session: dict[str, object] = {}
        self.cleaned: list[str] = []

    async def clean_events(self, session_hash: str) -> None:
        self.cleaned.append(session_hash)


def test_events_whose_results_nobody_asks_for_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradio_gate, "LISTEN_SECONDS", 0.05)
    queue = Queue()

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        if str(scope["path"]).endswith("join"):
            session = json.loads((await receive())["body"])["session_hash"]
            queue.pending_event_ids_session[session] = queue.pending_messages_per_session[session] = {"event"}
        else:
            await asyncio.sleep(0.5)

    async def visit() -> None:
        gate = GradioGate(app, {"/en": SimpleNamespace(_queue=queue)})
        scope = {"type": "http", "path": "/en/gradio_api/queue/join"}

        async def join(session: str) -> None:
            body = json.dumps({"session_hash": session}).encode()

            async def receive() -> dict[str, object]:
                return {"type": "http.request", "body": body}

            await gate(scope, receive, None)

        await join("heard")
        await join("unheard")
        data = {**scope, "path": "/en/gradio_api/queue/data", "query_string": b"session_hash=heard"}
        listening = asyncio.create_task(gate(data, None, None))
        await asyncio.sleep(0.2)
        listening.cancel()

    asyncio.run(visit())
    assert queue.cleaned == ["unheard"]
    assert set(queue.pending_messages_per_session) == {"heard"}


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_uploads_of_this_process_and_of_killed_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    ended = subprocess.Popen(["true"])
    ended.wait()
    others, own = tmp_path / str(ended.pid), tmp_path / str(os.getpid())
    others.mkdir()
    keep_uploads_in(tmp_path)
    assert os.environ["GRADIO_TEMP_DIR"] == str(own) and not others.exists()
    own.mkdir()
    remove_uploads(tmp_path)
    assert not own.exists()
