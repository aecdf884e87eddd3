"""Read the Model page's form as a request to load a model. Nothing that the browser sends is trusted."""

from __future__ import annotations

from modules.app import App
from modules.catalog.record import ModelRecord
from modules.core.errors import NothingPicked
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoadPlan
from modules.ui.handlers import Values
from modules.ui.model.model_card import ModelCard
from modules.ui.model.options_card import OptionsCard


class LoadForm:
    """The components that together describe a load: the menu of models, the loader and all options."""

    def __init__(self, app: App, card: ModelCard, options: OptionsCard) -> None:
        self._app, self._model, self._options = app, card.model, options
        self.components = {card.model, options.loader, *options.state}

    def record(self, name: object) -> ModelRecord:
        """Return the model picked in the menu. Raises NothingPicked or ModelNotFound."""
        if not name or not isinstance(name, str):
            raise NothingPicked()
        return self._app.record(name)

    def request(self, values: Values) -> LoadRequest:
        """Return what the form asks for: the model, the loader and the options that the user has changed.

        What another page has saved since this form was written does not count: what is shown does.
        """
        options, record = self._options, self.record(values[self._model])
        saved, _ = self._app.planner.validated_settings(record)  # the picker reports what is invalid in them
        if not options.is_form_of(record.name, values):  # the browser has not received this model's form yet
            return LoadRequest(record, self._app.planner.best_loader(record, saved).name, saved=saved)
        changed = options.changed_values(values, self._app.planner.unreduced_settings(record, saved))
        fitted = options.fitted_context(values)
        if fitted:
            saved = {key: raw for key, raw in saved.items() if key != "n_ctx"}
        return LoadRequest(record, options.loader_name(values), changed, saved, fitted)

    def plan(self, values: Values) -> LoadPlan:
        """Return the load that the form asks for."""
        return self._app.planner.plan(self.request(values))
