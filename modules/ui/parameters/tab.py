"""The Parameters tab: the generation parameters that the loaded model's loader supports, and presets of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from html import escape
from typing import Any

from modules.config.presets import NEUTRAL
from modules.core.errors import OptionError
from modules.core.events import Json
from modules.loaders import generation_settings
from modules.loaders.registry import LOADERS, Loader
from modules.options.generation import GROUPS, PARAMETERS, SUPPORTED_BY_ALL
from modules.options.option import Option
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates, Values, in_browser
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component, OptionForm, css_by_loader, grouped, slug

gr = gradio()

KEPT = tuple(key for key in PARAMETERS if key not in NEUTRAL and key != "truncation_length")
"""Parameters that no preset has and no load sets: the browser keeps them."""

_KEEP = """(value) => {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem("tx-kept")) ?? {}; } catch {}
  localStorage.setItem("tx-kept", JSON.stringify({ ...kept, [%s]: { value, initial: %s } }));
}"""
_RECALL = """() => {
  try { return [JSON.parse(localStorage.getItem("tx-kept")) ?? {}]; } catch { return [{}]; }
}"""

_UNDO_CLICK = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-undo]");
  if (pressed) trigger("undo", { name: pressed.dataset.undo });
})"""

PARAMETERS_CSS = css_by_loader('#tx-page:has(#tx-pill [data-loader="{name}"]) #tx-params', "gen")
"""Show the parameters that the loaded model's loader supports; the header's pill names the loader."""


