"""Pick a model: the menu of models, the facts of the one picked, and its saved settings in the form."""

from __future__ import annotations

from modules.catalog.deletion import BinEntry
from modules.core.errors import WebUIError
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model import model_html
from modules.ui.model.model_card import ModelCard
from modules.ui.model.options_card import OptionsCard

gr = gradio()


class ModelPicker:
    """The handlers of the menu of models. `writes` are the components that show the model picked."""

    def __init__(self, page: Page, card: ModelCard, options: OptionsCard) -> None:
        self._page, self._app = page, page.app
        self._card, self._options = card, options
        self.writes = [card.model, card.models.part, card.facts, options.loader, options.notes, *options.state]

    def open_page(self) -> Updates:
        """Show the model in use, else the one of `--model`, else the first complete one."""
        return self._listing() | {self._card.autoload: self._app.settings.current.autoload_model}

    def list_models(self, name: object, successor: object = None, undo: BinEntry | None = None) -> Updates:
        """Update the menu and the list. If the model `name` is gone, pick `successor`, or else another one.

        The list offers for a moment to undo the deletion `undo`.
        """
        return self._listing(name, successor, undo)

    def _listing(self, name: object = None, successor: object = None, undo: BinEntry | None = None) -> Updates:
        records = self._app.selectable_models()
        names = [record.name for record in records]
        listed = {self._card.models.part: self._card.models.value(records, undo)}
        picked = self._app.default_model(name, successor)
        if name and picked == name:  # the value is left out: the user may have picked another model meanwhile
            return {**listed, self._card.model: gr.update(choices=names)}
        return {**listed, **self.show(picked), self._card.model: gr.update(choices=names, value=picked)}

    def pick(self, values: Values) -> Updates:
        """Show the model picked, unless the form already is that model's: then leave the form as it is.

        Gradio reports a pick by mouse twice, and also a menu that was only opened and closed.
        """
        name = values[self._card.model]
        shown, newly_picked = self.show(name), not self._options.is_form_of(name, values)
        updates = shown if newly_picked else {self._card.facts: shown[self._card.facts]}
        return {**updates, self._card.newly_picked: newly_picked}

    def show(self, name: str | None) -> Updates:
        """Show a model's facts and its settings for every loader, so that switching loaders needs no request."""
        try:
            return self._shown(name) if name else self._without_form(self._hint())
        except WebUIError as error:
            return {self._card.facts: self._page.alert(error)}

    def _shown(self, name: str) -> Updates:
        record = self._app.record(name)
        facts = model_html.facts(record, self._page.tr, self._page.owner)
        if record.problem is not None:
            return self._without_form(model_html.NO_OPTIONS + facts + self._page.alert(record.problem))
        saved, problems = self._app.planner.validated_settings(record)
        facts += "".join(map(self._page.alert, problems))
        planner = self._app.planner
        loader, settings = planner.best_loader(record, saved), planner.form_settings(record, saved)
        return {self._card.facts: facts} | self._options.show_model(record, loader, settings)

    def _without_form(self, facts: str) -> Updates:
        return {self._card.facts: facts, self._options.notes: "", self._options.baseline: {}}

    def _hint(self) -> str:
        """Render what to do while no model is picked."""
        if self._app.selectable_models():
            return self._page.info("pick_a_model")
        problem = self._app.catalog.problem
        return self._page.alert(problem) if problem else self._page.info("no_models")
