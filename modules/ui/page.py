"""Build the page in one language from its tabs."""

from __future__ import annotations

from html import escape
from typing import Any

from modules.app import App
from modules.core.product import PRODUCT
from modules.ui.chat.tab import ChatTab
from modules.ui.chat.visitors import Visitors
from modules.ui.downloads.panel import DownloadsPanel
from modules.ui.gradio_gate import MAX_QUEUED
from modules.ui.gradio_import import gradio
from modules.ui.gradio_patches import skip_statistics, slow_queue_polling
from modules.ui.handlers import STALE_MENU, Page, Updates
from modules.ui.model import model_html
from modules.ui.model.connect_panel import ConnectPanel
from modules.ui.model.llamacpp_hf_creator import CreatorPanel
from modules.ui.model.loading import ModelFollowers
from modules.ui.model.tab import ModelTab
from modules.ui.model.template_editor import TemplateEditor
from modules.ui.model_menu import ModelMenu
from modules.ui.notebook.tab import NotebookTab
from modules.ui.parameters.tab import ParametersTab
from modules.ui.session.tab import SessionTab
from modules.ui.status_feed import StatusFeed
from modules.ui.training.tab import TrainingTab
from modules.ui.widgets.icons import CLOSE, MENU, PARAMETERS

gr = gradio()


def build(app: App, language: str, visitors: Visitors) -> Any:
    """Return the page in one language, as a `gradio.Blocks`."""
    page = Page(app, language)
    with gr.Blocks(title=PRODUCT, analytics_enabled=False) as blocks:
        # Kept by the browser, not by a `gr.State` of the server: what was sent last may not have been drawn.
        version = gr.Number(-1, precision=0, visible=False)
        with gr.Column(elem_id="tx-page"):
            with gr.Row(elem_id="tx-header"):
                gr.HTML(_title(page), elem_id="tx-header-start")
                pill = gr.HTML(model_html.pill(page.status, page.tr), elem_id="tx-pill")
                gr.HTML(_parameters_button(page), elem_id="tx-header-end")
            # The tab bar is hidden: static/shell.js selects the tabs.
            with gr.Tabs(elem_id="tx-tabs"):
                with gr.Tab(page.tr("chat"), id="chat", elem_id="tx-page-chat"):
                    chat = ChatTab(page, visitors)
                with gr.Tab(page.tr("characters"), id="characters", elem_id="tx-page-characters"):
                    gr.HTML("<div data-characters></div>", elem_id="tx-characters-root")  # see static/characters.js
                with gr.Tab(page.tr("notebook"), id="notebook", elem_id="tx-page-notebook"):
                    notebook = NotebookTab(page, visitors)
                with gr.Tab(page.tr("training"), id="training", elem_id="tx-page-training"):
                    TrainingTab()
                with gr.Tab(page.tr("parameters"), id="parameters", elem_id="tx-page-parameters"):
                    gr.HTML(_drawer_head(page), elem_id="tx-drawer-head")
                    chat.build_system_message()
                    parameters = ParametersTab(page, visitors.store)
                with gr.Tab(page.tr("model"), id="model", elem_id="tx-page-model"):
                    truncation = parameters.widgets["truncation_length"]
                    model = ModelTab(page, ModelFollowers(pill, version, chat.greeting, truncation))
                    templates = TemplateEditor(page, model, parameters.widgets["negative_prompt"])
                    downloads = DownloadsPanel(page, model)
                    ConnectPanel(page, model)
                    CreatorPanel(page, model)
                with gr.Tab(page.tr("session"), id="session", elem_id="tx-page-session") as session_tab:
                    session = SessionTab(page)
            menu = ModelMenu(page)
        chat.listen(parameters)
        notebook.listen(parameters)
        model.attach_first_run(chat.first_run, model.first_run)
        menu.listen(model, version)
        templates.follow_menu(model)
        session.listen(session_tab.select, parameters.widgets)
        _refresh_on_news(page, blocks, chat, model, version, downloads)
        for part in (model.loras, parameters, downloads, model):
            part.on_page_load(blocks.load)
    blocks.queue(default_concurrency_limit=8, max_size=MAX_QUEUED, api_open=False)
    slow_queue_polling(blocks)
    skip_statistics(blocks)
    return blocks


def _refresh_on_news(
    page: Page, blocks: Any, chat: ChatTab, model: ModelTab, version: Any, downloads: DownloadsPanel
) -> None:
    """Update, in one event, all that the model, the downloads and the preparation change on an open page."""
    feed, jobs = StatusFeed(page), downloads.jobs
    notices, cards = [chat.notice.part, model.notice.part], [chat.first_run, model.first_run]

    def refresh(
        shown_version: int,
        shown_jobs: object,
        chat_notice: object,
        model_notice: object,
        picked: object,
        *first: object,
    ) -> Updates:
        digest = {feed.shown: feed.digest()}  # taken first, so that a change meanwhile is noticed the next time
        changed = digest | model.loading.refresh_view(shown_version) | jobs.refresh(shown_jobs)
        for card, shown in zip(cards, first, strict=True):
            changed |= card.update(picked, shown)
        return changed | model.notice.update(model_notice) | chat.refresh(chat_notice)

    parts = [card.part for card in cards]
    reads = [version, jobs.digest, *notices, model.card.model, *parts]
    writes = [*model.loading.writes, *jobs.writes, *notices, feed.shown, *parts]
    for event in (feed.button.click, blocks.load):
        page.on(event, refresh, reads, writes, queue=False, **STALE_MENU)


def _title(page: Page) -> str:
    """Render the beginning of the header. static/shell.js writes the title."""
    name = escape(page.tr("open_sidebar"))
    return (
        f'<div id="tx-offline" role="alert" hidden>{escape(page.tr("offline"))}</div>'
        '<button id="tx-open-menu" type="button" class="tx-icon-button" aria-expanded="false" '
        f'aria-label="{name}" title="{name}">{MENU}</button>'
        f'<span id="tx-main-start" tabindex="-1"></span><h1 id="tx-title"></h1>'
    )


def _parameters_button(page: Page) -> str:
    name = escape(page.tr("toggle_parameters"))
    return (
        '<button id="tx-toggle-parameters" type="button" class="tx-icon-button" aria-controls="tx-page-parameters" '
        f'aria-expanded="false" aria-label="{name}" title="{name}">{PARAMETERS}</button>'
    )


def _drawer_head(page: Page) -> str:
    """Render the heading of the parameters where they are a drawer beside the chat."""
    close = escape(page.tr("close_parameters"))
    return (
        f'<h2>{escape(page.tr("parameters"))}</h2><button id="tx-close-parameters" type="button" '
        f'class="tx-icon-button" aria-label="{close}" title="{close}">{CLOSE}</button>'
    )
