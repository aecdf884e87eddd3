"""The list of download jobs: its updates, and the buttons of each job."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from modules.app import App
from modules.core.errors import WebUIError
from modules.downloads.errors import DownloadNotFound
from modules.downloads.view import JobView
from modules.ui.downloads import job_cards
from modules.ui.downloads.settings import OPEN_SETTINGS
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates
from modules.ui.sent_values import sent_by
from modules.ui.widgets.option_form import Component

gr = gradio()

_SCRIPT = (Path(__file__).parent / "download_jobs.js").read_text(encoding="utf-8")


def shown_jobs(app: App) -> tuple[JobView, ...]:
    """Return the downloads that the page shows: none to guests, who have no say in them."""
    return () if app.flags.on("multi_user") else app.downloads.snapshot()


class JobList:
    """Created inside the current Gradio container. `jobs` emits `end` when a download has finished.

    `digest` holds which list of jobs the page shows; `writes` are the components that `refresh` updates.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        self._finished = 0
        self._elsewhere: set[str] = set()
        self.jobs: Component = gr.HTML("", elem_id="tx-dl-jobs", js_on_load=_SCRIPT + OPEN_SETTINGS)
        self.error: Component = gr.HTML("", elem_id="tx-dl-error")
        self.digest: Component = gr.JSON({}, visible=False)
        self.writes = [self.jobs, self.digest]
        page.app.downloads.on_done(self._count_finished)
        writes = [*self.writes, self.error]
        page.on(self.jobs.click, self.act, None, writes, failed=self._act_failed, owner_only=True, queue=False)

    def refresh(self, digest: object) -> Updates:
        """Show the jobs if they look different from those with the `digest` that the page has."""
        views = shown_jobs(self._app)
        self._notice_vanished(views)
        html = job_cards.jobs(views, self._finished, self._page.language, self._page.tr)
        current = {"digest": hashlib.sha256(html.encode()).hexdigest()[:16]}
        if current == digest:
            return dict.fromkeys(self.writes, gr.skip())
        return {self.jobs: html, self.digest: current}

    def act(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Pause, resume, cancel or remove a job, by a button of its card."""
        sent = sent_by(event)
        action = self._actions.get(str(sent.get("act")))
        if action is not None:
            action(str(sent.get("job")))
        return self.refresh(None) | {self.error: ""}

    def find(self, event: gr.EventData) -> JobView:  # type: ignore[name-defined]
        """Return the job whose button was pressed. Raises DownloadNotFound."""
        sent = sent_by(event)
        view = next((view for view in shown_jobs(self._app) if view.id == sent.get("job")), None)
        if view is None:
            raise DownloadNotFound(str(sent.get("job")))
        return view

    def _act_failed(self, error: WebUIError) -> Updates:
        return self.refresh(None) | {self.error: self._page.alert(error)}

    @property
    def _actions(self) -> dict[str, Callable[[str], None]]:
        downloads = self._app.downloads
        return {
            "pause": downloads.pause,
            "resume": downloads.resume,
            "cancel": downloads.cancel,
            "forget": downloads.forget,
            "keep": lambda job: downloads.resume(job, keep_commit=True),
            "restart": lambda job: downloads.resume(job, keep_commit=False),
        }

    def _count_finished(self) -> None:
        self._finished += 1

    def _notice_vanished(self, views: Sequence[JobView]) -> None:
        """Count jobs of another process that are no longer listed as finished, which they may well be."""
        before, self._elsewhere = self._elsewhere, {view.id for view in views if view.elsewhere}
        if before - {view.id for view in views}:
            self._count_finished()
