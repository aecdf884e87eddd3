"""A fold of the Model page: see, change, save and choose the instruction template of the picked model.

It works for models that are not loaded, whose tokens cannot be counted. Templates are rendered in processes with
limits, so that a hostile one costs some seconds of a processor and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePath
from typing import Any

from modules.catalog.record import ModelRecord
from modules.chat import template_preview
from modules.chat.errors import InvalidTemplateFile, TemplateRefused
from modules.chat.template_preview import Sample
from modules.chat.templates import ALPACA, ModelTemplate
from modules.core.errors import NothingPicked, WebUIError
from modules.runtime.loaded_model import LoadedModel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Options, Page, Updates, Values, in_browser
from modules.ui.model import template_html
from modules.ui.model.tab import ModelTab
from modules.ui.sent_values import sent_by, text_in
from modules.ui.widgets.option_form import Component

gr = gradio()

OWN = ""
"""The choice of the template that the model uses if none is chosen for it."""
_NAME_SOURCE = """() => {
  const text = document.querySelector("#tx-template-source .cm-content");
  text?.setAttribute("aria-label", %s);
  text?.setAttribute("tabindex", "0");
}"""
"""Gradio's label is not that of the text for screen readers."""
_ONE_AT_A_TIME: Options = {"trigger_mode": "always_last", "concurrency_id": "template", "concurrency_limit": 1}
"""A preview may take all the time that a template may have; the next one is for the text as it is by then."""