class ParametersTab:
    """Created inside a `gr.Tab`. `widgets` are those of the parameters by key."""

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                self._build_presets()
            with gr.Column(scale=8, min_width=320, elem_classes="tx-card", elem_id="tx-params"):
                self.problem: Component = gr.HTML("", elem_id="tx-gen-problem")
                groups = grouped(PARAMETERS.values(), GROUPS)
                self._forms = [self._form(group, options) for group, options in groups.items()]
        self.widgets = {key: widget for form in self._forms for key, widget in form.widgets.items()}
        for key, value in self._initial_values().items():
            self.widgets[key].value = value
        self.kept: Component = gr.JSON({}, visible=False)
        self._keep()
        self._listen()

    def _build_presets(self) -> None:
        tr, owner = self._page.tr, self._page.owner
        with gr.Column(elem_classes="tx-card"):
            self.preset: Component = gr.Dropdown(
                choices=self._app.presets.names(), label=tr("preset"), info=tr("preset_info"), elem_id="tx-preset"
            )
            with gr.Row(elem_classes="tx-buttons"):
                self.neutral_button: Component = gr.Button(tr("preset_neutral"), size="sm", elem_id="tx-preset-neutral")
                self.delete_button: Component = gr.Button(
                    tr("preset_delete"), interactive=owner, size="sm", elem_id="tx-preset-delete"
                )
            with gr.Row(elem_classes="tx-row"):
                self.name: Component = gr.Textbox(
                    label=tr("preset_name"), info=tr("preset_name_info"), max_lines=1, elem_id="tx-preset-name"
                )
                self.save_button: Component = gr.Button(
                    tr("preset_save"), interactive=owner, size="sm", scale=0, min_width=110, elem_id="tx-preset-save"
                )
            self.line: Component = gr.HTML("", elem_id="tx-preset-line", js_on_load=_UNDO_CLICK)

    def _form(self, group: str, options: Sequence[Option]) -> OptionForm:
        """Create the widgets of a group: the first group is open, the others are folded."""
        classes = {option.key: [f"gen-{slug(loader.name)}" for loader in _supporting(option.key)] for option in options}
        used = sorted({name for names in classes.values() for name in names})
        fold: Any = nullcontext()
        if group != GROUPS[0]:
            title = self._page.tr(f"group_{group}")
            fold = gr.Accordion(title, open=False, elem_id=f"tx-gen-group-{group}", elem_classes=["tx-group", *used])
        with fold, gr.Column(elem_classes="tx-grid"):
            return OptionForm(options, self._page.language, "tx-gen", classes)

    def _listen(self) -> None:
        on, samplers = self._page.on, [self.widgets[key] for key in NEUTRAL]
        form = {self.preset, self.name, *self.widgets.values()}
        numbers = [widget for widget in self.widgets.values() if isinstance(widget, gr.Number)]
        checked = [event for widget in numbers for event in (widget.blur, widget.submit)]
        on(checked, self.check, set(numbers), [self.problem], queue=False, trigger_mode="always_last")
        at_once: Options = {"alert": self.line, "queue": False}
        on(self.preset.input, self.pick_preset, [self.preset], [self.line, self.name, *samplers], **at_once)
        on(self.neutral_button.click, self.neutralize, None, [self.preset, self.line, *samplers], **at_once)
        owners: Options = {**at_once, "owner_only": True}
        on(self.save_button.click, self.save_preset, form, [self.preset, self.line], **owners)
        on(self.line.undo, self.restore_preset, None, [self.preset, self.name, self.line], **owners)
        on(self.delete_button.click, self.delete_preset, [self.preset], [self.preset, self.name, self.line], **owners)

    def _keep(self) -> None:
        """Have the browser keep what the user changes, with the value that the page started with."""
        for key in KEPT:
            widget, initial = self.widgets[key], json.dumps(self.widgets[key].value)
            edited = widget.blur if isinstance(widget, gr.Textbox) else widget.input
            in_browser(edited, _KEEP % (json.dumps(key), initial), widget)

    def on_page_load(self, load: Any) -> None:
        """Fill the tab when the page is opened, by the event `load`."""
        kept = [self.widgets[key] for key in KEPT]
        self._page.on(load, self.recall, [self.kept], kept, js=_RECALL, queue=False)
        samplers = [self.widgets[key] for key in NEUTRAL]
        writes = [self.preset, self.name, self.line, *samplers]
        self._page.on(load, self.open_page, None, writes, alert=self.line, queue=False)

    # -- handlers ---------------------------------------------------------------------------------------------------

    def open_page(self) -> Updates:
        """List the presets, which other pages and programs may have added to, and show the initial values."""
        names = self._app.presets.names()
        picked = self._app.settings.current.preset if self._app.settings.current.preset in names else None
        values = {key: value for key, value in self._initial_values().items() if key in NEUTRAL}
        return {self.preset: gr.update(choices=names, value=picked), self.name: picked or "", **self._show(values)}

    def recall(self, kept: object) -> Updates:
        """Show what the browser has kept, unless it is invalid or settings.yaml has another value since then."""
        entries: Mapping[str, Any] = kept if isinstance(kept, dict) else {}
        initial, shown = self._initial_values(), dict.fromkeys((self.widgets[key] for key in KEPT), gr.skip())
        for key in KEPT:
            entry = entries.get(key)
            if isinstance(entry, dict) and entry.get("initial") == initial[key]:
                with suppress(OptionError):
                    shown[self.widgets[key]] = PARAMETERS[key].parse(entry.get("value"))
        return shown

    def _initial_values(self) -> dict[str, Any]:
        return {key: option.default for key, option in PARAMETERS.items()} | self._app.settings.generation_defaults()

    def pick_preset(self, name: object) -> Updates:
        """Show a preset's values, and start with them the next time."""
        preset = self._app.presets.read(_text(name))
        if self._page.owner:
            self._app.settings.set("preset", _text(name))
        unused = messages.info(self._unused(preset.values, preset.ignored_keys))
        return {self.line: unused, self.name: _text(name), **self._show(preset.values)}

    def _unused(self, values: Mapping[str, object], unknown: Sequence[str]) -> str:
        """Return a sentence about the values of a preset that have no effect; "" if there are none."""
        status, tr = self._app.models.status, self._page.tr
        ready = status.state == "ready"
        unsupported = _unsupported(generation_settings.changed(values), LOADERS[status.loader]) if ready else []
        parts = [
            tr("preset_unsupported").format(loader=status.loader, names=", ".join(unsupported)) if unsupported else "",
            tr("preset_unknown").format(names=", ".join(unknown)) if unknown else "",
        ]
        return " ".join(filter(None, parts))

    def check(self, values: Values) -> Updates:
        """Show which numbers are invalid. A request with one of them is refused."""
        invalid = [error for key, widget in self.widgets.items() if (error := _problem(key, widget, values))]
        return {self.problem: "".join(map(self._invalid, invalid))}

    def _invalid(self, error: OptionError) -> str:
        tr, language = self._page.tr, self._page.language
        expected = tr("enter").format(expected=error.expected[language].removeprefix(" "))
        label = PARAMETERS[error.option].label[language]
        return f'<p class="tx-error" role="alert">{escape(tr("enter_for").format(label=label, text=expected))}</p>'

    def neutralize(self) -> Updates:
        """Set everything that presets contain to values without effect."""
        return {self.preset: None, self.line: "", **self._show(NEUTRAL)}

    def save_preset(self, values: Values) -> Updates:
        """Save the form's values under the name typed, or else that of the preset picked."""
        name = _text(values[self.name]).strip() or _text(values[self.preset])
        backup = self._app.presets.save(name, self._read(values))
        self._app.settings.set("preset", name)
        text = self._page.tr("preset_saved").format(name=name)
        text += self._page.tr("backup").format(file=backup.name) if backup else ""
        menu = gr.update(choices=self._app.presets.names(), value=name)
        return {self.preset: menu, self.line: messages.info(text)}

    def delete_preset(self, name: object) -> Updates:
        """Delete the preset picked; the form keeps its values."""
        self._app.presets.delete(_text(name))
        self._app.settings.set("preset", "")
        menu = gr.update(choices=self._app.presets.names(), value=None)
        name, label = _text(name), escape(self._page.tr("models_undo"))
        undo = f'<button type="button" class="tx-undo" data-undo="{escape(name, quote=True)}">{label}</button>'
        return {self.preset: menu, self.name: "", self.line: self._page.info("preset_deleted", name=name) + undo}

    def restore_preset(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Bring back the preset that was just deleted, and pick it."""
        sent = event._data if isinstance(event._data, dict) else {}
        name = _text(sent.get("name"))
        self._app.presets.restore(name)
        self._app.settings.set("preset", name)
        menu = gr.update(choices=self._app.presets.names(), value=name)
        return {self.preset: menu, self.name: name, self.line: self._page.info("preset_restored", name=name)}

    def _show(self, values: Mapping[str, Any]) -> Updates:
        return {self.widgets[key]: value for key, value in values.items()}

    # -- values -----------------------------------------------------------------------------------------------------

    def _read(self, values: Values) -> dict[str, Any]:
        return {key: value for form in self._forms for key, value in form.read(values).items()}

    def params(self, values: Values, loader: Loader) -> dict[str, Json]:
        """Return the parameters of one answer: those that the page shows, which are those that `loader` supports.

        Raises OptionError for an invalid value, and for a number that was left empty.
        """
        for key, widget in self.widgets.items():
            if values.get(widget, "") is None and isinstance(widget, gr.Number) and not _unsupported([key], loader):
                PARAMETERS[key].parse("")
        read = self._read(values)
        hidden = _unsupported(read, loader)
        return generation_settings.resolve({key: value for key, value in read.items() if key not in hidden})


def _problem(key: str, widget: Component, values: Values) -> OptionError | None:
    """Return what is wrong with the number in a widget, if `values` has it."""
    if widget not in values:
        return None
    try:
        PARAMETERS[key].parse("" if values[widget] is None else values[widget])
    except OptionError as error:
        return error
    return None


def _unsupported(keys: Iterable[str], loader: Loader) -> list[str]:
    return [key for key in keys if key not in loader.samplers | SUPPORTED_BY_ALL]


def _supporting(key: str) -> list[Loader]:
    return [loader for loader in LOADERS.values() if not _unsupported([key], loader)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
