"""The download panel below the Model tab: files of a repository, the download jobs, and the download settings."""

from __future__ import annotations

from typing import Any

from modules.ui.downloads.file_chooser import FileChooser
from modules.ui.downloads.job_list import JobList
from modules.ui.downloads.settings import DownloadSettings
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.tab import ModelTab

gr = gradio()


class DownloadsPanel:
    """Created below the Model tab, whose menus it updates when a download has finished."""

    def __init__(self, page: Page, model_tab: ModelTab) -> None:
        with gr.Column(elem_id="tx-downloads", elem_classes="tx-card"):
            self.chooser = FileChooser(page)
            self.jobs = JobList(page)
            self.settings = DownloadSettings(page)
        self.chooser.listen(self.jobs, self.settings.sha256)
        finished = self.jobs.jobs.end
        model_tab.update_menu(finished, model_tab.picker.list_models, [model_tab.card.model])
        model_tab.loras.update_list(finished)

    def on_page_load(self, load: Any) -> None:
        """Fill the panel when the page is opened, by the event `load`."""
        self.settings.on_page_load(load)