class TemplateEditor:
    """Created below the Model page. Guests of a server with --multi-user neither see it nor can call its handlers."""

    def __init__(self, page: Page, model_tab: ModelTab, negative_prompt: Component) -> None:
        self._page, self._app, self._model = page, page.app, model_tab.card.model
        self._negative_prompt = negative_prompt
        tr = page.tr
        with gr.Accordion(
            tr("template_title"), open=False, elem_id="tx-template", elem_classes="tx-fold", visible=page.owner
        ) as fold:
            self.state: Component = gr.HTML("", elem_id="tx-template-state")
            with gr.Row(elem_classes="tx-row"):
                self.choice: Component = gr.Dropdown(
                    choices=[OWN],
                    value=OWN,
                    label=tr("template_choice"),
                    info=tr("template_choice_info"),
                    elem_id="tx-template-choice",
                )
                self.name: Component = gr.Textbox(
                    label=tr("template_name"), info=tr("template_name_info"), max_lines=1, elem_id="tx-template-name"
                )
            self.source: Component = gr.Code(
                "", language="jinja2", lines=8, max_lines=20, label=tr("template_source"), elem_id="tx-template-source"
            )
            self._build_buttons()
            self.line: Component = gr.HTML("", elem_id="tx-template-line", js_on_load=template_html.UNDO_CLICK)
            self._build_preview()
        # The model whose template is shown; the source as it was before it was changed; None before the first opening.
        self.shown: Component = gr.JSON(None, visible=False)
        self._listen(fold)

    def _build_buttons(self) -> None:
        tr = self._page.tr

        def button(key: str, **settings: Any) -> Component:
            name = key.removeprefix("template_").replace("_", "-")
            return gr.Button(tr(key), size="sm", elem_id=f"tx-template-{name}", **settings)

        with gr.Row(elem_classes="tx-buttons"):
            self.use_button = button("template_use", variant="primary")
            self.own_button = button("template_use_own")
            self.save_button = button("template_save")
            self.delete_button = button("template_delete")
            self.negative_button = button("template_negative")

    def _build_preview(self) -> None:
        tr = self._page.tr
        with gr.Row(elem_classes="tx-template-sample"):
            self.system: Component = gr.Checkbox(True, label=tr("template_system"), elem_id="tx-template-system")
            self.thinking: Component = gr.Checkbox(True, label=tr("template_thinking"), elem_id="tx-template-thinking")
            self.tools: Component = gr.Checkbox(False, label=tr("template_tools"), elem_id="tx-template-tools")
        self.preview: Component = gr.HTML("", elem_id="tx-template-preview")

    def follow_menu(self, model_tab: ModelTab) -> None:
        """Attach the handler of another pick, once all parts of the page that pick models exist."""
        for event in model_tab.menu_events:
            self._on(event.then, self.follow, self._shows)

    def _on(self, event: Any, handler: Any, writes: list[Component], **options: Any) -> None:
        reads = {self._model, self.choice, self.name, self.source, self.shown, self.system, self.thinking, self.tools}
        guarded: Options = {"alert": self.line, "owner_only": True, **STALE_MENU, **_ONE_AT_A_TIME}
        self._page.on(event, handler, reads, writes, **{**guarded, **options})

    def _listen(self, fold: Any) -> None:
        on = self._on
        shows = [self.state, self.choice, self.name, self.source, self.shown, self.line, self.preview]
        self._shows: list[Component] = shows
        on(fold.expand, self.open, shows)
        in_browser(fold.expand, _NAME_SOURCE % json.dumps(self._page.tr("template_source")), self.choice)
        on(self.choice.input, self.pick, shows)
        changed = [widget.input for widget in (self.source, self.system, self.thinking, self.tools)]
        on(changed, self.show_preview, [self.preview], alert=self.preview)
        on(self.use_button.click, self.use, shows)
        on(self.own_button.click, self.use_own, shows)
        on(self.save_button.click, self.save, shows)
        on(self.delete_button.click, self.delete, shows)
        on(self.negative_button.click, self.send_to_negative_prompt, [self._negative_prompt, self.line])
        on(self.line.undo, self.restore, shows)

    # -- showing ------------------------------------------------------------------------------------------------------

    def open(self, values: Values) -> Updates:
        """Show the template that the picked model uses, unless changes to it are not saved yet."""
        record = self._record(values)
        if self._is_edited(values):
            return {self.state: self._state(record), self.line: self._page.info("template_edited")}
        return self._show(record, values)

    def follow(self, values: Values) -> Updates:
        """Show the template of another model as soon as it is picked; nothing as long as the fold was never opened."""
        name = values[self._model]
        if values[self.shown] is None or name == text_in(self._was(values).get("model")):
            return {self.line: gr.skip()}
        return self.open(values) if name else {self.state: "", self.preview: ""}

    def pick(self, values: Values) -> Updates:
        """Show the template of the menu."""
        return self._show(self._record(values), values, self._choice(values))

    def show_preview(self, values: Values) -> Updates:
        """Render the sample conversation by the source as it is now."""
        return {self.preview: self._preview(self._edited_template(values), values)}

    def _show(self, record: ModelRecord, values: Values, choice: str | None = None, line: str = "") -> Updates:
        """Show a template: that of `choice`, or the one that the model uses."""
        chosen = self._app.template_choices.chosen(record.name)
        choice = chosen if choice is None else choice
        problem, source = "", ""
        try:
            source = self._source(record, choice)
        except WebUIError as error:
            problem = self._page.alert(error)
        template = dataclasses.replace(self._own(record), source=source, named={})
        return {
            self.state: self._state(record),
            self.choice: gr.update(choices=self._choices(record, choice), value=choice),
            self.name: choice or f"{PurePath(record.name).stem}",
            self.source: source,
            self.shown: {"model": record.name, "source": source},
            self.line: line or problem,
            self.preview: self._preview(template, values) if source else "",
        }

    def _choices(self, record: ModelRecord, choice: str) -> list[tuple[str, str]]:
        tr, own = self._page.tr, self._app.template_choices.without_choice(self._own(record))
        labels = {"settings": tr("template_settings"), "model": tr("template_own")}
        files = self._app.instruction_templates.files()
        named = [(tr("template_broken").format(name=one.name) if one.problem else one.name, one.name) for one in files]
        missing = choice and all(choice != name for _, name in named)
        gone = [(tr("template_broken").format(name=choice), choice)] if missing else []
        return [(tr("template_built_in") if own.is_ours else labels[own.origin], OWN), *gone, *named]

    def _state(self, record: ModelRecord) -> str:
        try:
            used = self._app.templates.of(record, self._info(record))
            if used.fault is not None:
                return self._page.alert(used.fault)
        except WebUIError as error:
            return self._page.alert(error)
        origin = "built_in" if used.is_ours else used.origin
        return self._page.info(f"template_state_{origin}", model=record.name, name=used.file)

    def _preview(self, template: ModelTemplate, values: Values) -> str:
        page, loaded = self._page, self._loaded(template.model)
        sample = Sample(
            page.language, values[self.system] is True, values[self.thinking] is True, values[self.tools] is True
        )
        try:
            text = template_preview.render_sample(self._app.templates, template, sample)
            tags = template_preview.tags(text, template)
            count = int(loaded.ask("count", text=text)) if loaded else None
            if loaded:
                tags = _single_tokens(loaded, tags)
        except TemplateRefused as error:
            return template_html.refusal(error, template.source, page.tr)
        except WebUIError as error:
            return page.alert(error)
        return template_html.preview(template_preview.split(text, tags), count, page.tr)

    # -- changing -----------------------------------------------------------------------------------------------------

    def use(self, values: Values) -> Updates:
        """Choose the shown template for the picked model; changes to it are saved as a file first."""
        record, choice = self._record(values), self._choice(values)
        template_preview.check(self._app.templates, self._edited_template(values))
        if self._is_changed(record, values):
            choice = self._save(values)
        self._app.template_choices.choose(record.name, choice)
        if not choice:
            return self._show(record, values, line=self._page.info("template_used_own", model=record.name))
        return self._show(record, values, line=self._page.info("template_used", model=record.name, name=choice))

    def use_own(self, values: Values) -> Updates:
        """Go back to the template that the model uses if none is chosen for it."""
        record = self._record(values)
        self._app.template_choices.choose(record.name, OWN)
        return self._show(record, values, line=self._page.info("template_used_own", model=record.name))

    def save(self, values: Values) -> Updates:
        """Save the source as a file, without choosing it."""
        name = self._save(values)
        text = self._page.info("template_saved", file=f"{self._app.instruction_templates.folder.name}/{name}.jinja")
        return self._show(self._record(values), values, name, text)

    def delete(self, values: Values) -> Updates:
        """Move the file of the shown template to the bin, and offer to undo that."""
        record, name = self._record(values), self._choice(values)
        if not name:
            return {self.line: self._page.info("template_nothing_to_delete")}
        models = self._app.template_choices.models(name)
        self._app.instruction_templates.delete(name)
        return self._show(record, values, line=template_html.deleted(name, models, self._page.tr))

    def restore(self, values: Values, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Undo a deletion."""
        name = text_in(sent_by(event).get("name"))
        self._app.instruction_templates.restore(name)
        return self._show(self._record(values), values, name, self._page.info("template_restored", name=name))

    def send_to_negative_prompt(self, values: Values) -> Updates:
        """Write a prompt of this template into the negative prompt of the Parameters page."""
        system = self._app.settings.current.system_message
        text = template_preview.render_input(self._app.templates, self._edited_template(values), system)
        return {self._negative_prompt: text, self.line: self._page.info("template_sent")}

    def _save(self, values: Values) -> str:
        """Save the source under the name in the field, and return the name. Raises OptionError or NameTaken."""
        name = text_in(values[self.name]).strip()
        self._app.instruction_templates.save(name, text_in(values[self.source]), replace=name == self._choice(values))
        return name

    # -- what the browser sends: anything -----------------------------------------------------------------------------

    def _record(self, values: Values) -> ModelRecord:
        """Return the picked model. Raises NothingPicked or ModelNotFound."""
        name = values[self._model]
        if not name or not isinstance(name, str):
            raise NothingPicked()
        return self._app.record(name)

    def _choice(self, values: Values) -> str:
        return text_in(values[self.choice])

    def _was(self, values: Values) -> dict[str, Any]:
        shown = values[self.shown]
        return shown if isinstance(shown, dict) else {}

    def _is_edited(self, values: Values) -> bool:
        """Whether the source was changed since it was shown."""
        return values[self.shown] is not None and text_in(values[self.source]) != text_in(
            self._was(values).get("source")
        )

    def _is_changed(self, record: ModelRecord, values: Values) -> bool:
        """Whether the source is another one than that of the menu's template."""
        try:
            return text_in(values[self.source]) != self._source(record, self._choice(values))
        except InvalidTemplateFile:
            return True

    def _edited_template(self, values: Values) -> ModelTemplate:
        record = self._record(values)
        return dataclasses.replace(self._own(record), source=text_in(values[self.source]) or " ", named={})

    def _source(self, record: ModelRecord, choice: str) -> str:
        """Return the source of a template of the menu. Raises TemplateNotFound or InvalidTemplateFile."""
        if choice:
            return self._app.instruction_templates.read(choice)
        own = self._app.template_choices.without_choice(self._own(record))
        return ALPACA if own.is_ours else own.for_tools(None)

    def _own(self, record: ModelRecord) -> ModelTemplate:
        return self._app.templates.own(record, self._info(record))

    def _loaded(self, name: str) -> LoadedModel | None:
        """Return the model of that name if it is loaded."""
        status = self._app.models.status
        return self._app.models.current if status.state == "ready" and status.name == name else None

    def _info(self, record: ModelRecord) -> Any:
        loaded = self._loaded(record.name)
        return loaded.info if loaded else None


def _single_tokens(model: LoadedModel, tags: list[str]) -> list[str]:
    """Return those of `tags` that are one token each. A BOS token that the tokenizer puts before counts for itself."""
    empty = int(model.ask("count", text=""))
    return [tag for tag in tags if int(model.ask("count", text=tag)) - empty <= 1]
