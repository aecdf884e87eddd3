"""The presets: pick, save, rename, delete, import and export them; whatever replaces something can be undone."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from modules.config.presets import MAX_IMPORTED_BYTES, NEUTRAL
from modules.config.random_preset import random_values
from modules.core.errors import OptionError, PresetNotFound, WebUIError
from modules.loaders import generation_settings
from modules.options.generation import PARAMETERS
from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Options, Page, Updates, Values
from modules.ui.parameters.form import ParameterForm, unsupported
from modules.ui.sent_values import mapping, sent_by, text_in
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()

UNDO_CLICK = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-undo]");
  if (pressed) trigger("undo", JSON.parse(pressed.dataset.undo));
})"""

_CHOOSE_FILE = """() => new Promise((resolve) => {
  const field = Object.assign(document.createElement("input"), { type: "file", accept: ".yaml,.yml" });
  field.addEventListener("cancel", () => resolve([{}]));
  field.addEventListener("change", async () => {
    const file = field.files[0];
    resolve([{ name: file.name, text: file.size > %d ? "" : await file.text(), size: file.size }]);
  });
  field.click();
})"""

_DOWNLOAD = """(file) => {
  if (!file?.name) return;
  const url = URL.createObjectURL(new Blob([file.text], { type: "application/yaml" }));
  Object.assign(document.createElement("a"), { href: url, download: file.name + ".yaml" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}"""


