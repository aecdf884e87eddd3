"""A server on the page: refused without its key, then connected, saved, loaded and answering in the chat."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.conftest import opened
from tests.support.fake_server import FakeServer, Reply, Request, data, stream
from tests.support.gguf_files import gguf

KEY = "sk-secret"


def models(request: Request) -> Reply:
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return Reply(401, json={"error": {"message": "Invalid API key."}})
    return Reply(json={"object": "list", "data": [{"id": "org/clever-7b"}, {"id": "small"}]})


def answer() -> Reply:
    pieces = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("Green", " tea.")]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return stream(*map(data, [*pieces, end]), b"data: [DONE]")


def test_a_server_becomes_a_model_that_answers(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "settings.yaml").touch()
    (tmp_path / "models" / "other.gguf").write_bytes(gguf())  # without any model the page leads to a first one
    with FakeServer() as server, opened(chromium, tmp_path, "n_ctx", "en", 390) as window:
        server.add("/v1/models", models)
        server.add("/v1/chat/completions", answer())
        page = window.page
        page.locator("#tx-connect > button").click()
        page.locator("#tx-connect-address").get_by_role("textbox").fill(server.url.removeprefix("http://"))
        page.locator("#tx-connect-test").click()
        expect(page.locator("#tx-connect-result")).to_contain_text("Invalid API key.")
        expect(page.locator("#tx-connect-save")).to_be_hidden()
        key = page.locator("#tx-connect-key input")
        key.fill(KEY)
        page.locator("#tx-connect-test").click()
        expect(page.locator("#tx-connect-result")).to_contain_text("OpenAI API")
        expect(page.locator("#tx-connect-name").get_by_role("textbox")).to_have_value("clever-7b")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#tx-connect-save").click()
        expect(page.locator("#tx-connect-saved")).to_contain_text("models/clever-7b.server.yaml")
        expect(page.locator("#tx-pill .tx-ready")).to_contain_text("clever-7b.server.yaml")
        expect(key).to_have_value("")
        expect(page.locator("#tx-status")).to_contain_text(server.url)
        page.locator("#tx-status .tx-to-chat").click()
        page.locator("#tx-input").fill("What do you drink?")
        page.locator("#tx-input").press("Enter")
        expect(page.locator(".tx-msg.tx-bot .tx-body").last).to_have_text("Green tea.")
        request = server.requests[-1]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.json()["messages"][-1] == {"role": "user", "content": "What do you drink?"}
    assert KEY not in (tmp_path / "server.log").read_text()
