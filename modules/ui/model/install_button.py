"""The button that installs the packages of the chosen loader, and the progress of that among the notes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from typing import Any, Protocol

from modules.core.errors import WebUIError
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.registry import Loader
from modules.setup import install
from modules.setup.overlay_installer import Installation
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates, Values
from modules.ui.widgets.option_form import Component

gr = gradio()

POLL_SECONDS = 0.5


class LoaderMenu(Protocol):
    """What the button needs of the options card around it."""

    notes: Component

    def chosen_loader(self, values: Values) -> tuple[Loader, str]: ...

    def refresh_loaders(self, values: Values) -> Updates: ...


class InstallButton:
    """Visible while the chosen loader lacks packages of its own; cancels the installation while it runs.

    Methods that take a loader and a model format need both, since a loader may have one overlay per format.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._overlays = page, page.app.overlays
        self.button: Component = gr.Button("", visible=False, interactive=page.owner, size="sm", elem_id="tx-install")
        self.timer: Component = gr.Timer(POLL_SECONDS, active=False)
        self.parts = (self.button, self.timer)

    def listen(
        self,
        reads: Any,
        writes: list[Component],
        menu: LoaderMenu,
        explain: Callable[[Values], Awaitable[Updates]],
        failed: Callable[[WebUIError], Updates],
    ) -> None:
        """Attach the handlers. `explain` returns the updates of the notes once nothing is being installed."""
        self._menu, self._explain = menu, explain
        on = self._page.on
        unlimited: Options = {"concurrency_limit": None}
        on(self.button.click, self.press, reads, writes, alert=menu.notes, owner_only=True, **unlimited)
        on(self.timer.tick, self.poll, reads, writes, failed=failed, **unlimited)

    # -- handlers ---------------------------------------------------------------------------------------------------

    async def press(self, values: Values) -> Updates:
        """Install what the chosen loader needs, or cancel that if it is being installed."""
        loader, model_format = self._menu.chosen_loader(values)
        overlay = overlay_of(loader, model_format)
        if overlay is not None and self._overlays.status(overlay).in_progress:
            self._overlays.cancel(overlay)
        else:
            install.start(loader, self._overlays, model_format)
        return {self._menu.notes: self.notes(loader, model_format), **self.offer(loader, model_format)}

    async def poll(self, values: Values) -> Updates:
        """Show the progress of the installation; after its end, the form as it is from then on."""
        loader, model_format = self._menu.chosen_loader(values)
        progress = self._pending(loader, model_format)
        if progress is not None and progress.in_progress:
            return {self._menu.notes: self.notes(loader, model_format) or gr.skip()}
        return {**await self._explain(values), **self._menu.refresh_loaders(values)}

    # -- what is shown ----------------------------------------------------------------------------------------------

    def offer(self, loader: Loader | None, model_format: str = "") -> Updates:
        """Show the button if packages that `loader` needs can be installed or are being installed."""
        progress = self._pending(loader, model_format) if loader is not None else None
        overlay = overlay_of(loader, model_format) if loader is not None else None
        running = progress is not None and progress.in_progress
        size = overlay.megabytes if overlay is not None else 0
        label = self._page.tr("install_cancel") if running else self._page.tr("install").format(size=size)
        return {self.button: gr.update(visible=progress is not None, value=label), self.timer: gr.Timer(active=running)}

    def notes(self, loader: Loader, model_format: str, explanation: str = "") -> str:
        """Return `explanation` with the error of the last installation, or the progress of one that runs, as HTML."""
        progress = self._pending(loader, model_format)
        overlay = overlay_of(loader, model_format)
        has_notice = overlay is not None and overlay.prepared  # shown by PreparationNotice
        if progress is None or (has_notice and not progress.in_progress):
            return explanation
        if progress.error is not None:
            return explanation + self._page.alert(progress.error)
        if progress.in_progress:
            return "" if has_notice else self._progress(progress)
        return explanation

    def _pending(self, loader: Loader, model_format: str) -> Installation | None:
        """Return the state of the loader's own packages; None if it has none or they need no installation."""
        overlay = overlay_of(loader, model_format)
        if overlay is None:
            return None
        progress, reason = self._overlays.status(overlay), unavailable(loader, model_format)
        return progress if progress.in_progress or (reason is not None and reason.install) else None

    def _progress(self, progress: Installation) -> str:
        if progress.progress_unknown:
            return self._page.info("install_waiting")
        line = self._page.tr("install_progress").format(done=progress.done, total=progress.total)
        share = install.fraction_done(progress) or 0
        return (
            f'<div class="tx-status" role="status">{escape(line)}<div class="tx-bar"><i style="width:{share:.0%}"></i>'
            f'</div><p class="tx-split">{escape(progress.last_line)}</p></div>'
        )
