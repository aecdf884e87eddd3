"""The grammar files below the field of the grammar: load, save and delete them."""

from __future__ import annotations

from modules.core.errors import GrammarNotFound
from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Options, Page, Updates, Values
from modules.ui.parameters.form import GRAMMAR, ParameterForm
from modules.ui.parameters.preset_card import UNDO_CLICK, undo_button
from modules.ui.sent_values import mapping, sent_by, text_in
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()


class GrammarRow:
    """`build` creates it inside the current Gradio container; `listen` attaches the handlers.

    `before` holds the grammar that the last one loaded has replaced, for a page of its own.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app

    def build(self) -> None:
        """Create the menu of files, and the buttons to save and delete them."""
        tr, owner = self._page.tr, self._page.owner
        with gr.Row(elem_classes="tx-grammar-row", elem_id="tx-grammar"):
            self.file: Component = gr.Dropdown(
                choices=self._app.grammars.names(),
                value=None,
                label=tr("grammar_file"),
                info=tr("grammar_file_info"),
                elem_id="tx-grammar-file",
            )
            self.name: Component = gr.Textbox(
                label=tr("grammar_name"), info=tr("grammar_name_info"), max_lines=1, elem_id="tx-grammar-name"
            )
        with gr.Row(elem_classes="tx-buttons"):
            self.save_button: Component = gr.Button(
                tr("grammar_save"), size="sm", interactive=owner, elem_id="tx-grammar-save"
            )
            self.delete_button: Component = gr.Button(
                tr("grammar_delete"), size="sm", interactive=owner, elem_id="tx-grammar-delete"
            )
        self.line: Component = gr.HTML("", elem_id="tx-grammar-line", js_on_load=UNDO_CLICK)
        self.before: Component = gr.JSON({}, visible=False)

    def listen(self, form: ParameterForm, preset: Component) -> None:
        """Attach the handlers. `preset` is the menu of presets, which the form's report needs."""
        self._form, self._preset, on = form, preset, self._page.on
        reads = {self.file, self.name, self.before, preset, *form.widgets.values()}
        writes = [self.file, self.name, self.line, self.before, form.bridge, form.widgets[GRAMMAR]]
        at_once: Options = {"alert": self.line, "queue": False, **STALE_MENU}
        owners: Options = {**at_once, "owner_only": True}
        on(self.file.input, self.load_grammar, reads, writes, **at_once)
        on(self.line.undo, self.undo, reads, writes, **at_once)
        on(self.save_button.click, self.save_grammar, reads, writes, **owners)
        on(self.delete_button.click, self.delete_grammar, reads, writes, **owners)

    def load_grammar(self, values: Values) -> Updates:
        """Put the grammar of the file picked into the field."""
        name = text_in(values[self.file])
        if not name:
            return {self.line: ""}
        old, new = text_in(values[self._form.widgets[GRAMMAR]]).strip(), self._app.grammars.read(name)
        said = messages.info(self._page.tr("grammar_replaced").format(name=name)) if old and old != new else ""
        return {
            self.name: name,
            self.line: said + undo_button(self._page, {"kind": "text"}) if said else "",
            self.before: {"grammar": old},
            **self._show(values, new),
        }

    def _show(self, values: Values, grammar: str) -> Updates:
        raw = self._form.raw(values) | {GRAMMAR: grammar}
        return {**self._form.show({GRAMMAR: grammar}), **self._form.report(raw, text_in(values[self._preset]))}

    def save_grammar(self, values: Values) -> Updates:
        """Save the field under the name typed, or else that of the file picked, unless the grammar is invalid."""
        name = text_in(values[self.name]).strip() or text_in(values[self.file])
        existed = name in self._app.grammars.names()
        self._app.grammars.save(name, text_in(values[self._form.widgets[GRAMMAR]]))
        text = self._page.info("grammar_overwritten" if existed else "grammar_saved", name=name)
        return self._menu(name, text + (undo_button(self._page, {"kind": "save", "name": name}) if existed else ""))

    def delete_grammar(self, values: Values) -> Updates:
        """Delete the file picked; the field keeps its text."""
        name = text_in(values[self.file])
        self._app.grammars.delete(name)
        undo = undo_button(self._page, {"kind": "delete", "name": name})
        return self._menu("", self._page.info("grammar_deleted", name=name) + undo)

    def _menu(self, name: str, line: str) -> Updates:
        menu = gr.update(choices=self._app.grammars.names(), value=name or None)
        return {self.file: menu, self.name: name, self.line: line}

    def undo(self, values: Values, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Undo what the button in the line below says."""
        sent = sent_by(event)
        kind, name = sent.get("kind"), text_in(sent.get("name"))
        if kind == "text":
            return {
                self.file: None,
                self.line: "",
                **self._show(values, text_in(mapping(values[self.before]).get("grammar"))),
            }
        self._app.refuse_guests()
        if kind not in ("save", "delete"):
            raise GrammarNotFound(name[:80])
        self._app.grammars.restore(name, overwritten=kind == "save")
        return self._menu(name, self._page.info("grammar_restored", name=name))

    def open(self) -> Updates:
        """List the files, which other pages and programs may have added to."""
        return {self.file: gr.update(choices=self._app.grammars.names()), self.line: ""}
