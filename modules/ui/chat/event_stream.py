"""Tell an open page, as Server-Sent Events, what changes in its conversation and in the list of conversations."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from modules.app import App
from modules.conversations.errors import ConversationNotFound
from modules.conversations.store import ConversationStore
from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.snapshot import ConversationView
from modules.ui.handlers import Page

FLUSH_SECONDS = 0.09
"""Shortest time between two events. A page that draws each token would take the processor that decodes them."""
PING_SECONDS = 15.0


class EventStream:
    """The events of one page that shows the conversation `id`, "" for none."""

    def __init__(self, app: App, page: Page, store: ConversationStore, renderer: Renderer, id: str) -> None:
        self._app, self._page, self._store, self._id = app, page, store, id
        self._view = ConversationView(page, renderer)
        self._listed: tuple[int, set[str]] | None = None
        self._rev: int | None = None
        self._live_message = ""
        self._failure: object = None

    async def events(self) -> AsyncIterator[bytes]:
        """Yield events for as long as the page is connected."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        waiting = False  # only one wake-up is under way, however many tokens arrive

        def wake() -> None:
            nonlocal waiting
            if not waiting and not loop.is_closed():
                waiting = True
                loop.call_soon_threadsafe(changed.set)

        ends = (self._store.subscribe(lambda id: wake()), self._app.runs.listen(wake))
        try:
            while True:
                started = time.monotonic()
                waiting = False
                for name, body in await asyncio.to_thread(self._news):
                    yield _event(name, body)
                await asyncio.sleep(max(0.0, FLUSH_SECONDS - (time.monotonic() - started)))
                try:
                    await asyncio.wait_for(changed.wait(), PING_SECONDS)
                except asyncio.TimeoutError:
                    yield b": still here\n\n"
                changed.clear()
        finally:
            for end in ends:
                end()

    def _news(self) -> list[tuple[str, Json]]:
        news: list[tuple[str, Json]] = []
        listed = (self._store.version, self._app.runs.running(self._store))
        if listed != self._listed:
            self._listed = listed
            news.append(("list", {"version": listed[0], "running": sorted(listed[1])}))
        if not self._id or self._app.runs.is_starting(self._store, self._id):
            return news
        run = self._app.runs.state(self._store, self._id)
        failure = self._app.runs.failure(self._store, self._id)
        try:
            conversation = self._store.read(self._id)
        except ConversationNotFound:
            return [*news, ("gone", {"id": self._id})]
        except WebUIError as error:
            return [*news, ("conversation", {"id": self._id, "problem": self._page.alert(error)})]
        rev = conversation.rev
        message = run.message if run else ""
        expected = run.rev if run and self._live_message == message else None
        if (rev != self._rev and rev != expected) or message != self._live_message or failure is not self._failure:
            self._rev, self._live_message, self._failure = rev, message, failure
            news.append(("conversation", self._view.snapshot(conversation, run, failure)))
        elif run:
            self._rev = rev
        if run and message:
            news.append(("live", self._view.live(run)))
        return news


def _event(name: str, body: Json) -> bytes:
    return f"event: {name}\ndata: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode(
        "utf-8", "replace"
    )
