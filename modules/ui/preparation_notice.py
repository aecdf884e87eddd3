"""What the Chat and the Model tab say while llama.cpp and the demo model are prepared, and if that failed."""

from __future__ import annotations

from html import escape

from modules.app import App
from modules.core.errors import WebUIError
from modules.setup import install
from modules.setup.preparation import PreparationStatus
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, Updates, as_error
from modules.ui.locales import Tr
from modules.ui.widgets import html as markup
from modules.ui.widgets.option_form import Component

gr = gradio()

_PRESSED = """element.addEventListener("click", (event) => {
  if (event.target.closest("[data-prepare]")) trigger("click", {});
})"""


class PreparationNotice:
    """Made inside a tab. It is empty, and takes no room, when there is nothing to say."""

    def __init__(self, app: App, language: str, tr: Tr, elem_id: str) -> None:
        self._app, self._language, self._tr = app, language, tr
        self.part: Component = gr.HTML(self.html(), elem_id=elem_id, elem_classes="tx-prepare", js_on_load=_PRESSED)

    def listen(self) -> None:
        self.part.click(self.press, None, self.part, queue=False, **PRIVATE)

    def press(self) -> str:
        """Begin the preparation, or try again."""
        try:
            self._app.refuse_guests()
            self._app.preparation.resume()
            return self.html()
        except Exception as error:
            return markup.alert(as_error(error), self._language, self._tr)

    def update(self, shown: object) -> Updates:
        """What a page that shows the text `shown` has to change."""
        html = self.html()
        return {self.part: gr.skip() if html == (shown or "") else html}

    def html(self) -> str:
        return notice(self._app, self._language, self._tr)


def notice(app: App, language: str, tr: Tr) -> str:
    """Render the state of the preparation, as the notice shows it."""
    idle = app.models.status.state not in ("ready", "loading")
    return preparation(app.preparation.status(), idle, language, tr)


def greeting(app: App) -> str:
    """Return the key of what an empty conversation says: a question, or what has to happen before one."""
    if app.models.status.state == "ready":
        return "hello"
    now = app.preparation.status()
    return "hello_later" if now.load and now.in_progress else "hello_empty"


def preparation(now: PreparationStatus, idle: bool, language: str, tr: Tr) -> str:
    """Render the state of the preparation. That llama.cpp is missing is told only while no model is in use: `idle`."""
    error = now.installation.error or now.demo_error
    if now.installation.in_progress:
        return _moving(now, language, tr)
    if error is not None:
        return _failed(error, language, tr)
    if now.installation.state == "absent":
        info = f"<p>{escape(tr('prepare_absent_info'))}</p>"
        return _card(tr("prepare_absent"), info, _button(tr, "prepare_now")) if idle else ""
    return _card(tr("prepare_demo"), f"<p>{escape(tr('prepare_demo_info'))}</p>") if now.downloading_demo else ""


def _moving(now: PreparationStatus, language: str, tr: Tr) -> str:
    share = install.fraction_done(now.installation)
    width = f"{share:.0%}" if share is not None else "0"
    later = tr("prepare_then").format(model=now.load) if now.load else ""
    bar = f'<div class="tx-bar"><i style="width:{width}"></i></div>'
    demo = f"<p>{escape(now.demo_error.say(language).partition(chr(10))[0])}</p>" if now.demo_error else ""
    space = " " if later and language == "en" else ""
    lines = f"<p>{escape(tr('prepare_meanwhile') + space + later)}</p>"
    return _card(install.describe(now.installation, now.overlay, language), bar + lines + demo)


def _failed(error: WebUIError, language: str, tr: Tr) -> str:
    first, _, rest = error.say(language).partition("\n")
    more = f"<details><summary>{escape(tr('details'))}</summary><pre>{escape(rest)}</pre></details>" if rest else ""
    return (
        f'<div class="tx-notice tx-status tx-alert" role="alert"><p class="tx-notice-title">{escape(first)}</p>{more}'
        f"{_button(tr, 'prepare_again')}</div>"
    )


def _card(title: str, rest: str, button: str = "") -> str:
    head = f'<p class="tx-notice-title">{escape(title)}</p>'
    return f'<div class="tx-notice tx-status" role="status">{head}{rest}{button}</div>'


def _button(tr: Tr, key: str) -> str:
    return f'<button type="button" class="tx-notice-button" data-prepare>{escape(tr(key))}</button>'
