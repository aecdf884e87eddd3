"""Chats in the page while streams.py fills the same program: the seconds from Enter to the first words of an answer."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from playwright.sync_api import Page, expect, sync_playwright
from program import ROOT

sys.path.insert(0, str(ROOT))
from scripts import system_packages

PAUSE_SECONDS, PATIENCE = 0.5, 60_000.0
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu"]


class PageChats:
    """A browser whose page sends one message after the other from `begin` until `end`, which returns their times."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ready, self._begun, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1, "page")
        self._times: Future[list[float]] = self._pool.submit(self._run)
        self._times.add_done_callback(lambda _: self._ready.set())
        self._ready.wait()

    def begin(self) -> None:
        self._begun.set()

    def end(self) -> list[float]:
        self._begun.set()
        self._ended.set()
        times = self._times.result()
        self._pool.shutdown()
        return times

    def _run(self) -> list[float]:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=system_packages.browser(), args=CHROMIUM_FLAGS)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{self._port}/")
            expect(page.locator("#tx-send")).to_be_visible(timeout=PATIENCE)
            _chat(page, 0)  # fonts, scripts and caches
            self._ready.set()
            self._begun.wait()
            times: list[float] = []
            while not self._ended.wait(PAUSE_SECONDS):
                times.append(_chat(page, len(times) + 1))
            return times


def _chat(page: Page, number: int) -> float:
    """Send a message, wait for the first words, and stop the answer. Return the seconds from Enter to the words."""
    page.locator("#tx-input").fill("Tell me about geese")
    began = time.monotonic()
    page.locator("#tx-input").press("Enter")
    answers = page.locator("#tx-messages .tx-bot .tx-body")
    expect(answers.nth(number)).to_contain_text("1", timeout=PATIENCE)
    seconds = time.monotonic() - began
    page.locator("#tx-stop").click()
    expect(page.locator("#tx-conversation.tx-answering")).to_have_count(0, timeout=PATIENCE)
    return seconds
