"""The notice of the Chat and the Model page while llama.cpp and the demo model are prepared, or if that failed."""

from __future__ import annotations

from html import escape

from modules.app import App
from modules.core.errors import WebUIError
from modules.setup import install
from modules.setup.preparation import PreparationStatus
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates
from modules.ui.locales import Tr
from modules.ui.widgets.option_form import Component

gr = gradio()

_FORWARD_CLICK = """element.addEventListener("click", (event) => {
  if (event.target.closest("[data-prepare]")) trigger("click", {});
})"""


class PreparationNotice:
    """Created inside a tab. Empty, and without height, while there is nothing to report."""

    def __init__(self, page: Page, elem_id: str) -> None:
        self._page = page
        self.part: Component = gr.HTML(
            self._html(), elem_id=elem_id, elem_classes="tx-prepare", js_on_load=_FORWARD_CLICK
        )
        page.on(self.part.click, self.prepare, None, [self.part], alert=self.part, owner_only=True, queue=False)

    def prepare(self) -> Updates:
        """Start the preparation, or retry it."""
        self._page.app.preparation.resume()
        return {self.part: self._html()}

    def update(self, shown: object) -> Updates:
        """Update a page that shows the notice `shown`, if it has changed."""
        html = self._html()
        return {self.part: gr.skip() if html == (shown or "") else html}

    def _html(self) -> str:
        return notice(self._page.app, self._page.language, self._page.tr)


def notice(app: App, language: str, tr: Tr) -> str:
    """Render the state of the preparation, as the notice shows it."""
    idle = app.models.status.state not in ("ready", "loading", "asleep")
    return preparation(app.preparation.status(), idle, language, tr)


def greeting(app: App) -> str:
    """Return the key of the text in an empty conversation: a question, or what has to happen before one."""
    if app.models.status.state in ("ready", "asleep"):
        return "hello"
    progress = app.preparation.status()
    return "hello_later" if progress.load and progress.in_progress else "hello_empty"


def greeting_html(page: Page) -> str:
    """Render what an empty conversation begins with."""
    return f"<h2>{escape(page.tr(greeting(page.app)))}</h2>"


def preparation(progress: PreparationStatus, idle: bool, language: str, tr: Tr) -> str:
    """Render the state of the preparation. `idle`: no model is in use, so that a missing llama.cpp is reported."""
    error = progress.installation.error or progress.demo_error
    if progress.installation.in_progress:
        return _running(progress, language, tr)
    if error is not None:
        return _failed(error, language, tr)
    if progress.installation.state == "absent":
        info = f"<p>{escape(tr('prepare_absent_info'))}</p>"
        return _card(tr("prepare_absent"), info, _button(tr, "prepare_now")) if idle else ""
    return _card(tr("prepare_demo"), f"<p>{escape(tr('prepare_demo_info'))}</p>") if progress.downloading_demo else ""


def _running(progress: PreparationStatus, language: str, tr: Tr) -> str:
    share = install.fraction_done(progress.installation)
    width = f"{share:.0%}" if share is not None else "0"
    later = tr("prepare_then").format(model=progress.load) if progress.load else ""
    bar = f'<div class="tx-bar"><i style="width:{width}"></i></div>'
    error = progress.demo_error
    demo = f"<p>{escape(error.say(language).partition(chr(10))[0])}</p>" if error else ""
    space = " " if later and language == "en" else ""
    lines = f"<p>{escape(tr('prepare_meanwhile') + space + later)}</p>"
    return _card(install.describe(progress.installation, progress.overlay, language), bar + lines + demo)


def _failed(error: WebUIError, language: str, tr: Tr) -> str:
    first, _, rest = error.say(language).partition("\n")
    more = f"<details><summary>{escape(tr('details'))}</summary><pre>{escape(rest)}</pre></details>" if rest else ""
    return (
        f'<div class="tx-notice tx-status tx-alert" role="alert"><p class="tx-notice-title">{escape(first)}</p>{more}'
        f"{_button(tr, 'prepare_again')}</div>"
    )


def _card(title: str, content: str, button: str = "") -> str:
    head = f'<p class="tx-notice-title">{escape(title)}</p>'
    return f'<div class="tx-notice tx-status" role="status">{head}{content}{button}</div>'


def _button(tr: Tr, key: str) -> str:
    return f'<button type="button" class="tx-notice-button" data-prepare>{escape(tr(key))}</button>'
