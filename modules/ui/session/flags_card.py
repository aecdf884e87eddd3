"""CMD_FLAGS.txt as an editor, and the restart that makes it take effect."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from modules.app import App
from modules.config.flags import Flags
from modules.config.flags_file import HIDDEN, changes, shown_arguments
from modules.core.errors import OpenToNetwork, WebUIError
from modules.downloads.record import ACTIVE_STATES
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates
from modules.ui.session.card import button, card, heading, sent_fields, sent_text, tagged
from modules.ui.widgets.messages import alert
from modules.ui.widgets.option_form import Component

gr = gradio()


@dataclass(frozen=True)
class Typed:
    """A text of the editor, and the version of the file that was shown in it before."""

    text: str
    seen: str | None = None


class FlagsCard:
    def __init__(self, page: Page) -> None:
        self._page, self._app, self._tr = page, page.app, page.tr
        self.part: Component = card("flags", "check", "save", "ask", "restart", "cancel")

    def listen(self) -> None:
        on, at_once = self._page.on, Options(queue=False, owner_only=True)
        for event, handler in (
            (self.part.check, self.check),
            (self.part.save, self.save),
            (self.part.ask, self.ask),
            (self.part.restart, self.restart),
            (self.part.cancel, self.cancel),
        ):
            on(event, handler, None, [self.part], **at_once)

    # -- handlers -------------------------------------------------------------------------------------------------

    def show(self) -> Updates:
        """Show the file as it is."""
        return {self.part: self.render()}

    def check(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Show what the next start would do differently with the text, or what is wrong with it."""
        return self._tried(event, save=False)

    def save(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Write the text to the file, unless something is wrong with it."""
        return self._tried(event, save=True)

    def _tried(self, event: Any, save: bool) -> Updates:
        file, typed = self._app.flags_file, _typed(event)
        try:
            self._app.refuse_strangers()
            flags = file.check(typed.text)
            self._app.check_flags(flags)
            if save:
                file.save(typed.text, typed.seen)
        except WebUIError as error:
            return {self.part: self.render(typed, error=error)}
        note = f"<p>{escape(self._tr('ss_flags_saved' if save else 'ss_flags_fine'))}</p>" + self._changes(flags)
        return {self.part: self.render(None if save else typed, note=note)}

    def ask(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Ask how to restart, with what goes on at the moment."""
        return {self.part: self.render(_typed(event), asking=True)}

    def restart(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Restart at once, or when the answers that are being written are finished. The file must be valid."""
        app, typed = self._app, _typed(event)
        try:
            app.refuse_strangers()
            flags = app.flags_file.check(app.flags_file.text())
            app.check_flags(flags)
            if sent_text(event, "wait"):
                app.restart.request(lambda: answers(app) > 0)
            else:
                app.restart.request()
        except WebUIError as error:
            return {self.part: self.render(typed, error=error)}
        return {self.part: self.render(typed, restarting=flags)}

    def cancel(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Give up waiting for the answers."""
        self._app.restart.cancel()
        return {self.part: self.render(_typed(event))}

    # -- HTML -----------------------------------------------------------------------------------------------------

    def render(
        self,
        typed: Typed | None = None,
        note: str = "",
        error: WebUIError | None = None,
        asking: bool = False,
        restarting: Flags | None = None,
    ) -> str:
        """Render the editor with what was `typed`, or else the file, and the restart."""
        tr, app = self._tr, self._app
        title = heading(tr("ss_flags"), tr("ss_flags_info").format(file=app.flags_file.path.name))
        try:
            app.refuse_strangers()
            saved = Typed(app.flags_file.text(), app.flags_file.version)
        except OpenToNetwork as problem:
            return title + f'<p class="tx-s-note">{escape(problem.say(self._page.language))}</p>'
        except WebUIError as problem:
            saved, error = Typed(""), error or problem
        shown = typed or saved
        restart = self._restart(asking, restarting or self._awaited(), shown.text != saved.text)
        form = self._editor(saved, shown, note, error) + restart
        return f'{title}<div data-form="all">{form}</div>'

    def _editor(self, saved: Typed, shown: Typed, note: str, error: WebUIError | None) -> str:
        tr = self._tr
        edited = " data-edited" if shown.text != saved.text else ""
        arguments = shown_arguments(self._app.restart.arguments)
        below = alert(error, self._page.language, tr) if error else note and f'<div class="tx-s-note">{note}</div>'
        secret = tagged("p", tr("ss_flags_secret").format(hidden=HIDDEN), "tx-s-quiet") if HIDDEN in shown.text else ""
        command = f"<p class='tx-s-quiet'>{escape(tr('ss_flags_typed'))} <code>{escape(arguments)}</code></p>"
        return (
            f'<input type="hidden" name="seen" value="{escape(shown.seen or "", quote=True)}">'
            '<textarea name="text" id="tx-s-flags-text" class="tx-s-mono" rows="10" '
            f'spellcheck="false" autocapitalize="off" aria-label="{escape(self._app.flags_file.path.name)}"{edited}>'
            f"\n{escape(shown.text)}</textarea>{secret}{command if arguments else ''}"
            f'<div class="tx-s-buttons">{button(tr("ss_flags_save"), "save", style="main", id="tx-s-flags-save")}'
            f"{button(tr('ss_flags_check'), 'check', id='tx-s-flags-check')}</div>"
            f'<div role="status" id="tx-s-flags-result">{below}</div>'
        )

    def _restart(self, asking: bool, restarting: Flags | None, unsaved: bool) -> str:
        tr, restart = self._tr, self._app.restart
        title = f"<h3>{escape(tr('ss_restart'))}</h3>"
        if restart.problem is not None:
            problem = tr("ss_no_restart").format(problem=restart.problem[self._page.language])
            return f'{title}<p class="tx-s-quiet" id="tx-s-no-restart">{escape(problem)}</p>'
        if restarting is not None:
            return title + self._waiting(restarting)
        if not asking:
            return f'{title}<div class="tx-s-buttons">{button(tr("ss_restart_ask"), "ask", id="tx-s-restart")}</div>'
        running = self._running()
        wait = button(tr("ss_restart_wait"), "restart", style="main", data_wait="1") if answers(self._app) else ""
        now = button(tr("ss_restart_now" if running else "ss_restart_yes"), "restart", style="" if wait else "main")
        listed = f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in running)}</ul>" if running else ""
        question = escape(tr("ss_restart_running" if running else "ss_restart_idle"))
        lost = tagged("p", tr("ss_restart_unsaved")) if unsaved else ""
        buttons = f'<div class="tx-s-buttons">{wait}{now}{button(tr("ss_restart_cancel"), "cancel")}</div>'
        return f'{title}<div class="tx-s-note" role="alert"><p>{question}</p>{listed}{lost}{buttons}</div>'

    def _awaited(self) -> Flags | None:
        """Return the flags of the next start if a restart has been requested, as on another page; else None."""
        app = self._app
        if not app.restart.waiting:
            return None
        try:
            return app.flags_file.check(app.flags_file.text())
        except WebUIError:  # it was changed by hand meanwhile
            return app.flags

    def _waiting(self, flags: Flags) -> str:
        tr, waits = self._tr, answers(self._app)
        port = flags.address[1] if flags.address[1] != self._app.flags.address[1] else ""
        text = tr("ss_restart_waiting" if waits else "ss_restarting")
        moved = tagged("p", tr("ss_restart_moved").format(port=port)) if port else ""
        late = escape(tr("ss_restart_late"), quote=True)
        stop = f'<div class="tx-s-buttons">{button(tr("ss_restart_cancel"), "cancel")}</div>' if waits else ""
        return (
            f'<div class="tx-s-note" role="status" data-restarting="{self._app.restart.process}" '
            f'data-port="{port}" data-late="{late}">{tagged("p", text)}{moved}{stop}</div>'
        )

    def _running(self) -> list[str]:
        """Return what a restart would interrupt, as lines of a list."""
        app, tr = self._app, self._tr
        downloads = sum(view.state in ACTIVE_STATES and not view.elsewhere for view in app.downloads.snapshot())
        preparing = app.preparation.status().in_progress
        counts = (
            ("ss_running_answers", answers(app)),
            ("ss_running_downloads", downloads),
            ("ss_running_set_up", preparing),
        )
        lines = [tr(key).format(count=int(count)) for key, count in counts if count]
        if app.models.status.state in ("ready", "loading"):
            lines.append(tr("ss_running_model").format(model=app.models.status.name))
        return lines

    def _changes(self, flags: Flags) -> str:
        tr, found = self._tr, changes(self._app.flags, flags)
        if not found:
            return f"<p>{escape(tr('ss_flags_same'))}</p>"
        unset = tr("ss_flags_unset")
        lines = "".join(
            f"<li>{tagged('code', change.flag)} {escape(change.before or unset)} → {escape(change.after or unset)}</li>"
            for change in found
        )
        warnings = "".join(tagged("p", warning[self._page.language]) for warning in flags.warnings)
        return f"<p>{escape(tr('ss_flags_changes'))}</p><ul>{lines}</ul>{warnings}"


def answers(app: App) -> int:
    """Return how many answers are being written, on the page or by the API."""
    return max(app.runs.count(), sum(resident.generations for resident in app.models.residents()))


def _typed(event: Any) -> Typed:
    fields = sent_fields(event)
    text, seen = fields.get("text"), fields.get("seen")
    return Typed(text if isinstance(text, str) else "", seen if isinstance(seen, str) else None)
