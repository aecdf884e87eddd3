"""The page: one Gradio app a language, side by side on one port, sharing everything but their words."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from modules.app import App
from modules.config.flags import logins
from modules.core.errors import LANGUAGES
from modules.ui import status_feed
from modules.ui.chat.tab import ChatTab
from modules.ui.downloads.panel import DownloadsPanel
from modules.ui.gradio_import import gradio
from modules.ui.gradio_patches import calm_frames, calm_queue, calm_search
from modules.ui.handlers import PRIVATE, Shared, Updates
from modules.ui.locales import TITLE, translator
from modules.ui.model.llamacpp_hf_creator import CreatorPanel
from modules.ui.model.options_card import LOADER_CSS, SWITCH_LOADER
from modules.ui.model.tab import ModelTab
from modules.ui.parameters.tab import PARAMETERS_CSS, ParametersTab
from modules.ui.status_feed import News
from modules.ui.widgets import html
from modules.ui.widgets.icons import THEME

gr = gradio()

HERE = Path(__file__).parent
LANGUAGE_COOKIE = "tx-language"
FONTS = ["system-ui", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "Menlo", "monospace"]


def build(app: App, language: str) -> Any:
    """The page in one language, as a `gradio.Blocks`."""
    tr = translator(language)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        # In the browser, not in a State of the server's: what was drawn last need not be what was sent last.
        seen = gr.Number(-1, precision=0, visible=False)
        with gr.Column(elem_id="tx-page"):
            with gr.Row(elem_id="tx-header"):
                gr.HTML(f'<div class="tx-brand">{TITLE}</div>')
                pill = gr.HTML(html.pill(app.models.status, tr), elem_id="tx-pill")
                gr.HTML(_links(language))
            with gr.Tabs(elem_id="tx-tabs"):
                with gr.Tab(tr("chat"), id="chat"):
                    chat_tab = ChatTab(app, language)
                with gr.Tab(tr("parameters"), id="parameters"):
                    parameters_tab = ParametersTab(app, language)
                with gr.Tab(tr("model"), id="model"):
                    truncation = parameters_tab.widgets["truncation_length"]
                    model_tab = ModelTab(app, language, Shared(pill, seen, chat_tab.bot, truncation))
                    downloads = DownloadsPanel(app, language, model_tab)
                    CreatorPanel(app, language, model_tab)
        chat_tab.listen(parameters_tab)
        latest = News(app, language)
        look = _look(chat_tab, model_tab, seen, downloads, latest)
        latest.button.click(**look, queue=False, **PRIVATE)
        page.load(**look, queue=False, **PRIVATE)
        page.load(*model_tab.loras.on_page_load, queue=False, **PRIVATE)
        page.load(*parameters_tab.on_page_load, queue=False, **PRIVATE)
        page.load(*downloads.on_page_load, queue=False, **PRIVATE)
        opened = page.load(*model_tab.on_page_load, queue=False, **PRIVATE)
        opened.then(None, model_tab.loader, None, js=SWITCH_LOADER, show_progress="hidden")
        opened.then(**model_tab.explained, **PRIVATE)
    page.queue(default_concurrency_limit=8, api_open=False)
    calm_queue(page)
    return page


def _look(chat_tab: ChatTab, model_tab: ModelTab, seen: Any, downloads: DownloadsPanel, latest: News) -> dict[str, Any]:
    """What the page asks for when there is news, in one go: what has happened to the model, the downloads and the
    set-up."""
    notices = [chat_tab.notice.part, model_tab.notice.part]

    def look(model_seen: int, jobs_seen: object, in_chat: object, in_model: object) -> Updates:
        told = {latest.shown: latest.now()}
        changed = told | model_tab.look(model_seen) | downloads.poll(jobs_seen)
        return changed | model_tab.notice.update(in_model) | chat_tab.look(in_chat)

    return {
        "fn": look,
        "inputs": [seen, downloads.seen, *notices],
        "outputs": [*model_tab.live, *downloads.polled, *notices, latest.shown],
    }


def _links(language: str) -> str:
    tr = translator(language)
    other = next(each for each in LANGUAGES if each != language)
    return (
        f'<div id="tx-gone" role="alert" hidden>{escape(tr("gone"))}</div>'
        f'<div class="tx-links"><button id="tx-theme" type="button" title="{escape(tr("theme"))}" '
        f'aria-label="{escape(tr("theme"))}">{THEME}</button>'
        f'<a id="tx-language" href="/language/{other}">{escape(tr("other_language"))}</a></div>'
    )


def attach(server: FastAPI, app: App) -> None:
    """Add the page to `server`: at /zh and /en, with / leading to one of them."""
    css = (HERE / "style.css").read_text(encoding="utf-8") + LOADER_CSS + PARAMETERS_CSS
    theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=FONTS, font_mono=MONO)
    calm_frames()
    calm_search(server)
    _add_routes(server, app)
    status_feed.add_route(server, app)
    for language in LANGUAGES:
        gr.mount_gradio_app(
            server,
            build(app, language),
            path=f"/{language}",
            auth=logins(app.flags) or None,
            theme=theme,
            css=css,
            head=_head(language, app.settings.current.theme),
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            show_error=True,
        )


def _head(language: str, theme: str) -> str:
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return f'<script data-language="{language}" data-theme="{theme}">{script}</script>'


def _add_routes(server: FastAPI, app: App) -> None:
    @server.get("/", include_in_schema=False)
    def choose_language(request: Request) -> Response:
        return RedirectResponse(f"/{preferred_language(request, app.settings.current.language)}/")

    @server.get("/language/{language}", include_in_schema=False)
    def switch_language(language: str) -> Response:
        language = language if language in LANGUAGES else LANGUAGES[0]
        response = RedirectResponse(f"/{language}/")
        response.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86400, samesite="lax", httponly=True)
        return response

    @server.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return FileResponse(HERE / "favicon.svg", media_type="image/svg+xml")


def preferred_language(request: Request, setting: str) -> str:
    """By the switch the user last used, else by settings.yaml, else by what the browser asks for, Chinese or not."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen in LANGUAGES:
        return str(chosen)
    if setting in LANGUAGES:
        return setting
    wishes = request.headers.get("accept-language", "").lower().split(",")
    first = next((wish.strip()[:2] for wish in wishes if wish.strip()[:2] in LANGUAGES), "en")
    return first
