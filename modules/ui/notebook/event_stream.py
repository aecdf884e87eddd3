"""Tell an open Notebook page, as Server-Sent Events, what changes in its text and in the list of texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modules.app import App
from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.notebook.errors import NotebookNotFound
from modules.notebook.runs import RunState
from modules.notebook.store import NotebookStore
from modules.ui.handlers import Page
from modules.ui.notebook.view import progress_line, token_json
from modules.ui.server_events import PING, News, Waker, event_bytes


class NotebookStream:
    """The events of one page that shows the text `name`, "" for none."""

    def __init__(self, app: App, page: Page, store: NotebookStore, name: str) -> None:
        self._app, self._page, self._store, self._name = app, page, store, name
        self._listed: tuple[int, set[str]] | None = None
        self._shown: Json = None
        self._sent_text = self._sent_tokens = 0  # of the run
        self._line = ""
        self._ended: RunState | None = app.notebook_runs.last(store, name)

    async def events(self) -> AsyncIterator[bytes]:
        """Yield events for as long as the page is connected."""
        waker = Waker()

        def on_run(store: NotebookStore, name: str, begun_or_ended: bool) -> None:
            if store is self._store and (begun_or_ended or name == self._name):
                waker.wake()

        ends = (self._store.subscribe(lambda _name: waker.wake()), self._app.notebook_runs.listen(on_run))
        try:
            while True:
                waker.begin()
                for name, body in await asyncio.to_thread(self.news):
                    yield event_bytes(name, body)
                if not await waker.wait():  # meanwhile another program may have changed the file
                    yield PING
        finally:
            for end in ends:
                end()

    def news(self) -> News:
        """Return what the page does not have yet."""
        return [*self._list_news(), *self._text_news()]

    def _list_news(self) -> News:
        listed = (self._store.version, self._app.notebook_runs.running(self._store))
        if listed == self._listed:
            return []
        self._listed = listed
        return [("list", {"version": listed[0], "running": sorted(listed[1])})]

    def _text_news(self) -> News:
        if not self._name:
            return []
        run = self._app.notebook_runs.state(self._store, self._name)
        ended = self._app.notebook_runs.last(self._store, self._name) if run is None else None
        if run is not None:
            return [*self._state_news(running=True), *self._live(run)]
        news: News = []
        if ended is not None and ended is not self._ended:
            news += [*self._live(ended), ("ended", self._end(ended))]
            self._ended = ended
        self._sent_text = self._sent_tokens = 0
        return [*news, *self._state_news(running=False)]

    def _state_news(self, running: bool) -> News:
        """Return the revision of the text, if it has changed. That of one being written changes with every save."""
        state: dict[str, Json] = {"name": self._name, "running": running}
        if not running:
            try:
                state["rev"] = self._store.read(self._name).rev
            except NotebookNotFound:
                state = {"name": self._name, "gone": True}
            except WebUIError as error:
                state["problem"] = error.say(self._page.language)
        if state == self._shown:
            return []
        self._shown = state
        return [("state", state)]

    def _live(self, run: RunState) -> News:
        """Return what has been written since the last event. The last token may have grown meanwhile."""
        line, tokens = progress_line(run, self._page), run.tokens or ()
        if len(run.text) == self._sent_text and line == self._line:
            return []
        first = max(0, min(self._sent_tokens, len(tokens)) - 1)
        body = {
            "start": run.start,
            "from": self._sent_text,
            "text": run.text[self._sent_text :],
            "first_token": first,
            "tokens": list(map(token_json, tokens[first:])),
            "line": line,
        }
        self._sent_text, self._sent_tokens, self._line = len(run.text), len(tokens), line
        return [("live", body)]

    def _end(self, run: RunState) -> Json:
        error = run.error.say(self._page.language) if run.error else ""
        return {"line": progress_line(run, self._page), "error": error}
