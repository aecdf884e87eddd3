"""Tell open pages whether anything they show has changed. A page polls a digest, and asks Gradio only if that changed.

Every event of Gradio's updates all components that it may change, changed or not: a third of a second of work, in the
server and in the browser together. Polling by such events, an unused page would take a fifth of a core.
"""

from __future__ import annotations

import hashlib

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from modules.app import App
from modules.ui.downloads.job_list import shown_jobs
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.locales import supported, translator
from modules.ui.preparation_notice import greeting, notice
from modules.ui.widgets.option_form import Component

gr = gradio()


def digest(app: App, language: str) -> str:
    """Return a short hash that changes whenever the model, the downloads or the preparation look different."""
    prepared = notice(app, language, translator(language))
    shown = (app.models.status.version, shown_jobs(app), prepared, greeting(app))
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def add_route(server: FastAPI, app: App) -> None:
    """Answer `GET /status/<language>` with the digest."""

    @server.get("/status/{language}", include_in_schema=False)
    def news(language: str) -> PlainTextResponse:
        return PlainTextResponse(digest(app, supported(language)), headers={"Cache-Control": "no-store"})


class StatusFeed:
    """The digest of what the page shows, and the hidden button that page.js presses when the server's differs."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.shown: Component = gr.HTML("", elem_id="tx-digest", visible="hidden")
        self.button: Component = gr.Button(elem_id="tx-refresh-page", visible="hidden")

    def digest(self) -> str:
        """Return the value of `shown`."""
        return f'<i data-digest="{digest(self._page.app, self._page.language)}"></i>'
