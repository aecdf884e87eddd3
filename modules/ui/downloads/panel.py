"""The download panel below the Model page: files of a repository, the download jobs, and the download settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from modules.downloads.view import JobView
from modules.ui.downloads.file_chooser import FileChooser
from modules.ui.downloads.hub_search import HubSearch
from modules.ui.downloads.job_cards import title
from modules.ui.downloads.job_list import JobList
from modules.ui.downloads.settings import DownloadSettings
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model.tab import ModelTab

gr = gradio()


class DownloadsPanel:
    """Created below the Model page, whose menus it updates when a download has finished."""

    def __init__(self, page: Page, model_tab: ModelTab) -> None:
        with gr.Column(elem_id="tx-downloads", elem_classes="tx-card"):
            self.search = HubSearch(page)
            self.chooser = FileChooser(page)
            self.jobs = JobList(page)
            self.settings = DownloadSettings(page)
        self.chooser.listen(self.jobs, self.settings.sha256, self.search)
        self._page, self._app, self._tab = page, page.app, model_tab
        model_tab.load_on(self.jobs.jobs.load_model, self.load)
        finished = self.jobs.jobs.end
        model_tab.update_menu(finished, model_tab.picker.list_models, [model_tab.card.model])
        model_tab.loras.update_list(finished)

    async def load(self, values: Values, event: gr.EventData) -> AsyncIterator[Updates]:  # type: ignore[name-defined]
        """Load the model of a finished download. Raises ModelNotFound if its files are no longer there."""
        view = self.jobs.find(event)
        async for updates in self._tab.actions.load_named(values, self._model_name(view)):
            yield updates

    def _model_name(self, view: JobView) -> str:
        target = self._app.downloads.install_target(view.spec)
        files = view.spec.files or ()
        paths = {target.root / target.path_in_root(file) for file in files}
        for record in self._app.catalog.models():
            in_folder = bool(view.spec.target) and record.path.is_relative_to(target.final)
            if in_folder or not paths.isdisjoint(record.files):
                return record.name
        return title(view)

    def on_page_load(self, load: Any) -> None:
        """Fill the panel when the page is opened, by the event `load`."""
        self.settings.on_page_load(load)