class PresetCard:
    """Created inside the current Gradio container; `listen` attaches the handlers to the parameters' form.

    `before` holds the values that the last pick has replaced. It goes to the browser and back, for a page of its own.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        tr, owner = page.tr, page.owner
        with gr.Column(elem_classes="tx-card", elem_id="tx-preset-card"):
            self.preset: Component = gr.Dropdown(
                choices=self._app.presets.names(),
                value=None,  # Gradio's default is the first choice
                label=tr("preset"),
                info=tr("preset_info"),
                elem_id="tx-preset",
            )
            self.line: Component = gr.HTML("", elem_id="tx-preset-line", js_on_load=UNDO_CLICK)
            with gr.Row(elem_classes="tx-buttons"):
                self.neutral_button = _button(tr("preset_neutral"), "neutral")
                self.random_button = _button(tr("preset_random"), "random")
            self.name: Component = gr.Textbox(
                label=tr("preset_name"), info=tr("preset_name_info"), max_lines=1, elem_id="tx-preset-name"
            )
            with gr.Row(elem_classes=["tx-buttons", "tx-preset-files"]):
                self.save_button = _button(tr("preset_save"), "save", owner)
                self.rename_button = _button(tr("preset_rename"), "rename", owner)
                self.delete_button = _button(tr("preset_delete"), "delete", owner)
                self.import_button = _button(tr("preset_import"), "import", owner)
                self.export_button = _button(tr("preset_export"), "export")
        self.before: Component = gr.JSON({}, visible=False)
        self.sent: Component = gr.JSON({}, visible=False)
        self.exported: Component = gr.JSON({}, visible=False)

    def listen(self, form: ParameterForm) -> None:
        """Attach the handlers."""
        self._form, on = form, self._page.on
        reads = {self.preset, self.name, self.before, *form.widgets.values()}
        samplers = [form.widgets[key] for key in NEUTRAL]
        writes = [self.preset, self.name, self.line, self.before, form.bridge, *samplers]
        at_once: Options = {"alert": self.line, "queue": False, **STALE_MENU}
        owners: Options = {**at_once, "owner_only": True}
        on(form.edits(), self.report, reads, [form.bridge], trigger_mode="always_last", queue=False, **STALE_MENU)
        on(form.bridge.submit, self.reset, reads, writes, **at_once)
        on(self.preset.input, self.pick_preset, reads, writes, **at_once)
        on(self.neutral_button.click, self.neutralize, reads, writes, **at_once)
        on(self.random_button.click, self.draw, reads, writes, **at_once)
        on(self.line.undo, self.undo, reads, writes, **at_once)
        on(self.save_button.click, self.save_preset, reads, writes, **owners)
        on(self.rename_button.click, self.rename_preset, reads, writes, **owners)
        on(self.delete_button.click, self.delete_preset, reads, writes, **owners)
        on(
            self.import_button.click,
            self.import_preset,
            [self.sent],
            [self.preset, self.line],
            js=_CHOOSE_FILE % MAX_IMPORTED_BYTES,
            **owners,
        )
        failed: Options = {"failed": lambda error: {self.line: self._page.alert(error), self.exported: {}}}
        export = on(
            self.export_button.click,
            self.export_preset,
            [self.preset],
            [self.exported, self.line],
            queue=False,
            **failed,
            **STALE_MENU,
        )
        export.then(fn=None, inputs=[self.exported], js=_DOWNLOAD, show_progress="hidden")

    # -- values -----------------------------------------------------------------------------------------------------

    def report(self, values: Values) -> Updates:
        """Mark and keep what the user has changed."""
        return self._form.report(self._form.raw(values), text_in(values[self.preset]))

    def reset(self, values: Values, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Bring one parameter, or all of them, back to the values of the preset picked."""
        sent, name = sent_by(event), text_in(values[self.preset])
        own = self._app.presets.read(name).values
        if sent.get("all") is True:
            return self._replace(values, own, name, self._page.tr("preset_all_back").format(name=name), undo=True)
        key = text_in(sent.get("reset"))
        if key not in own:
            raise OptionError("reset", key[:80], {"en": "a parameter of presets", "zh": "预设中的参数"})
        new = {key: own[key]}
        return {
            self.line: "",
            **self._form.show(new),
            **self._form.report(self._form.raw(values) | new, name),
        }

    def pick_preset(self, values: Values) -> Updates:
        """Show a preset's values, and start with them the next time."""
        name = text_in(values[self.preset])
        if not name:
            return {self.line: "", **self._form.report(self._form.raw(values), "")}
        preset = self._app.presets.read(name)
        previous = text_in(mapping(values[self.before]).get("picked"))
        lost = self._hand_made(values, previous)
        if self._page.owner:
            self._app.settings.set("preset", name)
        text = self._unused(preset.values, preset.ignored_keys)
        if lost:
            text = " ".join(filter(None, (self._page.tr("preset_replaced").format(name=name), text)))
        return self._replace(values, preset.values, name, text, undo=lost)

    def _hand_made(self, values: Values, preset: str) -> bool:
        """Whether the form has sampling parameters that neither a preset nor a button has set."""
        raw, made = self._form.raw(values), [NEUTRAL, self._form.initial_values()]
        if preset:
            try:
                made.append(self._app.presets.read(preset).values)
            except WebUIError:
                return True
        return not any(all(raw.get(key) == own[key] for key in NEUTRAL) for own in made)

    def neutralize(self, values: Values) -> Updates:
        """Set everything that presets contain to values without effect."""
        return self._replace(values, NEUTRAL, "", self._page.tr("preset_neutralized"), undo=True)

    def draw(self, values: Values) -> Updates:
        """Draw sampling parameters at random; all others become neutral."""
        status = self._app.models.status
        supported = status.samplers if status.state == "ready" else NEUTRAL.keys()
        drawn = random_values(supported, random.Random())
        named = [f"{key} {value}" for key, value in drawn.items() if value is not True]
        text = self._page.tr("preset_drawn").format(names=self._page.tr("list_comma").join(named))
        return self._replace(values, {**NEUTRAL, **drawn}, "", text, undo=True)

    def _replace(self, values: Values, new: Mapping[str, Any], preset: str, text: str, undo: bool) -> Updates:
        """Show other values for all sampling parameters, and offer to bring back the present ones."""
        raw = self._form.raw(values)
        old = {key: raw.get(key) for key in NEUTRAL}
        picked = text_in(mapping(values[self.before]).get("picked"))
        return {
            self.preset: preset or None,
            self.name: preset,
            self.line: messages.info(text) + (undo_button(self._page, {"kind": "values"}) if undo else ""),
            self.before: {"picked": preset, "preset": picked, "values": old},
            **self._form.show(new),
            **self._form.report(raw | dict(new), preset),
        }

    def _unused(self, values: Mapping[str, object], unknown: Sequence[str]) -> str:
        """Return a sentence about the values of a preset that have no effect; "" if there are none."""
        status, tr, comma = self._app.models.status, self._page.tr, self._page.tr("list_comma")
        ready = status.state == "ready"
        missing = unsupported(generation_settings.changed(values), status.samplers) if ready else []
        parts = [
            tr("preset_unsupported").format(loader=status.loader, names=comma.join(missing)) if missing else "",
            tr("preset_unknown").format(names=comma.join(unknown)) if unknown else "",
        ]
        return " ".join(filter(None, parts))

    # -- files ------------------------------------------------------------------------------------------------------

    def save_preset(self, values: Values) -> Updates:
        """Save the form's values under the name typed, or else that of the preset picked."""
        name = text_in(values[self.name]).strip() or text_in(values[self.preset])
        existed = name in self._app.presets.names()
        raw = self._form.raw(values)
        parsed = {key: PARAMETERS[key].parse("" if raw[key] is None else raw[key]) for key in NEUTRAL if key in raw}
        backup = self._app.presets.save(name, parsed)
        text = self._page.tr("preset_overwritten" if existed else "preset_saved").format(name=name)
        text += self._page.tr("backup").format(file=backup.name) if backup else ""
        undo = {"kind": "save", "name": name} if existed and not backup else None
        return self._menu(values, name, text, undo)

    def rename_preset(self, values: Values) -> Updates:
        """Give the preset picked the name typed."""
        old, new = text_in(values[self.preset]), text_in(values[self.name]).strip()
        self._app.presets.rename(old, new)
        text = self._page.tr("preset_renamed").format(old=old, new=new)
        return self._menu(values, new, text, {"kind": "rename", "name": new, "old": old})

    def delete_preset(self, values: Values) -> Updates:
        """Delete the preset picked; the form keeps its values."""
        name = text_in(values[self.preset])
        self._app.presets.delete(name)
        text = self._page.tr("preset_deleted").format(name=name)
        return self._menu(values, "", text, {"kind": "delete", "name": name})

    def import_preset(self, sent: object) -> Updates:
        """Add the preset file that the script has read."""
        file = mapping(sent)
        if not file:  # no file was chosen
            return {self.line: gr.skip()}
        text, size = text_in(file.get("text")), file.get("size")
        content = text.encode("utf-8", "replace") if text or not size else bytes(MAX_IMPORTED_BYTES + 1)
        name = self._app.presets.import_file(text_in(file.get("name")), content)
        preset = self._app.presets.read(name)
        said = " ".join(
            filter(
                None,
                (self._page.tr("preset_imported").format(name=name), self._unused(preset.values, preset.ignored_keys)),
            )
        )
        return {self.preset: gr.update(choices=self._app.presets.names()), self.line: messages.info(said)}

    def export_preset(self, name: object) -> Updates:
        """Hand the file of the preset picked to the script, which downloads it."""
        text = self._app.presets.export(text_in(name))
        return {self.exported: {"name": text_in(name), "text": text}, self.line: ""}

    def _menu(self, values: Values, name: str, text: str, undo: Mapping[str, str] | None) -> Updates:
        """Pick a preset after its file has changed. The form keeps its values."""
        self._app.settings.set("preset", name)
        return {
            self.preset: gr.update(choices=self._app.presets.names(), value=name or None),
            self.name: name,
            self.line: messages.info(text) + (undo_button(self._page, undo) if undo else ""),
            self.before: {**mapping(values[self.before]), "picked": name},
            **self._form.report(self._form.raw(values), name),
        }

    # -- undo -------------------------------------------------------------------------------------------------------

    def undo(self, values: Values, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Undo what the button in the line below the presets says."""
        sent = sent_by(event)
        kind, name = sent.get("kind"), text_in(sent.get("name"))
        if kind == "values":
            return self._bring_back(values)
        self._app.refuse_guests()
        if kind == "rename":
            old = text_in(sent.get("old"))
            self._app.presets.rename(name, old)
            name = old
        elif kind in ("save", "delete"):
            self._app.presets.restore(name, overwritten=kind == "save")
        else:
            raise PresetNotFound(name[:80])
        return self._menu(values, name, self._page.tr("preset_restored").format(name=name), None)

    def _bring_back(self, values: Values) -> Updates:
        """Show the values that the last pick has replaced."""
        before = mapping(values[self.before])
        old = mapping(before.get("values"))
        new = {key: PARAMETERS[key].parse(old[key]) for key in NEUTRAL if old.get(key) is not None}
        name = text_in(before.get("preset"))
        name = name if name in self._app.presets.names() else ""
        if self._page.owner and name:
            self._app.settings.set("preset", name)
        return self._replace(values, new, name, self._page.tr("preset_undone"), undo=False)

    def open(self, preset: str) -> Updates:
        """List the presets, which other pages and programs may have added to, and pick one."""
        menu = gr.update(choices=self._app.presets.names(), value=preset or None)
        return {self.preset: menu, self.name: preset, self.line: "", self.before: {"picked": preset}}


def undo_button(page: Page, what: Mapping[str, str]) -> str:
    """Render a button that undoes what has just been done; its event sends `what`."""
    data, label = escape(json.dumps(what), quote=True), escape(page.tr("models_undo"))
    return f'<button type="button" class="tx-undo" data-undo="{data}">{label}</button>'


def _button(label: str, name: str, interactive: bool = True) -> Component:
    return gr.Button(label, size="sm", interactive=interactive, elem_id=f"tx-preset-{name}")
