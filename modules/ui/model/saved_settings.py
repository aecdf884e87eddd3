"""Keep a model's settings: save them, restore the defaults, reset or set single options, and switch autoload."""

from __future__ import annotations

from modules.loaders.load_settings import Setting
from modules.options.load import OPTIONS
from modules.options.option import parse_all
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model.load_form import LoadForm
from modules.ui.model.model_card import ModelCard
from modules.ui.model.options_card import FORM_OPTIONS, OptionsCard
from modules.ui.sent_values import sent_by
from modules.ui.widgets import messages

gr = gradio()


class SavedSettings:
    """The handlers of the buttons that change the form or save it. No handler here loads anything."""

    def __init__(self, page: Page, card: ModelCard, options: OptionsCard, form: LoadForm) -> None:
        self._page, self._app = page, page.app
        self._card, self._options, self._form = card, options, form

    def save_settings(self, values: Values) -> Updates:
        """Save the settings of the chosen loader, and say where."""
        request = self._form.request(values)
        record = request.record
        backup = self._app.planner.save(request)
        text = self._page.tr("saved").format(model=record.name, file=self._app.model_settings.path.name)
        text += self._backup_note(backup.name) if backup else ""
        saved, _ = self._app.planner.validated_settings(record)
        settings = self._app.planner.form_settings(record, saved)
        if request.shown_context:  # keep showing the context length that the memory estimate chose
            settings["n_ctx"] = Setting(request.shown_context, "memory")
        baseline = self._options.baseline_of(record.name, settings)
        return {self._card.status: messages.info(text), self._options.baseline: baseline}

    def restore_defaults(self, values: Values) -> Updates:
        """Fill the form with the values that apply when nothing is saved or typed. Saves nothing."""
        return self._default_values(values[self._card.model])

    def set_option(self, name: object, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Set one option to the value offered at its field, or reset it to its default."""
        sent = sent_by(event)
        key = str(sent.get("key"))
        widget = self._options.widgets.get(key)
        if widget is None:
            return self._options.unchanged()
        if sent.get("value") is not None:
            return {widget: OPTIONS[key].parse(sent["value"])}
        defaults = self._default_values(name)
        fitted = self._options.fitted_n_ctx
        return {widget: defaults[widget]} | ({fitted: defaults[fitted]} if key == "n_ctx" else {})

    def apply_remedy(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Set the options of a remedy that is offered with the memory bars."""
        change = sent_by(event).get("change")
        values = parse_all(FORM_OPTIONS, change if isinstance(change, dict) else {})
        return {self._options.widgets[key]: value for key, value in values.items()} or self._options.unchanged()

    def set_autoload(self, enabled: object) -> Updates:
        """Save whether a model is loaded as soon as it is picked."""
        backup = self._app.settings.set("autoload_model", enabled is True)
        note = messages.info(self._backup_note(backup.name)) if backup else gr.skip()
        return {self._card.status: note, self._card.autoload: gr.skip()}

    def autoload_failed(self, error: Exception) -> Updates:
        """Show the error, and the checkbox as it is saved."""
        return {
            self._card.status: self._page.alert(error),
            self._card.autoload: self._app.settings.current.autoload_model,
        }

    def _default_values(self, name: object) -> Updates:
        return self._options.fill(self._app.planner.form_settings(self._form.record(name), {}))

    def _backup_note(self, file: str) -> str:
        return self._page.tr("backup").format(file=file)
