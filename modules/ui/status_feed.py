"""Whether anything that a page shows by itself has changed. The page asks for a digest; Gradio is asked only then.

An event of Gradio's brings every part up to date that it may change, changed or not: a third of a second of work, in
the server and in the browser together. A page that nobody uses would take a fifth of a core.
"""

from __future__ import annotations

import hashlib

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from modules.app import App
from modules.core.errors import LANGUAGES
from modules.ui.downloads.panel import shown_jobs
from modules.ui.gradio_import import gradio
from modules.ui.locales import translator
from modules.ui.preparation_notice import greeting, notice

gr = gradio()


def digest(app: App, language: str) -> str:
    """Return a short text that is another one whenever the model, the downloads or the preparation look otherwise."""
    prepared = notice(app, language, translator(language))
    shown = (app.models.status.version, shown_jobs(app), prepared, greeting(app))
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def add_route(server: FastAPI, app: App) -> None:
    """Answer `GET /news/<language>` with the digest."""

    @server.get("/news/{language}", include_in_schema=False)
    def news(language: str) -> PlainTextResponse:
        known = language if language in LANGUAGES else LANGUAGES[0]
        return PlainTextResponse(digest(app, known), headers={"Cache-Control": "no-store"})


class News:
    """The digest of what the page shows, and the button that page.js presses when the server's is another one."""

    def __init__(self, app: App, language: str) -> None:
        self._app, self._language = app, language
        self.shown = gr.HTML("", elem_id="tx-news", visible="hidden")
        self.button = gr.Button(elem_id="tx-look", visible="hidden")

    def now(self) -> str:
        """Return the value for `shown`. It is taken first, so that a change meanwhile is looked at once more."""
        return f'<i data-digest="{digest(self._app, self._language)}"></i>'
