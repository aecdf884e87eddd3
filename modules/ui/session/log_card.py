"""The end of the log, by level and text, without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from modules.app import App
from modules.core.errors import LogUnreadable
from modules.core.paths import ROOT
from modules.core.product import LOG_FILE
from modules.system.log_reader import LEVELS, read_log
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates
from modules.ui.session.card import button, card, heading, sent_fields
from modules.ui.widgets.messages import alert
from modules.ui.widgets.option_form import Component

gr = gradio()

_MAX_TEXT = 200


class LogCard:
    """`file` is the log."""

    def __init__(self, page: Page, file: Path = ROOT / LOG_FILE) -> None:
        self._page, self._app, self._tr = page, page.app, page.tr
        self.file = file
        self.part: Component = card("log", "refresh")

    def listen(self) -> None:
        options = Options(owner_only=True, queue=False, trigger_mode="always_last")
        self._page.on(self.part.refresh, self.refresh, None, [self.part], **options)

    def show(self) -> Updates:
        """Show the form; the log itself is read when it is asked for."""
        return {self.part: self._render({}, None)}

    def refresh(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Show the last lines of the level and with the text that the form asks for."""
        fields = sent_fields(event)
        level, text = fields.get("level"), fields.get("text")
        level = level if level in LEVELS else LEVELS[0]
        text = text[:_MAX_TEXT] if isinstance(text, str) else ""
        wanted = {"level": str(level), "text": text}
        try:
            lines = read_log(self.file, wanted["level"], text, _secrets(self._app))
        except OSError as problem:
            error = LogUnreadable(LOG_FILE, problem.strerror or str(problem))
            return {self.part: self._render(wanted, None) + alert(error, self._page.language, self._tr)}
        return {self.part: self._render(wanted, lines)}

    def _render(self, wanted: Mapping[str, str], lines: list[str] | None) -> str:
        tr = self._tr
        chosen = wanted.get("level", LEVELS[0])
        levels = "".join(_choice(level, chosen, tr(f"ss_level_{level.lower()}")) for level in LEVELS)
        typed = escape(wanted.get("text", ""), quote=True)
        return (
            heading(tr("ss_log"), tr("ss_log_info").format(file=LOG_FILE))
            + '<div data-form="all" class="tx-s-log-form"><select name="level" id="tx-s-level" '
            + f'data-do-on-change="refresh" aria-label="{escape(tr("ss_level"))}">{levels}</select>'
            + f'<input type="search" name="text" id="tx-s-log-text" value="{typed}" data-enter="tx-s-log-refresh" '
            + f'aria-label="{escape(tr("ss_log_text"))}" placeholder="{escape(tr("ss_log_text"))}">'
            + button(tr("ss_log_show" if lines is None else "ss_refresh"), "refresh", id="tx-s-log-refresh")
            + (
                button(tr("ss_copy"), "", data_copy="tx-s-lines", data_done=tr("ss_copied"), id="tx-s-log-copy")
                if lines
                else ""
            )
            + f"</div>{self._lines(lines)}"
        )

    def _lines(self, lines: list[str] | None) -> str:
        if lines is None:
            return ""
        if not lines:
            return f'<p class="tx-s-quiet" role="status">{escape(self._tr("ss_log_empty"))}</p>'
        text = escape("\n".join(lines))
        return (
            f'<pre id="tx-s-lines" class="tx-s-mono" data-to-end tabindex="0" role="region" '
            f'aria-label="{escape(self._tr("ss_log"))}">{text}</pre>'
        )


def _choice(level: str, chosen: str, label: str) -> str:
    return f'<option value="{level}"{" selected" if level == chosen else ""}>{escape(label)}</option>'


def _secrets(app: App) -> Iterator[str]:
    """Yield the secrets that this process knows."""
    for key in app.credentials.keys:
        yield key.secret
    for _, password in app.credentials.logins:
        yield password
    if app.mirrors.token is not None:
        yield app.mirrors.token.secret
