"""Tell an open page, as Server-Sent Events, what changes in its conversation and in the list of conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from modules.app import App
from modules.conversations.errors import ConversationNotFound
from modules.conversations.store import ConversationStore
from modules.core.errors import WebUIError
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.snapshot import ConversationView
from modules.ui.handlers import Page
from modules.ui.server_events import PING, News, Waker, event_bytes


class EventStream:
    """The events of one page that shows the conversation `id`, "" for none.

    It is in `store`, and the list shows those of `stores`. Of a draft that has ended already, only a page that
    `wants_draft` is told.
    """

    def __init__(
        self,
        app: App,
        page: Page,
        store: ConversationStore,
        renderer: Renderer,
        id: str,
        wants_draft: bool = False,
        stores: Sequence[ConversationStore] = (),
    ) -> None:
        self._app, self._page, self._store, self._id = app, page, store, id
        self._stores = stores or (store,)
        self._view = ConversationView(page, renderer)
        self._listed: tuple[int, set[str]] | None = None
        self._unread = True  # whether the conversation may have changed since it was read
        self._rev: int | None = None
        self._live_message = ""
        self._failure: object = None
        self._draft = app.runs.draft(store, id)
        if self._draft is not None and (wants_draft or self._draft.phase != "ended"):
            self._draft = None  # this page has not got any of it

    async def events(self) -> AsyncIterator[bytes]:
        """Yield events for as long as the page is connected."""
        waker = Waker()

        def on_change(id: str) -> None:
            if id in ("", self._id):
                self._unread = True
            waker.wake()

        def on_run(store: ConversationStore, id: str, begun_or_ended: bool) -> None:
            if store in self._stores and (begun_or_ended or id == self._id):
                waker.wake()

        ends = (*(store.subscribe(on_change) for store in self._stores), self._app.runs.listen(on_run))
        try:
            while True:
                waker.begin()
                news = self._live_news()
                for name, body in await asyncio.to_thread(self._news) if news is None else news:
                    yield event_bytes(name, body)
                if not await waker.wait():
                    self._unread = True  # another process may have changed the file
                    yield PING
        finally:
            for end in ends:
                end()

    def _list_news(self) -> News:
        running: set[str] = set().union(*map(self._app.runs.running, self._stores))
        listed = (version_of(self._stores), running)
        if listed == self._listed:
            return []
        self._listed = listed
        return [("list", {"version": listed[0], "running": sorted(listed[1])})]

    def _draft_news(self) -> News:
        draft = self._app.runs.draft(self._store, self._id)
        if draft is self._draft:
            return []
        self._draft = draft
        return [("draft", self._view.draft(draft))] if draft is not None else []

    def _live_news(self) -> News | None:
        """Return the news if they are no more than what has been written; None if the conversation must be read."""
        run = self._app.runs.state(self._store, self._id)
        if self._unread or (run.message if run else "") != self._live_message:
            return None
        return [*self._list_news(), *self._draft_news(), *([("live", self._view.live(run))] if run else [])]

    def _news(self) -> News:
        news = self._list_news()
        if not self._id or self._app.runs.is_starting(self._store, self._id):
            return news
        self._unread = False
        run = self._app.runs.state(self._store, self._id)
        failure = self._app.runs.failure(self._store, self._id)
        try:
            conversation = self._store.read(self._id)
        except ConversationNotFound:
            return [*news, ("gone", {"id": self._id})]
        except WebUIError as error:
            return [*news, ("conversation", {"id": self._id, "problem": self._page.alert(error)})]
        rev, message = conversation.rev, run.message if run else ""
        saved = run.rev if run and self._live_message == message else None  # by the run: the page has it already
        if rev not in (self._rev, saved) or message != self._live_message or failure is not self._failure:
            self._live_message, self._failure = message, failure
            shown = self._view.snapshot(conversation, run, failure)
            news.append(("conversation", {**shown, "incognito": self._store in self._stores[1:]}))
        self._rev = rev
        if run:
            news.append(("live", self._view.live(run)))
        return news + self._draft_news()


def version_of(stores: Sequence[ConversationStore]) -> int:
    """Return a number that grows whenever the list of these conversations changes."""
    return sum(store.version for store in stores)
