"""Beside the notes of the Model tab: what installs the packages of the chosen loader, and how that goes."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from modules.app import App
from modules.core.errors import UnknownLoader
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.registry import Loader, find_loader
from modules.setup import install
from modules.setup.overlay_installer import Installation
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, Updates, Values, as_error
from modules.ui.locales import Tr
from modules.ui.widgets import html
from modules.ui.widgets.option_form import Component

if TYPE_CHECKING:
    from modules.ui.model.tab import ModelTab

gr = gradio()

POLL_SECONDS = 0.5


class InstallButton:
    """Made inside the page. It is there for a loader that lacks packages of its own, and cancels while they come."""

    def __init__(self, app: App, language: str, tr: Tr) -> None:
        self._app, self._language, self._tr = app, language, tr
        owner = not app.flags.on("multi_user")
        self.button: Component = gr.Button("", visible=False, interactive=owner, size="sm", elem_id="tx-install")
        self.timer: Component = gr.Timer(POLL_SECONDS, active=False)
        self.parts = (self.button, self.timer)

    def listen(self, tab: ModelTab, form: Any, told: list[Any]) -> None:
        self._tab = tab
        watching = {"inputs": form, "outputs": [*told, tab.loader], "concurrency_limit": None, **PRIVATE}
        self.button.click(self.press, **watching)
        self.timer.tick(self.watch, **watching)

    # -- what it shows ----------------------------------------------------------------------------------------------

    def view(self, loader: Loader, model_format: str) -> Installation | None:
        """How the loader's own packages for such models stand; None if it has none, or if there is nothing to be done
        about them."""
        overlay = overlay_of(loader, model_format)
        if overlay is None:
            return None
        now, reason = self._app.overlays.status(overlay), unavailable(loader, model_format)
        return now if now.in_progress or (reason is not None and reason.install) else None

    def ask(self, loader: Loader | None, model_format: str = "") -> Updates:
        """What a handler returns to offer the installation that `loader` needs for such models, if any."""
        now = self.view(loader, model_format) if loader is not None else None
        overlay = overlay_of(loader, model_format) if loader is not None else None
        size = overlay.megabytes if overlay is not None else 0
        moving = now is not None and now.in_progress
        label = self._tr("install_cancel") if moving else self._tr("install").format(size=size)
        return {self.button: gr.update(visible=now is not None, value=label), self.timer: gr.Timer(active=moving)}

    def told(self, loader: Loader, model_format: str, explanation: str = "") -> str:
        """The `explanation` and why an installation failed; while one is under way, how it goes instead. As HTML."""
        now = self.view(loader, model_format)
        overlay = overlay_of(loader, model_format)
        elsewhere = overlay is not None and overlay.prepared  # shown by PreparationNotice
        if now is None or (elsewhere and not now.in_progress):
            return explanation
        if now.error is not None:
            return explanation + html.alert(now.error, self._language, self._tr)
        return ("" if elsewhere else self._progress(now)) if now.in_progress else explanation

    def _progress(self, now: Installation) -> str:
        if now.progress_unknown:
            return html.info(self._tr("install_waiting"))
        line = self._tr("install_progress").format(done=now.done, total=now.total)
        share = install.fraction_done(now) or 0
        return (
            f'<div class="tx-status" role="status">{escape(line)}<div class="tx-bar"><i style="width:{share:.0%}"></i>'
            f'</div><p class="tx-split">{escape(now.last_line)}</p></div>'
        )

    # -- what it does -----------------------------------------------------------------------------------------------

    async def press(self, given: Values) -> Updates:
        """Begin to install what the chosen loader needs; or give that up, if it is under way."""
        try:
            self._app.refuse_guests()
            asked = self._asked(given)
            overlay = overlay_of(*asked)
            if overlay is not None and self._app.overlays.status(overlay).in_progress:
                self._app.overlays.cancel(overlay)
            else:
                install.start(asked[0], self._app.overlays, asked[1])
            return {self._tab.notes: self.told(*asked), **self.ask(*asked)}
        except Exception as error:
            return {self._tab.notes: html.alert(as_error(error), self._language, self._tr)}

    async def watch(self, given: Values) -> Updates:
        """How it goes; once it has ended, the form as it is from then on."""
        try:
            now = self.view(*self._asked(given))
            if now is not None and now.in_progress:
                return {self._tab.notes: self.told(*self._asked(given)) or gr.skip()}
            return {**await self._tab.explain(given), **self._tab.options.labelled_anew(given)}
        except Exception as error:
            return {self._tab.notes: html.alert(as_error(error), self._language, self._tr), **self.ask(None)}

    def _asked(self, given: Values) -> tuple[Loader, str]:
        """The chosen loader, and the format of the model that the form shows."""
        name = given.get(self._tab.loader)
        if not isinstance(name, str):
            raise UnknownLoader(str(name))
        return find_loader(name), self._tab.options.format_shown(given)
