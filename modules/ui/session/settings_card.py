"""The defaults in settings.yaml as a form: every setting with its value and source, saved as differences only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from modules.config.defaults import Default, SavedDefaults
from modules.config.flags import SERVER
from modules.config.settings import INTERFACE
from modules.core.errors import OptionError, WebUIError
from modules.hub.endpoint_url import parse_endpoints
from modules.hub.errors import BadEndpoint
from modules.loaders.registry import find_loader
from modules.options.generation import GROUPS, PARAMETERS
from modules.options.option import Option, Value
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates, Values
from modules.ui.session.card import button, card, fold, heading, sent_fields, tagged
from modules.ui.widgets.messages import alert
from modules.ui.widgets.option_form import Component

gr = gradio()

_PAGE = ("language", "theme", "font_size")
_MODEL = ("autoload_model",)
_DOWNLOADS = ("hf_endpoint", "download_connections", "downloads_at_once")
AT_START = ("download_connections", "downloads_at_once")
"""Settings that are read when the program starts."""
MAX_TEXT = 100_000
"""Characters of one value."""

Edits = Mapping[str, object]
"""Values that were typed and not saved, by key."""


class SettingsCard:
    def __init__(self, page: Page) -> None:
        self._page, self._app, self._tr = page, page.app, page.tr
        self.part: Component = card("settings", "save", "undo", "discard", "take_over")

    def listen(self, widgets: Mapping[str, Component]) -> None:
        """Attach the handlers. `widgets` are those of the Parameters page, whose values can be taken over."""
        self._widgets = widgets
        on, at_once = self._page.on, Options(queue=False, owner_only=True)
        on(self.part.save, self.save, None, [self.part], **at_once)
        on(self.part.undo, self.undo, None, [self.part], **at_once)
        on(self.part.discard, self.show, None, [self.part], **at_once)
        on(self.part.take_over, self.take_over, {*widgets.values()}, [self.part], **at_once)

    # -- handlers -------------------------------------------------------------------------------------------------

    def show(self) -> Updates:
        """Show what is saved."""
        return {self.part: self.render()}

    def save(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Write the fields that were changed. What was typed stays in the form if one of them is invalid."""
        edits: Edits = {}
        try:
            edits = _checked(sent_fields(event))
            parse_endpoints(str(edits.get("hf_endpoint", "")))
            saved = self._app.defaults.save(edits)
        except WebUIError as error:
            return {self.part: self.render(edits, error=error)}
        return {self.part: self.render(note=self._report(saved))}

    def undo(self) -> Updates:
        """Put settings.yaml back as it was before the last save."""
        try:
            self._app.defaults.undo()
        except WebUIError as error:
            return {self.part: self.render(error=error)}
        return {self.part: self.render(note=f"<p>{escape(self._tr('ss_undone'))}</p>")}

    def take_over(self, values: Values, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Fill in what the Parameters page shows now, to be saved as the defaults."""
        shown = {key: values[widget] for key, widget in self._widgets.items() if widget in values}
        table = self._app.defaults.table()
        taken = {key: value for key, value in shown.items() if value is not None and value != table[key].value}
        edits = {**_checked(sent_fields(event)), **taken}
        note = self._tr("ss_taken_over").format(count=len(taken))
        return {self.part: self.render(edits, note=f"<p>{escape(note)}</p>")}

    # -- HTML -----------------------------------------------------------------------------------------------------

    def render(self, edits: Edits | None = None, note: str = "", error: WebUIError | None = None) -> str:
        """Render the form with `edits` typed into it, and a note or an error below the buttons."""
        tr, app, edits = self._tr, self._app, edits or {}
        try:
            table = app.defaults.table()
        except WebUIError as problem:
            return heading(tr("ss_defaults")) + alert(problem, self._page.language, tr)
        wrong = "hf_endpoint" if isinstance(error, BadEndpoint) else ""
        wrong = error.option if isinstance(error, OptionError) else wrong
        groups = [
            self._group(group, list(rows), edits, wrong)
            for group, rows in groupby(sorted(table.items(), key=_order), key=lambda row: _group_of(row[0]))
        ]
        below = alert(error, self._page.language, tr) if error else note and f'<div class="tx-s-note">{note}</div>'
        return (
            heading(tr("ss_defaults"), tr("ss_defaults_info").format(file=app.settings.path.name))
            + '<div data-form="changed"><input type="search" class="tx-s-search" data-filter="tx-s-list" '
            + f'aria-label="{escape(tr("filter"))}" placeholder="{escape(tr("filter"))}">'
            + f'<div id="tx-s-list">{"".join(groups)}</div><div class="tx-s-buttons tx-s-sticky">'
            + '<button type="button" class="tx-button tx-main" id="tx-s-save" data-do="save" data-needs="change">'
            + f"{escape(tr('ss_save'))} <span data-count></span></button>"
            + button(tr("ss_discard"), "discard", data_needs="change")
            + button(tr("ss_take_over"), "take_over", id="tx-s-take-over")
            + (button(tr("ss_undo_save"), "undo", id="tx-s-undo") if app.defaults.can_undo else "")
            + f'</div><div role="status">{below}</div></div>'
        )

    def _group(self, group: str, rows: list[tuple[str, Default]], edits: Edits, wrong: str) -> str:
        tr = self._tr
        changed = sum(row.source != "default" for _, row in rows)
        opened = group == "ss_group_page" or any(key in edits for key, _ in rows)
        body = "".join(self._row(key, row, edits, key == wrong) for key, row in rows)
        return fold(group, tr(group), body, tr("ss_not_default").format(count=changed) if changed else "", opened)

    def _row(self, key: str, row: Default, edits: Edits, wrong: bool) -> str:
        language, option = self._page.language, row.option
        label, field = option.label[language], f"tx-s-of-{key}"
        source = self._source(key, row)
        name = "" if label.replace("-", "_") == key.replace("-", "_") else f" <code>{escape(key)}</code>"
        return (
            f'<div class="tx-s-row" data-row><div class="tx-s-about"><label for="{field}">{escape(label)}</label>{name}'
            f'{source}<p class="tx-s-quiet" id="{field}-help">{escape(self._help(key, row))}</p></div>'
            f"{self._field(key, row, edits, field, wrong)}</div>"
        )

    def _source(self, key: str, row: Default) -> str:
        """Render where the value comes from; nothing for a default of the program."""
        flag, _ = self._overriding_flag(key)
        texts = {"file": self._app.settings.path.name, "preset": self._tr("ss_from_preset"), "flag": f"--{flag}"}
        source = "flag" if flag else row.source
        return (
            f' <span class="tx-s-source" data-source="{source}">{escape(texts[source])}</span>'
            if source in texts
            else ""
        )

    def _overriding_flag(self, key: str) -> tuple[str, Value]:
        """Return the flag of the command line that takes precedence over a setting, and its value; "" if none does."""
        loader = self._app.flags.text("loader")
        if key.startswith("loader_") and loader and key.removeprefix("loader_") in find_loader(loader).formats:
            return "loader", loader
        given = self._app.flags.server.get(key) if key in SERVER else None
        return (SERVER[key].flag, given) if given else ("", "")

    def _help(self, key: str, row: Default) -> str:
        tr = self._tr
        parts = [row.option.help[self._page.language]]
        if row.value != row.base and (len(str(row.base)) < 60):
            shown = str(row.base).lower() if isinstance(row.base, bool) else str(row.base)
            parts.append(tr("ss_otherwise").format(value=shown or "“”"))
        if key in AT_START:
            parts.append(tr("ss_at_start"))
        flag, value = self._overriding_flag(key)
        if flag:
            parts.append(tr("ss_overridden").format(flag=f"--{flag}", value=value))
        return " ".join(parts)

    def _field(self, key: str, row: Default, edits: Edits, field: str, wrong: bool) -> str:
        value = edits.get(key, row.value)
        attributes = f'id="{field}" name="{escape(key)}" aria-describedby="{field}-help"'
        attributes += (" data-edited" if key in edits else "") + (' aria-invalid="true"' if wrong else "")
        if isinstance(row.option.default, bool):
            checked = " checked" if value is True else ""
            return f'<label class="tx-s-check"><input type="checkbox" {attributes}{checked}></label>'
        if choices := self._choices(key, row.option, value):
            options = "".join(_choice(choice, str(value), self._tr("preset_none")) for choice in choices)
            return f"<select {attributes}>{options}</select>"
        text = escape(str(value), quote=True)
        if row.option.multiline:
            return f'<textarea rows="3" {attributes}>\n{text}</textarea>'
        numeric = "" if isinstance(row.option.default, str) else ' inputmode="decimal"'
        shown = escape(self._tr("ss_example").format(example=row.option.example), quote=True)
        example = f' placeholder="{shown}"' if row.option.example else ""
        return (
            f'<input type="text" value="{text}" autocomplete="off" spellcheck="false"{numeric}{example} {attributes}>'
        )

    def _choices(self, key: str, option: Option, value: object) -> list[str]:
        """Return the values to choose from; none for a setting that may have any."""
        if key == "preset":
            names = self._app.presets.names()
        elif key == "character":
            names = [found.id for found in self._app.characters.list()]
        else:
            return [str(choice) for choice in option.choices]
        missing = [str(value)] if value and value not in names else []
        return ["", *names, *missing]

    def _report(self, saved: SavedDefaults) -> str:
        """Render which lines of the file a save has changed."""
        tr, name = self._tr, self._app.settings.path.name
        written = _listed([f"{key}: {_short(value)}" for key, value in saved.written.items()])
        removed = _listed(saved.removed)
        parts = [
            tagged("p", tr("ss_written").format(file=name)) + written if written else "",
            tagged("p", tr("ss_removed").format(file=name)) + removed if removed else "",
            tagged("p", tr("backup").format(file=saved.backup.name)) if saved.backup else "",
        ]
        return "".join(parts) or tagged("p", tr("ss_unchanged"))


def _checked(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of the form that a setting could have: texts of limited length, and switches."""
    valid = {key: value for key, value in fields.items() if isinstance(value, (bool, str, int, float))}
    for key, value in valid.items():
        if len(str(value)) > MAX_TEXT:
            expected = {"en": f"a text of at most {MAX_TEXT} characters", "zh": f"不超过 {MAX_TEXT} 个字符的文本"}
            raise OptionError(key, str(value)[:60], expected)
    return {str(key): value for key, value in valid.items()}


def _choice(value: str, chosen: str, none: str) -> str:
    selected = " selected" if value == chosen else ""
    return f'<option value="{escape(value, quote=True)}"{selected}>{escape(value or none)}</option>'


def _listed(lines: Sequence[str]) -> str:
    """Render lines of the file as a list; nothing if there are none."""
    items = "".join(f"<li>{tagged('code', line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _short(value: Value) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


_INTERFACE_GROUPS = ("ss_group_page", "ss_group_chat", "ss_group_model", "ss_group_downloads")


def _group_of(key: str) -> str:
    """Return the key of the title of a setting's group."""
    if key in PARAMETERS:
        return "ss_group_generation" if PARAMETERS[key].group == GROUPS[0] else f"group_{PARAMETERS[key].group}"
    if key in _PAGE:
        return "ss_group_page"
    if key in _DOWNLOADS:
        return "ss_group_downloads"
    return "ss_group_model" if key in _MODEL or key.startswith("loader_") else "ss_group_chat"


def _order(row: tuple[str, Default]) -> tuple[int, int]:
    """Sort by group, and within one as in the tables; `preset` comes first of the parameters of an answer."""
    key = row[0]
    groups = [*_INTERFACE_GROUPS, "ss_group_generation", *(f"group_{group}" for group in GROUPS[1:])]
    return groups.index(_group_of(key)), [*INTERFACE, *PARAMETERS].index(key)
