"""The Session page. Guests choose the look of their browser only; all else is the owner's."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates
from modules.ui.session.card import OPENED, card
from modules.ui.session.flags_card import FlagsCard
from modules.ui.session.log_card import LogCard
from modules.ui.session.look import look
from modules.ui.session.settings_card import SettingsCard
from modules.ui.session.storage_card import StorageCard
from modules.ui.session.versions_card import VersionsCard
from modules.ui.widgets.option_form import Component

gr = gradio()

LANGUAGE_COOKIE = "tx-language"


class SessionTab:
    """Created inside a `gr.Tab`. Nothing is read before the page is opened."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.look: Component = card("look")
        self.settings = SettingsCard(page)
        self.flags = FlagsCard(page)
        self.storage = StorageCard(page)
        self.versions = VersionsCard(page)
        self.log = LogCard(page)

    def listen(self, opened: Any, widgets: Mapping[str, Component]) -> None:
        """Attach the handlers. `opened` is the event of showing the page, `widgets` are those of the parameters."""
        on = self._page.on
        at_once = [self.look, self.settings.part, self.flags.part, self.log.part]
        shown = on(opened, self.open, None, at_once, queue=False, trigger_mode="always_last")
        owners = Options(owner_only=True, trigger_mode="always_last", concurrency_limit=2)
        on(shown.then, self.storage.show, None, [self.storage.part], **owners)
        on(shown.then, self.versions.show, None, [self.versions.part], **owners)
        self.settings.listen(widgets)
        for part in (self.flags, self.storage, self.versions, self.log):
            part.listen()

    def open(self, request: gr.Request) -> Updates:  # type: ignore[name-defined]
        """Show what takes no time to find out."""
        cookies = request.cookies if request is not None else {}
        shown = {self.look: look(self._page, str(cookies.get(LANGUAGE_COOKIE, "")))}
        if not self._page.owner:
            note = f'<p class="tx-s-note">{escape(self._page.tr("ss_guest"))}</p>'
            return {self.look: shown[self.look] + note}
        cards = {**self.settings.show(), **self.flags.show(), **self.log.show()}
        return {**shown, **{part: OPENED + html for part, html in cards.items()}}
