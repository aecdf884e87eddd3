"""Build the page in one language from its tabs."""

from __future__ import annotations

from html import escape
from typing import Any

from modules.app import App
from modules.core.errors import LANGUAGES
from modules.core.product import PRODUCT
from modules.ui.chat.tab import ChatTab
from modules.ui.downloads.panel import DownloadsPanel
from modules.ui.gradio_gate import MAX_QUEUED
from modules.ui.gradio_import import gradio
from modules.ui.gradio_patches import slow_queue_polling
from modules.ui.handlers import Page, Updates
from modules.ui.model import model_html
from modules.ui.model.llamacpp_hf_creator import CreatorPanel
from modules.ui.model.loading import ModelFollowers
from modules.ui.model.tab import ModelTab
from modules.ui.parameters.tab import ParametersTab
from modules.ui.status_feed import StatusFeed
from modules.ui.widgets.icons import THEME

gr = gradio()


def build(app: App, language: str) -> Any:
    """Return the page in one language, as a `gradio.Blocks`."""
    page = Page(app, language)
    with gr.Blocks(title=PRODUCT, analytics_enabled=False) as blocks:
        # Kept by the browser, not by a `gr.State` of the server: what was sent last may not have been drawn.
        version = gr.Number(-1, precision=0, visible=False)
        with gr.Column(elem_id="tx-page"):
            with gr.Row(elem_id="tx-header"):
                gr.HTML(f'<div class="tx-brand">{PRODUCT}</div>')
                pill = gr.HTML(model_html.pill(app.models.status, page.tr), elem_id="tx-pill")
                gr.HTML(_links(page))
            with gr.Tabs(elem_id="tx-tabs"):
                with gr.Tab(page.tr("chat"), id="chat"):
                    chat = ChatTab(page)
                with gr.Tab(page.tr("parameters"), id="parameters"):
                    parameters = ParametersTab(page)
                with gr.Tab(page.tr("model"), id="model"):
                    truncation = parameters.widgets["truncation_length"]
                    model = ModelTab(page, ModelFollowers(pill, version, chat.chatbot, truncation))
                    downloads = DownloadsPanel(page, model)
                    CreatorPanel(page, model)
        chat.listen(parameters)
        _refresh_on_news(page, blocks, chat, model, version, downloads)
        for part in (model.loras, parameters, downloads, model):
            part.on_page_load(blocks.load)
    blocks.queue(default_concurrency_limit=8, max_size=MAX_QUEUED, api_open=False)
    slow_queue_polling(blocks)
    return blocks


def _refresh_on_news(
    page: Page, blocks: Any, chat: ChatTab, model: ModelTab, version: Any, downloads: DownloadsPanel
) -> None:
    """Update, in one event, all that the model, the downloads and the preparation change on an open page."""
    feed, jobs = StatusFeed(page), downloads.jobs
    notices = [chat.notice.part, model.notice.part]

    def refresh(shown_version: int, shown_jobs: object, chat_notice: object, model_notice: object) -> Updates:
        digest = {feed.shown: feed.digest()}  # taken first, so that a change meanwhile is noticed the next time
        changed = digest | model.loading.refresh_view(shown_version) | jobs.refresh(shown_jobs)
        return changed | model.notice.update(model_notice) | chat.refresh(chat_notice)

    reads = [version, jobs.digest, *notices]
    writes = [*model.loading.writes, *jobs.writes, *notices, feed.shown]
    for event in (feed.button.click, blocks.load):
        page.on(event, refresh, reads, writes, queue=False)


def _links(page: Page) -> str:
    tr = page.tr
    other = next(language for language in LANGUAGES if language != page.language)
    return (
        f'<div id="tx-offline" role="alert" hidden>{escape(tr("offline"))}</div>'
        f'<div class="tx-links"><button id="tx-theme" type="button" title="{escape(tr("theme"))}" '
        f'aria-label="{escape(tr("theme"))}">{THEME}</button>'
        f'<a id="tx-language" href="/language/{other}">{escape(tr("other_language"))}</a></div>'
    )
