"""The web page: one Gradio app per language on one port, at /zh and /en, which share everything but their texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from modules.app import App
from modules.config.settings import AUTO, Settings
from modules.core.errors import LANGUAGES
from modules.core.paths import ROOT
from modules.ui import model_menu, status_feed
from modules.ui.characters import routes as character_routes
from modules.ui.chat import routes, template_route
from modules.ui.chat.visitors import Visitors
from modules.ui.gradio_gate import MAX_UPLOAD, GradioGate, keep_uploads_in, log_refusals, remove_uploads
from modules.ui.gradio_import import gradio
from modules.ui.gradio_patches import (
    leave_out_lost_connections,
    mount,
    slow_timer_frames,
    speed_up_component_search,
    without_unused_apps,
    write_head,
)
from modules.ui.locales import supported
from modules.ui.login import LoginGuard
from modules.ui.model import residents
from modules.ui.model.options_card import LOADER_CSS
from modules.ui.notebook import routes as notebook_routes
from modules.ui.page import build
from modules.ui.parameters.tab import PARAMETERS_CSS
from modules.ui.session import routes as session_routes
from modules.ui.static_files import StaticFiles, scale_text, scaled
from modules.ui.training import perplexity, price
from modules.ui.training import routes as training_routes

gr = gradio()

LANGUAGE_COOKIE = "tx-language"
UPLOADS = ROOT / "cache" / "uploads"
_FOLDER = Path(__file__).parent
_FONTS = ["system-ui", "Noto Sans SC", "PingFang SC", "Microsoft YaHei", "sans-serif"]
_LOOK = {
    "body_background_fill": "#ffffff",
    "body_background_fill_dark": "#0b0f19",
    "body_text_color_subdued": "#56627a",
    "body_text_color_subdued_dark": "#a3afc4",
    "background_fill_secondary": "#eff1f6",
    "background_fill_secondary_dark": "#1f2840",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#111726",
    "border_color_primary": "#dfe3eb",
    "border_color_primary_dark": "#2a3348",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#1a2133",
    "input_border_width": "1px",
    "input_border_color": "#b9c1d0",
    "input_border_color_dark": "#4a5672",
    "input_placeholder_color": "#64718a",
    "input_placeholder_color_dark": "#94a3b8",
    "checkbox_border_color": "#8a94a6",
    "checkbox_border_color_dark": "#7487a3",
    "button_border_width": "1px",
    "button_large_text_size": scaled("14"),
    "button_large_text_weight": "500",
    "button_large_padding": "8px 16px",
    "button_small_text_size": scaled("13"),
    "button_small_padding": "6px 12px",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_hover": "#e8ebf2",
    "button_secondary_background_fill_dark": "#1a2133",
    "button_secondary_background_fill_hover_dark": "#1f2840",
    "button_secondary_border_color": "#b9c1d0",
    "button_secondary_border_color_dark": "#4a5672",
}
"""What differs from the theme, in the colors of static/shell.css. All texts have a contrast of at least 4.5 to 1."""
_TEXT_SIZES = ("9", "10", "12", "14", "16", "22", "26")
"""Of Gradio's texts, from the smallest to the largest, in pixels."""
_MONOSPACE = ["ui-monospace", "Consolas", "Menlo", "monospace"]


def attach(server: FastAPI, app: App) -> None:
    """Add the page to `server`, with / redirecting to the language of the visitor."""
    css = scale_text((_FOLDER / "style.css").read_text(encoding="utf-8")) + LOADER_CSS + PARAMETERS_CSS
    theme = gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        text_size=gr.themes.Size(*map(scaled, _TEXT_SIZES)),
        radius_size="lg",
        font=_FONTS,
        font_mono=_MONOSPACE,
    ).set(**_LOOK)
    static_files = StaticFiles()
    static_files.add_route(server)
    slow_timer_frames()
    write_head(lambda request: _head(request, app.settings.current, static_files))
    speed_up_component_search(server)
    leave_out_lost_connections(server)
    log_refusals()
    keep_uploads_in(UPLOADS)
    visitors = Visitors(app)
    with without_unused_apps():
        pages = {f"/{language}": build(app, language, visitors) for language in LANGUAGES}
    server.add_middleware(GradioGate, pages=pages)
    _add_routes(server, app)
    status_feed.add_route(server, app)
    routes.add_routes(server, app, visitors)
    notebook_routes.add_routes(server, app, visitors)
    character_routes.add_routes(server, app)
    template_route.add_route(server, app)
    model_menu.add_route(server, app)
    residents.add_routes(server, app)
    session_routes.add_route(server, app)
    training_routes.add_routes(server, app)
    perplexity.add_routes(server, app)
    price.add_routes(server, app)
    for path, page in pages.items():
        mount(
            server,
            page,
            path,
            max_file_size=MAX_UPLOAD,
            theme=theme,
            css=css,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            show_error=True,
        )


def close() -> None:
    """Remove what browsers have uploaded to this process."""
    remove_uploads(UPLOADS)


def protect(server: ASGIApp, app: App, is_open: Callable[[str], bool] | None = None) -> ASGIApp:
    """Return `server`, behind a login if there are credentials. Paths that are `is_open` have a guard of their own.

    With --multi-user, an API key is the owner's and does not keep the guests out: only --gradio-auth does.
    """
    credentials = app.credentials
    if not (credentials.logins or (credentials.keys and not app.flags.on("multi_user"))):
        return server
    return LoginGuard(
        server,
        credentials,
        app.guesses,
        lambda request: preferred_language(request, app.settings.current.language),
        is_open,
    )


def _head(request: Request, settings: Settings, static_files: StaticFiles) -> str:
    """Return what the <head> of the page at the root path of `request`, such as /zh, contains of ours."""
    path = str(request.scope.get("root_path", "")).rstrip("/")
    language = next((language for language in LANGUAGES if path.endswith(f"/{language}")), LANGUAGES[0])
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    look = f'data-language="{language}" data-theme="{settings.theme}" data-text="{settings.font_size}"'
    return f"<script {look}>{script}</script>{static_files.tags(language)}"


def _add_routes(server: FastAPI, app: App) -> None:
    @server.get("/", include_in_schema=False)
    def choose_language(request: Request) -> Response:
        return RedirectResponse(f"/{preferred_language(request, app.settings.current.language)}/")

    @server.get("/language/{language}", include_in_schema=False)
    def switch_language(language: str) -> Response:
        if language == AUTO:
            response = RedirectResponse("/")
            response.delete_cookie(LANGUAGE_COOKIE)
            return response
        language = supported(language)
        response = RedirectResponse(f"/{language}/")
        response.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86400, samesite="lax", httponly=True)
        return response

    @server.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return FileResponse(_FOLDER / "favicon.svg", media_type="image/svg+xml")


def preferred_language(request: Request, setting: str) -> str:
    """Return the language last switched to, else that of settings.yaml, else the first one the browser accepts."""
    switched = request.cookies.get(LANGUAGE_COOKIE)
    if switched in LANGUAGES:
        return str(switched)
    if setting in LANGUAGES:
        return setting
    accepted = (entry.strip()[:2] for entry in request.headers.get("accept-language", "").lower().split(","))
    return next((language for language in accepted if language in LANGUAGES), "en")
